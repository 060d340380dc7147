"""One schedule in every program: `python tests/exports.py` prints the table of docs/exports.md.

The same network, the same x_T; the largest difference from our runtime's picture, relative to its largest pixel.
"""

import contextlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import fake_comfyui
import numpy as np
import pipelines
import torch
from torch import Tensor

from solvers import SolverSchedule, Step, compile, draw, load, sample, save
from solvers.adapters.k_diffusion import sample_fewstep
from solvers.adapters.lists import sigmas_of
from solvers.adapters.scheduler_config import scheduler_config
from solvers.base_process import name_of
from solvers.prediction import to_denoised

FILES = Path(__file__).parent / "files"
PAGE = Path(__file__).parents[1] / "docs" / "schedule-file.md"
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}


def schedules(folder: Path) -> dict[str, Path]:
    """Found and learned files, and one with labels of every step on the trained table of Stable Diffusion and on a flow."""
    made = {
        "labels on a trained table": SolverSchedule(
            pipelines.TABLE, 999.0, (Step(to=700.0, label=990.0), Step(to=300.0, order=2, corrector=2, label=690.0), Step(to=-1.0))
        ),
        "first answer guessed": SolverSchedule(
            pipelines.TABLE,
            999.0,
            (Step(to=900.0, answer="unit-eps"), Step(to=500.0, order=2), Step(to=200.0, order=3, space="eps"), Step(to=-1.0)),
        ),
        "labels on a flow": SolverSchedule(pipelines.FLOW, 1.0, (Step(to=0.7, label=0.95), Step(to=0.3, order=2), Step(to=0.0, label=0.2))),
    }
    for name, recipe in made.items():
        save(compile(recipe), folder / f"{name}.json", recipe=recipe)
    kept = {"found by search": FILES / "found-v1.schedule.json", "learned": FILES / "learned-v1.schedule.json"}
    return kept | {name: folder / f"{name}.json" for name in made}


class Everywhere:
    """One schedule, one network, one x_T, and a method per program."""

    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.path, self.dtype, self.file = path, dtype, load(path)
        self.kind: Any = {"flow": "flow", "ve": "x0"}.get(name_of(self.file.process), "eps")
        self.scale = 1000.0 if self.kind == "flow" else 1.0
        self.unet = pipelines.unconditional(dtype)
        if self.kind == "x0":
            self.unet = pipelines.preconditioned(self.unet)
        self.noise = draw([1], (3, 8, 8), "xT", dtype=dtype)

    def network(self, x: Tensor, t: Any) -> Tensor:
        return self.unet(x, torch.as_tensor(t, dtype=torch.float64)).sample

    def ours(self) -> Tensor:
        def denoiser(x: Tensor, at: Any) -> Tensor:
            return to_denoised(self.kind, self.network(x, at.label * self.scale), x, at.alpha, at.sigma)

        return sample(denoiser, self.noise * float(self.file.tableau.initial_sigma), self.file.tableau)

    def diffusers(self) -> Tensor:
        """A pipeline with our scheduler; it draws x_T itself, so that is replaced."""
        from diffusers import DDPMPipeline, DDPMScheduler

        from solvers.adapters.diffusers import FewstepScheduler

        pipe = DDPMPipeline(self.unet, DDPMScheduler())
        pipe.scheduler = FewstepScheduler.from_config(scheduler_config(self.file, self.kind))
        pipe.set_progress_bar_config(disable=True)
        seen: list[Tensor] = []
        step = pipe.scheduler.step

        def kept(*words: Any, **more: Any) -> Any:
            result = step(*words, **more)
            seen.append(result.prev_sample)
            return result

        start = self.noise * pipe.scheduler.init_noise_sigma
        with (
            mock.patch("diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", return_value=start),
            mock.patch.object(pipe.scheduler, "step", kept),
        ):
            pipe(num_inference_steps=self.file.executable.nfe, output_type="np")
        return seen[-1]

    def numpy(self) -> Tensor:
        """The program of docs/schedule-file.md."""
        program = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "def run" in code)
        scope: dict[str, Any] = {}
        exec(program, scope)

        def denoiser(x: Any, label: float, alpha: float, sigma: float) -> Any:
            f = self.network(torch.from_numpy(x), label * self.scale).numpy()
            return {"x0": f, "eps": (x - sigma * f) / alpha if alpha else f, "flow": (x - sigma * f) / (alpha + sigma)}[self.kind]

        start = (self.noise * float(self.file.tableau.initial_sigma)).numpy()
        return torch.from_numpy(np.asarray(scope["run"](self.path, denoiser, start)))

    def k_diffusion(self) -> Tensor:
        process = self.file.process

        def model(y: Tensor, sigma: Tensor) -> Tensor:
            t = process.time_of_sigma(sigma[0].double())
            alpha, s = process.alpha(t), process.sigma(t)
            x = y if self.kind == "flow" else y * alpha.to(y)
            return to_denoised(self.kind, self.network(x, t * self.scale), x, alpha, s)

        sigmas = torch.tensor(sigmas_of(self.file), dtype=self.dtype)
        return sample_fewstep(model, self.noise * sigmas[0], sigmas, schedule=self.file, prediction=self.kind)

    def comfyui(self) -> Tensor:
        """The contract (tests/fake_comfyui.py)."""
        from solvers.adapters.comfyui import sample_in_comfyui

        sigmas = torch.tensor(sigmas_of(self.file), dtype=self.dtype)
        kind, space = {
            "eps": (fake_comfyui.EPS, fake_comfyui.Discrete(pipelines.TABLE.alphas_cumprod)),
            "flow": (fake_comfyui.CONST, fake_comfyui.ContinuousFlow()),
            "x0": (fake_comfyui.EDM, fake_comfyui.ContinuousEDM(float(sigmas[0]))),
        }[self.kind]
        raw = self.unet.raw if self.kind == "x0" else self.unet.forward
        guider = fake_comfyui.CFGGuider(fake_comfyui.Model(lambda x, t, scale: raw(x, t.double()).sample, kind, space))
        sampler = fake_comfyui.KSAMPLER(sample_in_comfyui, {"schedule": self.file})
        return guider.sample(self.noise, torch.zeros_like(self.noise), sampler, sigmas)


def table(folder: Path) -> list[tuple[str, str, torch.dtype, float]]:
    """(schedule, program, dtype, relative difference), for all."""
    found = []
    for name, path in schedules(folder).items():
        for dtype in BOUNDS:
            where = Everywhere(path, dtype)
            ours = where.ours()
            for program in ("diffusers", "k_diffusion", "comfyui", "numpy"):
                difference = (getattr(where, program)() - ours).abs().max() / ours.abs().max()
                found.append((name, program.replace("_", "-"), dtype, float(difference)))
    return found


def page(rows: list[tuple[str, str, torch.dtype, float]]) -> str:
    """The rows in markdown."""
    lines = ["| schedule | program | float64 | float32 |", "|---|---|---|---|"]
    known = {row[:3]: row[3] for row in rows}
    for name, program in dict.fromkeys(row[:2] for row in rows):
        lines.append(f"| {name} | {program} | {known[name, program, torch.float64]:.1e} | {known[name, program, torch.float32]:.1e} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        text = page(table(Path(folder)))
    print(text)
