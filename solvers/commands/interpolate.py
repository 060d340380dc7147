"""`interpolate FILE --nfe N`: the same schedule for another budget."""

from pathlib import Path

import msgspec
import numpy as np

from ..base_process import name_of
from ..compile import compile
from ..errors import ScheduleError
from ..file import save
from ..records import ScheduleFile
from ..schedule import SolverSchedule, Step


def interpolated(schedule: SolverSchedule, steps: int) -> SolverSchedule:
    """`schedule` with another number of steps.

    log sigma of the states is a function of the step's place in [0, 1]; it is interpolated monotonically (piecewise linear),
    the clean end set apart. Labels keep their distance to the state in lambda; words and numbers are those of the nearest
    step; orders never ask for more evaluations than there are. Raises ScheduleError, also for steps of method "weights".
    """
    if not 1 <= steps <= 1000:
        raise ScheduleError(f"A schedule makes 1 to 1000 steps, not {steps}.")
    if any(step.method == "weights" for step in schedule.steps):
        raise ScheduleError("Coefficients that were learned for one budget mean nothing at another: take the schedule they started from.")
    process, clean = schedule.process, schedule.times[-1] == schedule.process.t_clean
    noisy = schedule.times[:-1] if clean else schedule.times
    count = steps if clean else steps + 1
    if len(noisy) < 2 <= count:
        raise ScheduleError("A schedule with a single noisy state has nothing to interpolate between.")
    depths = [_depth(schedule, t) for t in noisy]
    found = [_time(schedule, float(d)) for d in np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(noisy)), depths)]
    times = [schedule.start, *found[1:], process.t_clean] if clean else [schedule.start, *found[1:-1], schedule.times[-1]]
    return SolverSchedule(process, schedule.start, tuple(_step(schedule, i, steps, times) for i in range(steps)))


def for_nfe(schedule: SolverSchedule, nfe: int) -> SolverSchedule:
    """`schedule` with as many steps as make exactly `nfe` evaluations. Raises ScheduleError if no number does."""
    for steps in range(1, nfe + 2):  # one more where the first answer is guessed
        made = interpolated(schedule, steps)
        if compile(made).nfe == nfe:
            return made
    raise ScheduleError(f"No number of steps like these makes exactly {nfe} evaluations.")


def _step(schedule: SolverSchedule, i: int, steps: int, times: list[float]) -> Step:
    """Step i of the new schedule, like the step of the old one at the same place."""
    old = len(schedule.steps)
    nearest = round(i * (old - 1) / (steps - 1)) if steps > 1 else 0
    model = schedule.steps[nearest]
    order = model.order if model.method == "parallel" else min(model.order, i + 1)  # there it counts evaluations inside the step
    corrector = 0 if i + 1 == steps else min(model.corrector, i + 1)
    label = None
    if model.label is not None:
        shift = _depth(schedule, model.label) - _depth(schedule, schedule.times[nearest])
        label = _time(schedule, _depth(schedule, times[i]) + shift * old / steps)
    answer = schedule.steps[0].answer if i == 0 else "network"
    return msgspec.structs.replace(model, to=times[i + 1], order=order, corrector=corrector, label=label, answer=answer)


def _depth(schedule: SolverSchedule, t: float) -> float:
    """How deep in the noise, where interpolation is natural: log rho, and t itself on flows, whose rho is infinite at the start."""
    return t if name_of(schedule.process) == "flow" else -float(schedule.process.lambda_of(t))


def _time(schedule: SolverSchedule, depth: float) -> float:
    if name_of(schedule.process) == "flow":
        return min(max(depth, 1e-6), 1.0)
    return min(max(float(schedule.process.time_of(-depth)), 0.0), schedule.process.t_max)


def interpolate(file: ScheduleFile, nfe: int, destination: Path) -> list[str]:
    """Write the file for `nfe` evaluations; says how good that is expected to be. Raises ScheduleError."""
    if file.recipe is None:
        raise ScheduleError("Only a file with a recipe can be interpolated: rows say nothing about other budgets.")
    made = for_nfe(file.recipe, nfe)
    source = msgspec.structs.replace(file.provenance, study="", trial=None, test_reads=0, note=f"interpolated from {file.id}")
    new = save(compile(made), destination, recipe=made, fitted_for=file.fitted_for, provenance=source)
    return [f"wrote {destination}: {nfe} evaluations, id {new.id[:16]}", _expectation(file, nfe)]


def _expectation(file: ScheduleFile, nfe: int) -> str:
    """What to expect: with few steps errors fall about as 1/NFE whatever the orders, and what was fitted to a budget is lost."""
    factor = file.executable.nfe / nfe
    score = next((s for s in file.scores if s.metric == "rmse"), None)
    value = "" if score is None else f" (rmse {score.value:.3g}, so about {factor * score.value:.2g})"
    return (
        f"expected, not measured: error about {factor:.2g} times that of {file.executable.nfe} evaluations{value}, as 1/NFE; "
        "near the old budget it can be worse than the old file: search there"
    )
