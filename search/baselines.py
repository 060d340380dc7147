"""The best that is known: every preset on every grid, the grids' own numbers tuned, with at least as many evaluations as the search.

Half of them go to all solvers on a few grids each, the other half to the best kinds of solvers on many grids.
They are scored on `fit` like any trial; the best few again on `select`, and the best there is the baseline of the report.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from search.result import Known
from solvers import DISTINCT, Process, SolverSchedule, named_grid, preset
from solvers.presets import steps_for_nfe
from solvers.process import name_of
from teacher.denoiser import Teacher

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "dpmpp-2m": ({}, {"moment": "exact"}),
    "unipc-2": ({}, {"tail": "full"}, {"moment": "bh1"}),
    "unipc-3": ({}, {"tail": "full"}, {"moment": "bh1"}),
    "ipndm": ({}, {"order": 2}, {"order": 3}),
}
"""Options of presets that people choose between; a preset that is not named has its defaults only."""


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
    solvers = [(name, options) for name in names if steps_for_nfe(name, nfe, clean) for options in VARIANTS.get(name, ({},))]
    each = -(-count // max(1, len(solvers)))
    found = grids(teacher.process, teacher.start, teacher.end, max(6, each + 2))
    return [Known(name, dict(o), grid, g, nfe) for grid, g in found for name, o in solvers]


def finer(teacher: Teacher, scored: Sequence[Known], kinds: int, count: int) -> list[Known]:
    """At least `count` more, unscored: the best `kinds` of solvers with their options, on many grids."""
    best: list[Known] = []
    for item in scored:
        if len(best) < kinds and (item.solver, item.options) not in [(b.solver, b.options) for b in best]:
            best.append(item)
    seen = [(item.solver, item.options, item.grid, item.grid_options) for item in scored]
    each = max(6, -(-count // max(1, len(best))))
    while True:
        found = list(grids(teacher.process, teacher.start, teacher.end, each))
        new = [Known(b.solver, b.options, grid, g, b.nfe) for b in best for grid, g in found if (b.solver, b.options, grid, g) not in seen]
        if len(new) >= count or not best:
            return new
        each += 2


def schedule(known: Known, teacher: Teacher) -> SolverSchedule:
    """What a record stands for."""
    steps = steps_for_nfe(known.solver, known.nfe, teacher.end == teacher.process.t_clean)
    assert steps is not None  # `candidates` makes only such records
    times = named_grid(known.grid, teacher.process, steps, teacher.start, teacher.end, **known.grid_options)
    return preset(known.solver, times, teacher.process, **dict[str, Any](known.options))


def best_per_solver(known: Sequence[Known]) -> list[Known]:
    """The first of each solver, in the given order."""
    first: dict[str, Known] = {}
    for item in known:
        first.setdefault(item.solver, item)
    return list(first.values())
