"""Where to stop on the way from noise to data: N + 1 decreasing points, ends included.

A plain list given to `preset` is times in the process's own t. The three wrappers say explicitly what the numbers are:
`times([...])`, `sigmas([...])` (what users of that process call sigma: rho for VP and VE, t for flow) and
`lambdas([...])`. The named grids below are functions of (process, steps, start, end) and return plain times.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch

from .base_process import name_of
from .errors import ScheduleError
from .process import Process

ROUNDED = 1e-4  # relative in sigma


@dataclass(frozen=True)
class Grid:
    """Numbers and what they are."""

    values: tuple[float, ...]
    unit: Literal["times", "sigmas", "lambdas"] = "times"

    def to_times(self, process: Process) -> list[float]:
        """The same points in the process's own t."""
        values = torch.tensor(self.values, dtype=torch.float64)
        if self.unit == "times":
            return list(self.values)
        sigmas = self.unit == "sigmas"
        found = process.time_of_sigma(values) if sigmas else process.time_of(values)
        for end in (process.t_max, 0.0):  # which lists overshoot that are rounded, in papers and in float32
            beyond = found > end if end else (found < 0) & (found > process.t_clean)
            off = values / process.sigma_of(end) - 1 if sigmas else values - process.lambda_of(end)
            found = torch.where(beyond & (off.abs() < ROUNDED), end, found)
        return [float(t) for t in found]


def times(values: Sequence[float]) -> Grid:
    """Times in the process's own t."""
    return Grid(tuple(map(float, values)), "times")


def sigmas(values: Sequence[float]) -> Grid:
    """Sigmas as the users of the process know them; 0 is a legal end."""
    return Grid(tuple(map(float, values)), "sigmas")


def lambdas(values: Sequence[float]) -> Grid:
    """log(alpha / sigma), increasing; infinity is a legal end."""
    return Grid(tuple(map(float, values)), "lambdas")


def as_times(grid: Grid | Sequence[float], process: Process) -> list[float]:
    """Check a grid and return it as times of `process`: at least two, strictly decreasing, in range."""
    found = grid.to_times(process) if isinstance(grid, Grid) else [float(t) for t in grid]
    if len(found) < 2:
        raise ScheduleError(f"A grid needs at least two points, its start and its end; this one has {len(found)}.")
    for index, t in enumerate(found):
        process.check_time(t, f"grid point {index}: time")
        if index and not t < found[index - 1]:
            raise ScheduleError(f"Grid points must decrease from noise to data, but point {index} ({t:g}) follows {found[index - 1]:g}.")
    return found


def _between(low: float, high: float, steps: int) -> torch.Tensor:
    return torch.linspace(low, high, steps + 1, dtype=torch.float64)


def karras(process: Process, steps: int, start: float, end: float, rho: float = 7.0, sigma_min: float = 0.002) -> list[float]:
    """sigma^(1/rho) uniform; Karras et al. 2022, eq. 5. A clean end comes one step after sigma_min, as there."""
    if end == process.t_clean and steps > 1:
        low = max(sigma_min, float(process.sigma_of(max(end, 0.0))))
        return [*karras(process, steps - 1, start, float(process.time_of_sigma(low)), rho), end]
    high, low = (float(process.sigma_of(t)) for t in (start, end))
    return _pinned(process.time_of_sigma(_between(high ** (1 / rho), low ** (1 / rho), steps) ** rho), start, end)


def log_snr(process: Process, steps: int, start: float, end: float) -> list[float]:
    """Lambda uniform; Lu et al. 2022 (DPM-Solver), section 3.3. The start must have alpha > 0 and the end sigma > 0."""
    low, high = (float(process.lambda_of(t)) for t in (start, end))
    if not math.isfinite(low) or not math.isfinite(high):
        raise ScheduleError("The log-snr grid needs a start with alpha > 0 and an end with sigma > 0.")
    return _pinned(process.time_of(_between(low, high, steps)), start, end)


def uniform(process: Process, steps: int, start: float, end: float) -> list[float]:
    """T uniform."""
    return _pinned(_between(start, end, steps), start, end)


def polynomial(process: Process, steps: int, start: float, end: float, power: float = 2.0) -> list[float]:
    """t^(1/power) uniform; Zhang and Chen 2023 (DEIS), with power 2."""
    shift = min(end, process.t_clean)  # vp-discrete counts down to -1
    if end == process.t_clean < 0 and steps > 1:  # and has nothing between 0 and -1
        return [*polynomial(process, steps - 1, start, 0.0, power), end]
    return _pinned(_between((start - shift) ** (1 / power), (end - shift) ** (1 / power), steps) ** power + shift, start, end)


def _pinned(values: torch.Tensor, start: float, end: float) -> list[float]:
    """The values as floats, with the two ends exactly as asked for."""
    return [start, *map(float, values[1:-1]), end]


NamedGrid = Callable[..., list[float]]
GRIDS: dict[str, NamedGrid] = {"karras": karras, "log-snr": log_snr, "uniform": uniform, "polynomial": polynomial}


def named_grid(name: str, process: Process, steps: int, start: float, end: float, **options: float) -> list[float]:
    """One of the named grids: "karras" (rho), "log-snr", "uniform", "polynomial" (power). Raises ScheduleError."""
    if name not in GRIDS:
        raise ScheduleError(f"There is no grid {name!r}; there are {', '.join(GRIDS)}.")
    if not isinstance(steps, Integral) or steps < 1:  # pyright: ignore[reportUnnecessaryIsInstance] (a setting)
        raise ScheduleError(f"A grid has a whole number of steps, one at least, not {steps}.")
    process.check_time(start, "start")
    process.check_time(end, "end")
    if not end < start:
        raise ScheduleError(f"The start ({start:g}) must be noisier than the end ({end:g}) on process {name_of(process)!r}.")
    for option, number in options.items():
        if not 0 < number < math.inf:
            raise ScheduleError(f"Grid {name!r} needs a positive {option}, not {number:g}.")
    try:
        return GRIDS[name](process, steps, start, end, **options)
    except TypeError as error:
        raise ScheduleError(f"Grid {name!r} does not take these options: {error}.") from None
