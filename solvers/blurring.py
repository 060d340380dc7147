"""Blurring diffusion: x_t = C^T (alpha_t d_k C x_0) + sigma_t eps, which fades the frequencies of a picture one after another.

    d_k = (1 - least) exp(-f_k^2 s^2 / 2) + least        f_k^2 = sum over the axes of (pi k / size)^2
    s = blur sin^2(pi/2 u)                                u: the time, from 0 (data) to 1 (noise)

C is the orthonormal cosine transform of `kinds.py`, alpha and sigma are those of any process.
Hoogeboom and Salimans 2023 (arXiv 2209.05557), section 4 and appendix A, with blur = 20 and least = 0.001.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import ScheduleError
from .kinds import Operator, Spectral
from .process import Process


@dataclass(frozen=True)
class Blurring:
    """A number per frequency, as matrices 1 x 1; R holds the data's own spread `scale` [*shape], if it is given."""

    process: Process
    shape: tuple[int, ...]
    blur: float = 20.0
    least: float = 0.001
    scale: Tensor | float = 0.0

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or not 0 <= self.blur < math.inf or not 0 < self.least <= 1:
            raise ScheduleError("Blurring diffusion needs the sizes of the last axes, blur >= 0 and 0 < least <= 1.")
        if isinstance(self.scale, Tensor) and tuple(self.scale.shape) != self.shape:
            raise ScheduleError(f"The spread of the data has shape {tuple(self.scale.shape)} and not {self.shape}, a number per frequency.")

    def alpha(self, t: Tensor) -> Tensor:
        """alpha d_k at the times [n]: [n, *shape]."""
        share = (t - self.process.t_clean) / (self.process.t_max - self.process.t_clean)
        blur = self._column(self.blur * (math.pi / 2 * share).sin() ** 2)
        kept = (1 - self.least) * (-self._squares() * blur**2 / 2).exp() + self.least
        return self._column(self.process.alpha(t)) * kept

    def mean(self, t: Tensor) -> Tensor:
        """See `gddim.Linear`."""
        return self.alpha(t)[..., None, None]

    def root(self, t: Tensor) -> Tensor:
        """See `gddim.Linear`."""
        return (self.mean(t) ** 2 * self.spread() + self.noise(t) ** 2).sqrt()

    def noise(self, t: Tensor) -> Tensor:
        """See `gddim.Linear`."""
        return self._column(self.process.sigma(t)).expand(-1, *self.shape)[..., None, None]

    def spread(self) -> Tensor:
        """See `gddim.Linear`."""
        return torch.full(self.shape, 1.0, dtype=torch.float64).mul(self.scale)[..., None, None] ** 2

    def operator(self, values: Tensor) -> Operator:
        """See `gddim.Linear`."""
        return Spectral(values[..., 0, 0])

    def start(self, t: float) -> float:
        """See `gddim.Linear`: the data are faded by then."""
        return 1.0

    def _column(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * len(self.shape))

    def _squares(self) -> Tensor:
        axes = [(math.pi * torch.arange(size, dtype=torch.float64) / size) ** 2 for size in self.shape]
        return functools.reduce(lambda whole, axis: whole[..., None] + axis, axes)
