"""What a fit makes small: a cost per seed, how seeds are put together, and the weights that turn it into least squares.

    rmse      mean over seeds of the mean square; reported as its root
    l1        mean absolute error, per pixel
    huber     a seed's root mean square e costs e^2 up to delta and 2 delta e - delta^2 beyond; delta is twice the median at the start
    trimmed   the mean square of all seeds but the worst 3 % (some networks have seeds that bifurcate and carry most of the square)
    trajectory   as rmse, over all states and not the end alone (search.trajectory, whose batches know the teacher's way)
    lpips-alex, lpips-vgg   a sum of squares too, of scaled differences of features: the residual is taken there

Iteratively reweighted least squares (Holland and Welsch 1977): with weights w the gradient of the loss is 2 mean(w r dr).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from search import perceptual
from search.errors import CampaignError
from search.objective import worst_of

DIVERGED = 1e30  # finite, so that it can be written down
SQUARES = ("rmse", "huber", "trimmed")  # functions of a seed's mean square
LOSSES = ("rmse", "l1", "huber", "trimmed", "trajectory", "lpips-alex", "lpips-vgg")
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """One of LOSSES; delta belongs to huber."""

    name: str
    delta: float = math.inf

    def __post_init__(self) -> None:
        if self.name not in LOSSES:
            raise CampaignError(f"There is no objective {self.name!r} to learn by; there are {', '.join(LOSSES)}.")

    @property
    def view(self) -> View:
        """From images to where residuals are taken, [B, ...] -> [B, numbers]; their mean squares are the squared errors."""
        return _features(self.name) if self.name.startswith("lpips") else _pixels

    def costs(self, residual: Tensor) -> Tensor:
        """The cost of each seed, [B] float64, from residuals [B, numbers]."""
        residual = residual.double()
        if self.name == "l1":
            return residual.abs().mean(1)
        square = residual.square().mean(1)
        return (
            torch.where(square <= self.delta**2, square, 2 * self.delta * square.sqrt() - self.delta**2) if self.name == "huber" else square
        )

    def joined(self, costs: Tensor) -> Tensor:
        """The mean of the costs, of the trimmed ones if that is asked."""
        return costs.sort().values[: self._kept(len(costs))].mean()

    def shares(self, costs: Tensor) -> Tensor:
        """What each seed counts in the mean, [seeds]: 1, but nothing where it is trimmed, which those that are left make up for."""
        kept = self._kept(len(costs))
        return torch.zeros_like(costs).index_fill(0, costs.argsort()[:kept], len(costs) / kept)

    def together(self, costs: Tensor) -> float:
        """The loss of all seeds; huge where it diverges."""
        value = float(self.joined(costs))
        return value if math.isfinite(value) else DIVERGED

    def weights(self, residual: Tensor, costs: Tensor, start: int) -> Tensor:
        """Of each number, to be broadcast with residual [B, numbers]; these seeds are costs[start : start + B]."""
        if self.name == "l1":
            return 0.5 / residual.abs().clamp_min(1e-4)
        if self.name == "trimmed":
            return self.shares(costs)[start : start + len(residual), None].to(residual)
        if self.name == "huber":
            return (self.delta / residual.double().square().mean(1).sqrt()).clamp_max(1).to(residual)[:, None]
        return torch.ones_like(residual[:, :1])

    def shown(self, loss: float) -> float:
        """The loss in the units in which it is reported."""
        return loss if self.name in ("l1", "lpips-alex", "lpips-vgg") else math.sqrt(max(loss, 0.0))

    def _kept(self, seeds: int) -> int:
        return seeds - worst_of(seeds) if self.name == "trimmed" else seeds


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1)


@functools.lru_cache(maxsize=2)
def _features(name: str) -> View:
    """Features whose mean squared difference is LPIPS: sqrt(w_lc n / (H W)) f_lhwc / |f_lhw|, n numbers in all."""
    return perceptual.load(name.removeprefix("lpips-")).features  # pyright: ignore[reportArgumentType]
