"""`sample_fewstep`: a schedule with the signature of k-diffusion's samplers, for every program that takes such a function.

A k-diffusion model answers D(y, s) = E[x0 | y] in its own coordinates. For the "ve" ones (Stable Diffusion and everything
else that is not a flow) y = x / alpha and s = sigma / alpha; a "flow" model takes the state itself and its time.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..base_process import name_of
from ..enter import entered
from ..errors import ScheduleError
from ..file import load
from ..prediction import Prediction, from_denoised, to_denoised
from ..process import Process
from ..records import ScheduleFile
from ..sample import sample
from ..tableau import At, Tableau
from .lists import state_times

Model = Callable[..., Tensor]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]


def sample_fewstep(
    model: Model,
    x: Tensor,
    sigmas: Tensor | None,
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    noise_sampler: NoiseSampler | None = None,
    *,
    schedule: ScheduleFile | str | Path,
    prediction: Prediction | None = None,
    set_guidance: Callable[[float], None] | None = None,
) -> Tensor:
    """Sample with `schedule`.

    model          model(x, sigma [batch], **extra_args) -> denoised
    x              as k-diffusion makes it: sigmas[0] times standard normal noise
    sigmas         a schedule has its own (`lists.sigmas_of`): a list of another length is refused, its values are not used
    callback       gets a dict with x, i, sigma, sigma_hat and denoised after every evaluation
    disable        accepted; no progress bar is drawn
    noise_sampler  called as noise_sampler(sigma, next sigma) by stochastic schedules; default: standard normal noise
    schedule       a schedule file, or its path
    prediction     what the network inside `model` predicts; needed where a label differs from its state's time, and by
                   default what the file was fitted for
    set_guidance   called with the guidance scale before every evaluation that has one

    Returns the sample itself (not divided by alpha): every framework returns the same picture. Raises ScheduleError.
    """
    file = schedule if isinstance(schedule, ScheduleFile) else load(schedule)
    state_times(file)  # raises where x cannot have been made from a list
    table, process = entered(file.tableau), file.process
    if sigmas is not None and len(sigmas) != table.nfe + 1:
        raise ScheduleError(f"This schedule makes {table.nfe} evaluations and goes with {table.nfe + 1} sigmas, not {len(sigmas)}.")
    kind = file.predicted(prediction or "")
    done = 0

    def denoiser(state: Tensor, at: At, **knobs: float) -> Tensor:
        nonlocal done
        _set_knobs(knobs, set_guidance)
        place = at if _coupled(process, at) else At(at.label, process.alpha(at.label), process.sigma(at.label))
        told = _sigma(process, place).to(state)
        denoised = model(state / _scale(process, place), told.expand(len(state)), **(extra_args or {}))
        if place is not at:
            denoised = _at_the_state(kind, denoised, state, place, at)
        if callback is not None:
            callback({"x": state, "i": done, "sigma": told, "sigma_hat": told, "denoised": denoised})
        done += 1
        return denoised

    noise = _noises(table, process, noise_sampler or (lambda a, b: torch.randn_like(x)))
    first = table.evals[0].at
    return sample(denoiser, x * (float(table.initial_sigma) / float(_sigma(process, first))), table, noise or None)


def _scale(process: Process, at: At) -> float:
    return 1.0 if name_of(process) == "flow" else float(at.alpha)


def _sigma(process: Process, at: At) -> Tensor:
    return at.sigma / _scale(process, at)


def _coupled(process: Process, at: At) -> bool:
    """Whether the label is the time of the state: both sigmas agree to rounding."""
    return abs(float(process.sigma(at.label) - at.sigma)) <= 1e-9 * float(at.sigma)


def _at_the_state(prediction: str, denoised: Tensor, state: Tensor, place: At, at: At) -> Tensor:
    """D at the state, from the model's D at the label: the network's answer f is recovered there and converted here.

    The model was asked about the same input of the network (state / alpha at the label), so f is exact.
    """
    if not prediction:
        raise ScheduleError("This schedule tells the network other times than the states'; give prediction= (eps, v, x0 or flow).")
    kind = cast(Prediction, prediction)
    return to_denoised(kind, from_denoised(kind, denoised, state, place.alpha, place.sigma), state, at.alpha, at.sigma)


def _set_knobs(knobs: dict[str, float], set_guidance: Callable[[float], None] | None) -> None:
    others = [name for name in knobs if name != "guidance"]
    if others:
        raise ScheduleError(f"A k-diffusion model takes no {', '.join(others)}; this schedule cannot run there.")
    if "guidance" in knobs:
        if set_guidance is None:
            raise ScheduleError("This schedule sets the guidance scale; pass set_guidance=, a function that does so.")
        set_guidance(knobs["guidance"])


def _noises(table: Tableau, process: Process, noise_sampler: NoiseSampler) -> dict[str, Tensor]:
    """Every noise once, drawn between the sigmas of the rows around it."""
    found: dict[str, Tensor] = {}
    before = process.sigma_of(table.rows[0].time)
    for row in table.rows:
        after = process.sigma_of(row.time)
        found |= {slot: noise_sampler(before, after) for slot in row.terms if slot in table.noises and slot not in found}
        before = after
    return found
