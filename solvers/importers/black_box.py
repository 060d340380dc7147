# pyright: basic
"""Samplers that only run: their rows are read by probing.

A diffusers scheduler (by its config) or a k-diffusion function (by the caller's own reference) is fed unit vectors; what it
asks about and returns are the coefficients. See `solvers.probe`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..base_process import name_of
from ..errors import ScheduleError
from ..prediction import DIFFUSERS, from_denoised
from ..probe import probe
from ..process import Process, process
from ..tableau import At, Tableau
from .document import Asked, process_of_config, trained_on

KNOWN = (
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


CLIPPING = ("clip_sample", "thresholding")
FLOW_STEPS = 1000


def from_diffusers(document: Any, asked: Asked) -> tuple[Tableau, Process]:
    """The table of the scheduler that a scheduler_config.json names, with `asked.nfe` for its num_inference_steps."""
    if asked.nfe is None or asked.nfe < 1:
        raise ScheduleError("Say how many steps the scheduler shall make, one or more: --nfe N.")
    scheduler = _scheduler(document)
    scheduler.register_to_config(**dict.fromkeys(CLIPPING, False))  # no row can do that: `left_out` says so
    where = process_of_config(document)
    try:
        return probe_scheduler(scheduler, asked.nfe, where), where
    except ScheduleError:
        raise
    except Exception as error:  # whatever that class says of its config
        raise ScheduleError(f"{document['_class_name']} does not run {asked.nfe} steps with this config: {error}.") from None


def predicted(document: Any) -> str:
    """What the network of a scheduler_config.json answers, in our words."""
    if trained_on(document) == "flow":
        return "flow"
    return DIFFUSERS.get(document.get("prediction_type", "epsilon"), "")


def left_out(document: Any) -> str:
    """A sentence on what the scheduler does that no row can: clipping is no weighted sum. Empty if there is nothing."""
    config = _scheduler(document).config
    on = " and ".join(word for word in CLIPPING if config.get(word))
    return on and f"{on} of that scheduler left out: what is not a weighted sum wraps the denoiser"


def _scheduler(document: Any) -> Any:
    name = document.get("_class_name") if isinstance(document, dict) else None
    if name not in KNOWN:
        raise ScheduleError(f"{name!r} is not among the deterministic schedulers that are probed: {', '.join(KNOWN)}.")
    try:
        import diffusers
    except ImportError:
        raise ScheduleError("Probing a diffusers scheduler needs diffusers: run `pip install diffusers`.") from None
    try:
        return getattr(diffusers, name).from_config(document)
    except Exception as error:  # whatever that class says of its config
        raise ScheduleError(f"{name} cannot be made from this config: {error}.") from None


def probe_scheduler(scheduler: Any, steps: int, where: Process) -> Tableau:
    """The table of a diffusers scheduler object on `where` (vp-discrete or flow). Raises ScheduleError if it cannot be probed.

    Schedulers that scale the network's input keep x / alpha: their rows are read in the coordinates of the network.
    """
    word = "flow_prediction" if name_of(where) == "flow" else scheduler.config.get("prediction_type", "epsilon")
    if word not in DIFFUSERS:
        raise ScheduleError(f"There is no prediction_type {word!r}; there are {', '.join(DIFFUSERS)}.")
    kind, flow = DIFFUSERS[word], name_of(where) == "flow"
    if flow and scheduler.config["num_train_timesteps"] != FLOW_STEPS:
        raise ScheduleError(f"Flow schedulers are read that count {FLOW_STEPS} training steps, as every published one does.")

    def sampler(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        scheduler.set_timesteps(steps)
        scale = getattr(scheduler, "scale_model_input", lambda x, t: x)
        state = x / scale(torch.ones(1, dtype=torch.float64), scheduler.timesteps[0])
        for i, t in enumerate(scheduler.timesteps):
            label = torch.as_tensor(float(t) / (FLOW_STEPS if flow else 1), dtype=torch.float64)
            at = At(label, where.alpha(label), where.sigma(label))
            seen = scale(state, t) if i else x  # x itself, without the rounding of dividing and multiplying
            denoised = denoiser(seen, at)
            answer = denoised if kind == "x0" else from_denoised(kind, denoised, seen, at.alpha, at.sigma)
            state = scheduler.step(answer, t, state).prev_sample
        return state

    table = probe(sampler)
    return replace(table, rows=(*table.rows[:-1], replace(table.rows[-1], time=_end(table, where))))


def _end(table: Tableau, where: Process) -> float:
    """The clean end, or the cleanest trained time where as much of x_T is left as there is noise."""
    left = abs(float(table.dense().a[-1]) * float(table.initial_sigma))
    return where.t_clean if left < float(where.sigma(0.0)) / 2 else 0.0


def probe_k_diffusion(function: Callable[..., Tensor], sigmas: Sequence[float], **options: Any) -> tuple[Tableau, Process]:
    """The table of a k-diffusion sampler that the caller has imported, on ve: `probe_k_diffusion(sampling.sample_heun, sigmas)`."""

    def sampler(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        def model(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            return denoiser(x, sigma[0])

        return function(model, x, torch.tensor(sigmas, dtype=torch.float64), disable=True, **options)

    return probe(sampler), process("ve", sigma_max=float(max(sigmas)))
