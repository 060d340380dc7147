"""The best that is known: every preset on every grid, the grids' own numbers tuned, with at least as many evaluations as the search.

Half of them go to all solvers on a few grids each, the best kinds again with an analytical first step (Dockhorn et al. 2022, GENIE,
section 4: eps = x / |x| where sampling starts, and a step more for the evaluation saved), the other half to the best on many grids.
They are scored on `fit` like any trial; the best few again on `select`, and the best there is the baseline of the report.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from search.records import Known
from solvers import DISTINCT, Process, ScheduleError, SolverSchedule, compile, named_grid, preset
from solvers.base_process import name_of
from solvers.presets import steps_for_nfe
from teacher.denoiser import Teacher

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "dpmpp-2m": ({}, {"moment": "exact"}),
    "unipc-2": ({}, {"tail": "full"}, {"moment": "bh1"}),
    "unipc-3": ({}, {"tail": "full"}, {"moment": "bh1"}),
    "ipndm": ({}, {"order": 2}, {"order": 3}),
}
"""Options of presets that people choose between; a preset that is not named has its defaults only."""
MORE = 8  # times that finer grids are made finer still, until there are enough


def grids(process: Process, start: float, end: float, count: int) -> Iterator[tuple[str, dict[str, float]]]:
    """About `count` grids: the two without numbers, then rho from 1 to 30 and power from 0.5 to 12, evenly in their logarithm."""
    if float(process.alpha(start)) > 0 and end != process.t_clean:
        yield "log-snr", {}
    yield "uniform", {}
    each = max(1, (count - 2) // 2)
    for k in range(each):
        where = k / max(1, each - 1)
        yield "karras", {"rho": round(30.0**where, 4) if each > 1 else 7.0}
        yield "polynomial", {"power": round(0.5 * 24.0**where, 4) if each > 1 else 2.0}


def candidates(teacher: Teacher, nfe: int, count: int) -> list[Known]:
    """At least `count` known solvers of that budget (fewer only if no preset can spend it), unscored: all of them, on few grids."""
    clean = teacher.end == teacher.process.t_clean
    here = name_of(teacher.process)
    names = [name for name, known in DISTINCT.items() if known.noise == "none" and (not known.processes or here in known.processes)]
    solvers = [Known(name, dict(o), "uniform", {}, nfe) for name in names for o in VARIANTS.get(name, ({},))]
    solvers = [s if steps_for_nfe(s.solver, nfe, clean) else msgspec.structs.replace(s, answer="unit-eps") for s in solvers]
    solvers = [s for s in solvers if possible(s, teacher)]  # some spend the budget only without their first answer
    each = -(-count // max(1, len(solvers)))
    found = grids(teacher.process, teacher.start, teacher.end, max(6, each + 2))
    made = [msgspec.structs.replace(s, grid=grid, grid_options=g) for grid, g in found for s in solvers]
    return [s for s in made if possible(s, teacher)]  # coefficients are too large for some on steep grids


def guessed(teacher: Teacher, scored: Sequence[Known], kinds: int) -> list[Known]:
    """The best `kinds` on the grids they were scored on, with an analytical first step where they can do without that answer."""
    best = [how(item) for item in _first_of_each(scored, how)[:kinds]]
    plain = (item for item in scored if item.answer == "network" and how(item) in best)
    found = (msgspec.structs.replace(item, answer="unit-eps", fit=None, select=None) for item in plain)
    return [item for item in found if possible(item, teacher)]


def finer(teacher: Teacher, scored: Sequence[Known], kinds: int, count: int) -> list[Known]:
    """At least `count` more, unscored, if there are so many: the best `kinds` of solvers with their options, on many grids."""
    best = _first_of_each(scored, how)[:kinds]
    seen = [(how(item), item.grid, item.grid_options) for item in scored]
    least, new = max(6, -(-count // max(1, len(best)))), list[Known]()
    for each in range(least, least + 2 * MORE, 2):
        found = list(grids(teacher.process, teacher.start, teacher.end, each))
        new = [
            msgspec.structs.replace(b, grid=grid, grid_options=g, fit=None, select=None)
            for b in best
            for grid, g in found
            if (how(b), grid, g) not in seen
        ]
        new = [item for item in new if possible(item, teacher)]
        if len(new) >= count:
            break
    return new


def how(known: Known) -> tuple[Any, ...]:
    """What a record is aside from its grid."""
    return known.solver, known.options, known.answer


def _first_of_each(known: Sequence[Known], key: Callable[[Known], Any]) -> list[Known]:
    """The first record of each key, in the given order."""
    first: list[Known] = []
    for item in known:
        if key(item) not in map(key, first):
            first.append(item)
    return first


def schedule(known: Known, teacher: Teacher) -> SolverSchedule:
    """What a record stands for. Raises ScheduleError if there is no such schedule, as `possible` says."""
    asks = known.answer == "network"
    steps = steps_for_nfe(known.solver, known.nfe + (not asks), teacher.end == teacher.process.t_clean)
    if steps is None:
        raise ScheduleError(f"Preset {known.solver!r} cannot spend exactly {known.nfe} evaluations.")
    times = named_grid(known.grid, teacher.process, steps, teacher.start, teacher.end, **known.grid_options)
    found = preset(known.solver, times, teacher.process, **dict[str, Any](known.options))
    first = msgspec.structs.replace(found.steps[0], answer=known.answer)
    return found if asks else msgspec.structs.replace(found, steps=(first, *found.steps[1:]))


def possible(known: Known, teacher: Teacher) -> bool:
    """Whether there is such a schedule, of exactly the record's evaluations."""
    try:
        return compile(schedule(known, teacher)).nfe == known.nfe
    except ScheduleError:
        return False


def best_per_kind(known: Sequence[Known]) -> list[Known]:
    """The first of each solver, with its first answer and without, in the given order."""
    return _first_of_each(known, lambda item: item.kind)
