"""The same in a real ComfyUI: set COMFYUI_DIR to a checkout. Its model, patcher, CFGGuider and KSAMPLER run; the weights are random."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import CASES
from torch import Tensor

from solvers import At, SolverSchedule, Step, compile, draw, process, sample, save
from solvers.prediction import Prediction, to_denoised
from teacher.torchvision_repair import repair_torchvision

pytestmark = [
    pytest.mark.skipif(not os.environ.get("COMFYUI_DIR"), reason="COMFYUI_DIR is not set"),
    pytest.mark.filterwarnings("ignore"),
]
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 16,
    "num_heads": 4,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
    "use_checkpoint": False,
    "dtype": torch.float32,
}
WORDS = draw([5, 6], (1, 5, 16), "xT")  # what the text encoder would say of the prompt, and of the empty one
GUIDANCE = 3.0


@pytest.fixture
def comfy(monkeypatch: Any) -> Any:
    """ComfyUI on the CPU."""
    monkeypatch.syspath_prepend(os.environ["COMFYUI_DIR"])
    monkeypatch.setattr(sys, "argv", ["main.py"])
    repair_torchvision()
    from comfy import cli_args

    cli_args.args.cpu = True
    import comfy.model_base
    import comfy.model_patcher
    import comfy.samplers
    import comfy.supported_models

    return comfy


def tiny(comfy: Any, kind: str) -> Any:
    """Stable Diffusion 1.5 with a million random weights."""
    config = comfy.supported_models.SD15(dict(UNET))
    model = comfy.model_base.BaseModel(config, model_type=getattr(comfy.model_base.ModelType, kind))
    for index, weight in enumerate(model.diffusion_model.parameters()):
        fan = weight[0].numel() if weight.ndim > 1 else 100
        weight.data = draw([index], weight.shape, "xT")[0] / fan**0.5 + (weight.ndim == 1)
    return model


@pytest.mark.parametrize(("kind", "word"), [("EPS", "eps"), ("V_PREDICTION", "v"), ("FLOW", "flow")])
def test_a_real_guider_draws_our_picture(kind: str, word: Prediction, comfy: Any, tmp_path: Path):
    from solvers.adapters import comfyui

    flow = kind == "FLOW"
    where = process("flow") if flow else CASES["vp-discrete"].process
    steps = (Step(to=0.7, label=0.9), Step(to=0.3, order=2), Step(to=0.0)) if flow else (Step(to=700.0, label=990.0), Step(to=-1.0))
    recipe = SolverSchedule(where, 1.0 if flow else 999.0, steps)
    save(compile(recipe), tmp_path / "x.schedule.json", recipe=recipe)
    sampler, sigmas, _ = comfyui.load_schedule(tmp_path / "x.schedule.json")
    model, noise = tiny(comfy, kind), draw([1, 2], (4, 8, 8), "xT")

    guider = comfy.samplers.CFGGuider(comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu")))
    guider.set_conds([[WORDS[0], {}]], [[WORDS[1], {}]])
    guider.set_cfg(GUIDANCE)
    theirs = model.process_latent_in(guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=1))

    def denoiser(x: Tensor, at: At) -> Tensor:
        t = (at.label * model.model_sampling.multiplier if flow else at.label).float().expand(len(x))
        wanted, empty = (model.diffusion_model(x, t, context=w.expand(len(x), -1, -1)) for w in WORDS)
        return to_denoised(word, empty + GUIDANCE * (wanted - empty), x, at.alpha, at.sigma)

    table = compile(recipe)
    with torch.no_grad():
        ours = sample(denoiser, noise * float(table.evals[0].sigma), table)
    assert torch.isfinite(ours).all()
    assert (ours - theirs).abs().max() <= 1e-4 * ours.abs().max()  # float32 there
