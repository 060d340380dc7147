"""Moves: a schedule with a step more or less, and a schedule of another process on ours. All of them keep noise levels.

They act on multistep schedules, where every step is one evaluation, unless it takes a guess for the answer.
"""

from collections.abc import Iterator

import msgspec
import torch

from search.gaps import jumps, levels, time_at
from solvers import Process, SolverSchedule, Step

Steps = tuple[Step, ...]


def evaluations(schedule: SolverSchedule) -> int:
    """How often a multistep schedule asks the network."""
    return sum(step.answer == "network" for step in schedule.steps)


def inserted(schedule: SolverSchedule, i: int) -> SolverSchedule:
    """Step i in two, cut in the middle of its lambdas. The second is like the first, and told its own time."""
    levels, step = _levels(schedule), schedule.steps[i]
    middle = _time(schedule.process, (levels[i] + levels[i + 1]) / 2)
    again = msgspec.structs.replace(step, label=None, answer="network")
    return _with(schedule, (*schedule.steps[:i], msgspec.structs.replace(step, to=middle), again, *schedule.steps[i + 1 :]))


def deleted(schedule: SolverSchedule, i: int) -> SolverSchedule:
    """Without step i, which is not the first: the step before it goes where it went."""
    longer = msgspec.structs.replace(schedule.steps[i - 1], to=schedule.steps[i].to)
    return _with(schedule, (*schedule.steps[: i - 1], longer, *schedule.steps[i + 1 :]))


def fitted(schedule: SolverSchedule, nfe: int) -> SolverSchedule:
    """The schedule at another budget: its widest steps cut, or its nodes deleted where that leaves the narrowest step."""
    while (asked := evaluations(schedule)) != nfe:
        levels = _levels(schedule)
        if asked < nfe:
            schedule = inserted(schedule, max(range(len(schedule.steps)), key=lambda i: levels[i + 1] - levels[i]))
        else:
            schedule = deleted(schedule, min(range(1, len(schedule.steps)), key=lambda i: levels[i + 1] - levels[i - 1]))
    return schedule


def neighbours(schedule: SolverSchedule, nfe: int) -> Iterator[SolverSchedule]:
    """The schedule at another budget, once for every place where the first step may be inserted or deleted."""
    more = evaluations(schedule) < nfe
    levels, count = _levels(schedule), len(schedule.steps)
    for i in [i for i in range(count) if levels[i] < levels[i + 1]] if more else range(1, count):
        yield fitted(inserted(schedule, i) if more else deleted(schedule, i), nfe)


def transplanted(schedule: SolverSchedule, process: Process, start: float, end: float) -> SolverSchedule:
    """The schedule on another process between other ends: same lambdas and labels. Nodes outside the ends are left out."""
    if (schedule.process, schedule.start, schedule.times[-1]) == (process, start, end):
        return schedule
    low, high = levels(process, torch.tensor([start, end], dtype=torch.float64)).tolist()
    begins = [float(schedule.process.lambda_of(t)) for t in schedule.times[:-1]]
    first = max((i for i, level in enumerate(begins) if level <= low), default=0)
    kept = [
        (low, schedule.steps[first]),
        *(
            (b, s)
            for b, s in list(zip(begins, schedule.steps, strict=True))[first + 1 :]
            if low < b and (b < high or (b == high and jumps(end)))
        ),
    ]
    times = [*(_time(process, level) for level, _ in kept[1:]), end]

    def told(label: float | None) -> float | None:
        return None if label is None else _time(process, min(max(float(schedule.process.lambda_of(label)), low), high))

    steps = tuple(msgspec.structs.replace(step, to=to, label=told(step.label)) for (_, step), to in zip(kept, times, strict=True))
    return SolverSchedule(process, start, steps)


def _with(schedule: SolverSchedule, steps: Steps) -> SolverSchedule:
    return SolverSchedule(schedule.process, schedule.start, steps)


def _levels(schedule: SolverSchedule) -> list[float]:
    """Lambda at every node, finite."""
    return levels(schedule.process, torch.tensor(schedule.times, dtype=torch.float64)).tolist()


def _time(process: Process, level: float) -> float:
    return float(time_at(process, level))
