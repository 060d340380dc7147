"""A sampler of the field by its name, on a grid or for a budget."""

import difflib
from collections.abc import Sequence
from typing import Any

from .base_process import name_of
from .conventions import ending
from .errors import ScheduleError
from .family import Preset
from .grids import Grid, as_times, named_grid
from .process import Process
from .registry import PRESETS
from .schedule import SolverSchedule


def preset(name: str, grid: Grid | Sequence[float], process: Process, final: str = "", **options: Any) -> SolverSchedule:
    """The schedule of a named sampler on a grid of N + 1 decreasing points (`times`, `sigmas`, `lambdas`, or plain times).

    final "zero", "sigma_min" or "truncate" changes where the grid ends (`conventions.py`); by default it ends as it is.

    Raises ScheduleError for an unknown name, a bad grid or an unknown option.
    """
    known = _known(name, process)
    found = as_times(grid, process)
    if final:
        found = ending(found, process, final)
    try:
        steps = known.steps(found, process, **options)
    except TypeError:
        raise ScheduleError(f"Preset {name!r} does not take the options {', '.join(options)}: {known.source}.") from None
    return SolverSchedule(process, found[0], tuple(steps))


def steps_for_nfe(name: str, nfe: int, clean_end: bool) -> int | None:
    """How many steps of a preset cost exactly `nfe` evaluations; None if no number does."""
    found = (n for n in range(1, nfe + 1) if PRESETS[name].nfe(n, clean_end) == nfe)
    return next(found, None)


def preset_for_nfe(name: str, nfe: int, family: str, process: Process, start: float, end: float, **grid_options: float) -> SolverSchedule:
    """A preset on a named grid (`grids.GRIDS`) with as many steps as `nfe` evaluations pay for. Raises ScheduleError if none do."""
    _known(name, process)
    if nfe < 1 or nfe != int(nfe):
        raise ScheduleError(f"nfe must be a whole number of at least 1, not {nfe}.")
    steps = steps_for_nfe(name, nfe, end == process.t_clean)
    if steps is None:
        near = [n for n in range(1, nfe + 9) if steps_for_nfe(name, n, end == process.t_clean)]
        tried = " or ".join(map(str, sorted(sorted(near, key=lambda n: abs(n - nfe))[:2])))
        raise ScheduleError(f"Preset {name!r} cannot spend exactly {nfe} evaluations; try {tried}.")
    return preset(name, named_grid(family, process, steps, start, end, **grid_options), process)


def _known(name: str, process: Process) -> Preset:
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=6, cutoff=0)
        raise ScheduleError(f"There is no preset {name!r}; of the {len(PRESETS)} there are, the nearest are {', '.join(near)}.")
    if PRESETS[name].processes and name_of(process) not in PRESETS[name].processes:
        raise ScheduleError(f"Preset {name!r} is defined on {', '.join(PRESETS[name].processes)}, not on {name_of(process)!r}.")
    return PRESETS[name]
