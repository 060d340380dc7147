"""DPM-Solver-12 and -23: steps chosen while sampling, by the distance of two orders (Lu et al. 2022, appendix C, algorithm 3).

Every attempt is an ordinary schedule of one step; the two orders share their evaluations, and a rejected attempt keeps the one at its
start. What comes back beside the sample is the schedule of the accepted steps: compiled, it draws the same sample at fixed times.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .compile import compile
from .errors import ScheduleError
from .family import one_of
from .process import Process
from .sample import Denoiser, sample
from .schedule import SolverSchedule, Step
from .tableau import At

LOW: dict[int, dict[str, Any]] = {2: {}, 3: {"method": "midpoint", "moment": "bh2", "numbers": {"c2": 1 / 3}}}
HIGH: dict[int, dict[str, Any]] = {2: {"method": "midpoint", "moment": "bh2"}, 3: {"method": "dpm-3s", "moment": "bh2"}}


@dataclass(frozen=True)
class Tolerance:
    """When a step is accepted and how long the next one is.

    error = root mean square of (low - high) / max(atol, rtol max(|low|, |low before|)); with PID gains p, i, d the width in lambda is
    multiplied by 1 + atan(product of inverse errors - 1), and the step accepted where that is at least `safety`. h is the first width.
    Defaults and control are k-diffusion's sample_dpm_adaptive.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    h: float = 0.05
    p: float = 0.0
    i: float = 1.0
    d: float = 0.0
    safety: float = 0.81
    most: int = 1000

    def factor(self, errors: list[float], order: int) -> float:
        """What the width is multiplied by, from the inverse errors of this attempt and of the two accepted before it."""
        gains = ((self.p + self.i + self.d) / order, -(self.p + 2 * self.d) / order, self.d / order)
        return 1 + math.atan(math.prod(e**gain for e, gain in zip(errors, gains, strict=True)) - 1)


def adaptive(
    denoiser: Denoiser,
    x: Tensor,
    process: Process,
    start: float,
    end: float,
    order: int = 3,
    space: str = "eps",
    tolerance: Tolerance | None = None,
    mu: Tensor | None = None,
    **knobs: Any,
) -> tuple[Tensor, SolverSchedule]:
    """Sample from `start` to `end` (0 < sigma at both, alpha > 0) with order 2 or 3; returns the sample and the accepted steps.

    x [batch, ...] is shared by one error: the whole batch takes the same steps. space is "eps" (DPM-Solver) or "x0" (DPM-Solver++).
    Raises ScheduleError for ends without a finite lambda, or if `tolerance.most` attempts do not reach the end.
    """
    one_of("order of an adaptive solver", order, (2, 3))
    one_of("space of an adaptive solver", space, ("eps", "x0"))
    process.check_time(start, "start")
    process.check_time(end, "end")
    wanted = tolerance or Tolerance()
    here, last = (float(process.lambda_of(t)) for t in (start, end))
    if not -math.inf < here < last < math.inf:
        raise ScheduleError("An adaptive solver steps in lambda: it needs a start with alpha > 0, and a later end with sigma > 0.")
    h, low_before, time = wanted.h, x, start
    inverse: list[float] = []
    steps: list[Step] = []
    known: list[Tensor] = []
    for _ in range(wanted.most):
        final = here + h >= last
        to = end if final else float(process.time_of(here + h))
        high_step, low_step = (Step(to=to, space=space, **words) for words in (HIGH[order], LOW[order]))  # pyright: ignore[reportArgumentType]
        answers: list[Tensor] = known[:1]
        remembered = _remembering(denoiser, answers, **knobs)
        high = sample(remembered, x, compile(SolverSchedule(process, time, (high_step,))), mu=mu)
        low = sample(_remembering(denoiser, answers), x, compile(SolverSchedule(process, time, (low_step,))), mu=mu)
        size = (wanted.rtol * torch.maximum(low.abs(), low_before.abs())).clamp_min(wanted.atol)
        error = float(((low - high) / size).square().mean().sqrt())
        inverse = [1 / (error + 1e-8), *(inverse[1:] or [1 / (error + 1e-8)] * 2)]
        factor = wanted.factor(inverse, order)
        known = answers
        if factor >= wanted.safety:
            x, low_before, here, time, known = high, low, min(here + h, last), to, []
            steps.append(high_step)
            inverse = [inverse[0], *inverse[:2]]
            if final:
                return x, SolverSchedule(process, start, tuple(steps))
        h *= factor
    raise ScheduleError(f"The end was not reached in {wanted.most} attempts: raise the tolerance, or `most`.")


def _remembering(denoiser: Denoiser, answers: list[Tensor], **knobs: Any) -> Callable[[Tensor, At], Tensor]:
    """The denoiser, but the first answers are those already in the list; new ones are added to it."""
    asked = iter(range(len(answers) + 3))

    def answer(x: Tensor, at: At) -> Tensor:
        number = next(asked)
        if number == len(answers):
            answers.append(denoiser(x, at, **knobs))
        return answers[number]

    return answer
