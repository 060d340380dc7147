"""Draw what pre-training left: `python -m teacher.sheet` writes loss.png and samples.png beside the weights."""

import json
from pathlib import Path

import torch
from matplotlib.figure import Figure

from solvers import initial, sample
from teacher.models import digits
from teacher.pretrain import HOME
from teacher.trajectories import reference


def draw_loss(home: Path) -> None:
    """The training curve of recipe.json."""
    rows = json.loads((home / "recipe.json").read_bytes())["curve"]["rows"]
    steps, training, held_out = zip(*rows, strict=True)
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, training, lw=0.8, color="#9aa5b1", label="training batch")
    axes.plot(steps, held_out, lw=2, color="#0b6e99", label="held out, averaged weights")
    axes.set(xlabel="step", ylabel="EDM loss", ylim=(0.1, 0.35))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(home / "loss.png", dpi=120)


def draw_samples(home: Path, rows: int = 8) -> None:
    """One column a class, converged, without guidance."""
    teacher = digits(home / "weights.safetensors")
    table = reference(teacher, 40)
    noise = initial(range(10 * rows), teacher.shape, table)
    with torch.no_grad():
        images = sample(teacher.denoiser, noise, table, cond=torch.arange(10 * rows) % 10)
    sheet = images.reshape(rows, 10, 32, 32).permute(0, 2, 1, 3).reshape(32 * rows, 320)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    axes.imshow(sheet.clamp(-1, 1), cmap="gray")
    figure.savefig(home / "samples.png", dpi=140)


if __name__ == "__main__":
    draw_loss(HOME)
    draw_samples(HOME)
