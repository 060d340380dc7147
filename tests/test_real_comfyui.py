"""The same against a real ComfyUI: set COMFYUI_DIR to a checkout. Its KSAMPLER and its model_sampling run; the network is ours."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import CASES
from torch import Tensor

from solvers import SolverSchedule, Step, compile, draw, process, sample, save
from solvers.prediction import to_denoised

pytestmark = [
    pytest.mark.skipif(not os.environ.get("COMFYUI_DIR"), reason="COMFYUI_DIR is not set"),
    pytest.mark.filterwarnings("ignore"),
]


class Guider:
    """As much of a CFGGuider as KSAMPLER uses, around a real model_sampling."""

    def __init__(self, space: Any, network: Any) -> None:
        self.inner_model, self.network, self.cfg = type("Inner", (), {"model_sampling": space})(), network, 1.0

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        space = self.inner_model.model_sampling
        t = space.timestep(sigma).float()
        return space.calculate_denoised(sigma, self.network(space.calculate_input(sigma, x), t.view(-1, 1, 1, 1)), x)


@pytest.mark.parametrize(("kind", "word"), [("EPS", "eps"), ("V_PREDICTION", "v"), ("CONST", "flow")])
def test_a_real_ksampler_draws_our_picture(kind: str, word: Any, tmp_path: Path, monkeypatch: Any):
    monkeypatch.syspath_prepend(os.environ["COMFYUI_DIR"])
    monkeypatch.setattr(sys, "argv", ["main.py"])
    from comfy import cli_args

    cli_args.args.cpu = True
    from comfy import model_sampling

    from solvers.adapters import comfyui

    flow = kind == "CONST"
    base = model_sampling.ModelSamplingDiscreteFlow if flow else model_sampling.ModelSamplingDiscrete
    space = type("Space", (base, getattr(model_sampling, kind)), {})()
    where = process("flow") if flow else CASES["vp-discrete"].process
    steps = (Step(to=0.7, label=0.9), Step(to=0.3, order=2), Step(to=0.0)) if flow else (Step(to=700.0, label=990.0), Step(to=-1.0))
    recipe = SolverSchedule(where, 1.0 if flow else 999.0, steps)
    save(compile(recipe), tmp_path / "x.schedule.json", recipe=recipe)
    sampler, sigmas, _ = comfyui.load_schedule(tmp_path / "x.schedule.json")

    def network(x: Tensor, t: Tensor) -> Tensor:
        return (x * (1 + t / 700)).sin()

    noise = draw([1, 2], (4, 8, 8), "xT")
    theirs = sampler.sample(Guider(space, network), sigmas, {"model_options": {}, "seed": 1}, None, noise, torch.zeros_like(noise))
    ours = sample(
        lambda x, at: to_denoised(word, network(x, (at.label * (1000 if flow else 1)).to(x)), x, at.alpha, at.sigma),
        noise * float(compile(recipe).evals[0].sigma),
        compile(recipe),
    )
    assert (ours - theirs).abs().max() <= 1e-4 * ours.abs().max()  # float32 tables there
