"""From a table back to steps: those of method "weights", which carry its coefficients (`weights.py`)."""

import itertools

import torch

from .compile import compile
from .errors import ScheduleError
from .process import Process
from .schedule import SolverSchedule, Step
from .tableau import Dense, Tableau, number
from .weights import MOST


def weighted(table: Tableau, process: Process) -> SolverSchedule:
    """The schedule of weights steps, one for each state that is evaluated, that samples as the table does within 1e-10.

    Raises ScheduleError where there is none: noise, operators, two evaluations at one noise level, more of them than a step can weigh,
    or a state that is not what the process has at its time.
    """
    if table.layout or table.noises:
        what = f"coefficients of kind {table.layout.kind!r}" if table.layout else "noise"
        raise ScheduleError(f"These rows have {what}, which steps of method weights do not.")
    guessed = table.rows[0].evaluation is None  # then the first state that is evaluated is the end of a first step
    shown = (0, *table.visible) if guessed else table.visible
    times, dense = [number(table.rows[i].time) for i in shown], table.dense().at(shown)
    if any(t == s for s, t in itertools.pairwise(times)):
        raise ScheduleError("These rows ask the network twice at one noise level, and steps of method weights ask once.")
    if len(times) - 1 > MOST:
        raise ScheduleError(f"These rows make {len(times) - 1} steps; those of method weights weigh {MOST} answers at most.")
    asked = [None, *table.evals] if guessed else table.evals
    steps = [
        Step(
            to=times[n + 1],
            method="weights",
            answer="network" if e else "zero-x0",
            label=None if e is None or e.label == times[n] else number(e.label),
            knobs=dict(e.knobs) if e else {},
            numbers=_numbers(process, times, dense, n, guessed),
        )
        for n, e in enumerate(asked)
    ]
    found = SolverSchedule(process, times[0], tuple(steps))
    made = compile(found)
    pairs = [(torch.stack(e.at), torch.stack(f.at)) for e, f in zip(made.evals, table.evals, strict=True)]
    asked_apart = max((float(((one - other).abs() / other.abs().clamp_min(1)).max()) for one, other in pairs), default=0.0)
    if not asked_apart <= 1e-10:
        raise ScheduleError(f"These rows ask at other alphas and sigmas than their process has at their times, by {asked_apart:.3g}.")
    apart = made.apart(table)
    if not apart <= 1e-10:
        raise ScheduleError(f"Steps of method weights cannot sample as these rows do: coefficients differ by {apart:.3g}.")
    return found


def _numbers(process: Process, times: list[float], dense: Dense, n: int, guessed: bool) -> dict[str, float]:
    """Of step n: what its row adds to the state before, relative to the first-order step."""
    (s, t), (a, b) = times[n : n + 2], map(float, dense.a[n : n + 2])
    keep = float(process.sigma(t)) / float(process.sigma(s))
    gain = float(process.alpha(t)) - keep * float(process.alpha(s))
    state = b / (keep * a) if keep * a else 1.0
    added = ((dense.B[n + 1] - dense.B[n] * (state * keep)) / gain)[: n + 1 - guessed]  # by the answers there are
    by_age = enumerate(float(weight) for weight in added.flip(0))
    return {"state": state} | {f"weight{age}": weight for age, weight in by_age if not age or abs(weight) > 1e-14}  # less is rounding
