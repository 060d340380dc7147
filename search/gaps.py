"""Between free numbers and times: where a schedule stops on its way, and the time it tells the network there.

Times by stick breaking in lambda: with r_i in (0, 1),
    lambda_i = lambda_{i-1} + r_i (lambda_N - lambda_{i-1}),    so any values decode to decreasing times.
Among the points of a grid every time goes to the nearest one that is left, and leaves enough for those that follow.
Labels by bounded shifts: the label of an evaluation lies |shift| of the gap towards the next (+) or the last (-) node.
Where an end of the process is infinite in lambda, +-8 stands for it. For a clean end that lies apart from the last noise, as that of a
trained table does, that noise stands, and the last time may be there: r_{N-1} counts REACH times, up to 1.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers import Process, ScheduleError, named_grid

LIMIT = 8.0
TINY = 1e-30
CLOSEST, APART = 1e-6, 1e-2  # of the way, that is left between two times and before the end; where that is jumped to
REACH = 1.1


def jumps(end: float) -> bool:
    """Whether this end lies apart from the last noise, as the clean one of a trained table does: no time is between the two."""
    return end < 0


def levels(process: Process, times: Tensor) -> Tensor:
    """Lambda of each, finite; a time past the noise has none, and stands for the noise."""
    most = float(process.lambda_of(0.0)) if process.t_clean < 0 else LIMIT
    return process.lambda_of(times).clamp(-LIMIT, most).nan_to_num(-LIMIT)


def time_at(process: Process, level: Tensor | float) -> Tensor:
    """The noisy time of a level; the last one for levels beyond it."""
    return process.time_of(level).clamp(0.0, process.t_max)


def lambda_at(alpha: Tensor, sigma: Tensor) -> Tensor:
    """Lambda where these are, finite."""
    return (alpha.clamp_min(TINY).log() - sigma.clamp_min(TINY).log()).clamp(-LIMIT, LIMIT)


@dataclass(frozen=True)
class Gaps:
    """The way from start to end. among: {"grid": a named grid, "steps": how many, its options} to choose times from; empty: all times."""

    process: Process
    start: float
    end: float
    among: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @functools.cached_property
    def places(self) -> list[float]:
        """The points between the ends that times are chosen from. Raises ScheduleError."""
        told = dict(self.among)
        try:
            return named_grid(told.pop("grid"), self.process, told.pop("steps"), self.start, self.end, **told)[1:-1]
        except KeyError as error:
            raise ScheduleError(f"Times are chosen among the points of a grid with its steps; {error} is missing.") from None

    def lambdas(self, times: Sequence[float]) -> list[float]:
        """Lambda of each, finite."""
        return levels(self.process, torch.tensor(times, dtype=torch.float64)).tolist()

    def times(self, fractions: Sequence[float]) -> list[float]:
        """The times of r_1 ... r_{N-1}, with both ends."""
        here, last = self.lambdas([self.start, self.end])
        found: list[float] = []
        if self.among:
            lambdas, first = np.array(self.lambdas(self.places)), 0
            for left, fraction in zip(range(len(fractions), 0, -1), fractions, strict=True):
                left_over = lambdas[first : len(lambdas) - left + 1]
                first += int(abs(left_over - here - fraction * (last - here)).argmin()) + 1
                here = lambdas[first - 1]
                found.append(self.places[first - 1])
        else:
            least = (APART if jumps(self.end) else CLOSEST) * (last - here)
            for left, fraction in zip(range(len(fractions), 0, -1), fractions, strict=True):
                reach, most = (REACH, last) if left == 1 and jumps(self.end) else (1.0, last - left * least)
                here = min(here + reach * fraction * (last - here), most)
                found.append(here)
            found = time_at(self.process, torch.tensor(found, dtype=torch.float64)).tolist()
        return [self.start, *found, self.end]

    def fractions(self, times: Sequence[float]) -> list[float]:
        """The r_1 ... r_{N-1} of times."""
        lambdas = self.lambdas(times)
        found = [(here - before) / max(lambdas[-1] - before, TINY) for before, here in itertools.pairwise(lambdas[:-1])]
        return [*found[:-1], *(last / REACH for last in found[-1:])] if jumps(self.end) and not self.among else found

    def label(self, shift: float, near: Sequence[float]) -> float | None:
        """The label of a shift, given lambda of the node before, of the node and of the next; none where nothing is shifted."""
        before, here, after = near
        return float(time_at(self.process, here + shift * (after - here if shift > 0 else here - before))) if shift else None

    def shift(self, label: float | None, near: Sequence[float]) -> float:
        """The inverse of `label`."""
        before, here, after = near
        distance = 0.0 if label is None else self.lambdas([label])[0] - here
        return distance / max(after - here if distance > 0 else here - before, TINY)
