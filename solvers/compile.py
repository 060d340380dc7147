"""From a schedule to its rows: compile owns history, start-up and limits; a method gives the rows of one step.

    times  ->  nodes  ->  for every step: METHODS[step.method].rows(builder, i)  ->  rows  ->  Tableau

The methods come from the families in `registry.py` (CONTRIBUTING.md shows how to add one).
"""

from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor

from .anchor import anchored
from .build import Builder
from .errors import ScheduleError
from .registry import METHODS
from .schedule import SolverSchedule, Step
from .tableau import Tableau, living


def compile(
    schedule: SolverSchedule,
    times: Tensor | None = None,
    labels: Tensor | None = None,
    numbers: Mapping[str, Tensor] | None = None,
) -> Tableau:
    """The table of `schedule`, float64.

    By itself its coefficients are floats. With `times` [..., N + 1], `labels` [..., N] (the time told to the network at the
    start of each step) or `numbers` (by name, [..., N]: what replaces Step.numbers, such as the ratios of dc-solver) they are
    tensors of shape [...], differentiable in all three: the schedule then gives the words and the given tensors the numbers;
    times must keep its ends. Raises ScheduleError.
    """
    own = torch.tensor(schedule.times, dtype=torch.float64)
    if times is not None and times.shape[-1] != len(own):
        raise ScheduleError(f"This schedule has {len(own)} times, but {times.shape[-1]} were given.")
    if labels is not None and labels.shape[-1] != len(schedule.steps):
        raise ScheduleError(f"This schedule has {len(schedule.steps)} labels, but {labels.shape[-1]} were given.")
    given = {name: value.double() for name, value in (numbers or {}).items()}
    for name, value in given.items():
        if value.shape[-1] != len(schedule.steps) or not any(
            name in METHODS[s.method].numbers for s in schedule.steps if s.method in METHODS
        ):
            raise ScheduleError(f"Numbers {name!r} must be known to a method of this schedule, and be {len(schedule.steps)}: one a step.")
    steps: list[Step] = []
    for index, step in enumerate(schedule.steps):
        if step.method not in METHODS:
            raise ScheduleError(f"Step {index} wants method {step.method!r}; there are {', '.join(METHODS)}.")
        strange = set(step.numbers) - set(METHODS[step.method].numbers)
        if strange:
            raise ScheduleError(f"Step {index}: method {step.method!r} has no number {', '.join(sorted(strange))}.")
        if step.eta and step.noise not in METHODS[step.method].noises:
            raise ScheduleError(f"Step {index}: method {step.method!r} cannot inject noise of kind {step.noise!r}.")
        defaults = METHODS[step.method].numbers
        steps.append(msgspec.structs.replace(step, numbers={**defaults, **step.numbers}) if defaults else step)
    schedule = SolverSchedule(schedule.process, schedule.start, tuple(steps))
    builder = Builder(schedule, own if times is None else times.double(), labels, given)
    for index, step in enumerate(steps):
        METHODS[step.method].rows(builder, index)
    unread = sorted(given.keys() - builder.read)
    if unread:
        raise ScheduleError(f"No step of this schedule can be given {', '.join(unread)} from outside: its methods read the step's own.")
    rows = living(builder.rows)
    if schedule.process.anchored:
        rows = anchored(rows, builder.states)
    if times is None and labels is None and not given:
        rows = [row.settled() for row in rows]
    return Tableau(tuple(rows), sigma=None if rows[0].evaluation else float(schedule.process.sigma(schedule.start)))
