"""What "close to the teacher" means.

A measure maps two batches of images to one error per sample; an objective also says how samples are put together:

    rmse         root of the mean over samples of the mean squared error, in network units
    seed-rmse    mean over samples of each one's RMSE: what a few samples do, that fall to another side, weighs less
    l1           mean absolute error
    lpips-alex   mean LPIPS on AlexNet features (search.perceptual)
    lpips-vgg    mean LPIPS on VGG16 features
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from search import perceptual
from search.errors import CampaignError

Measure = Callable[[Tensor, Tensor], Tensor]


def squared(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error per sample. Shapes: [B, ...], [B, ...] -> [B], float64."""
    return (found - wanted).double().square().flatten(1).mean(1)


def absolute(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error per sample."""
    return (found - wanted).double().abs().flatten(1).mean(1)


def mean(errors: Tensor) -> Tensor:
    """Mean over the last axis (samples)."""
    return errors.mean(-1)


def root_mean(errors: Tensor) -> Tensor:
    """Root of the mean over the last axis (samples)."""
    return errors.mean(-1).sqrt()


def mean_root(errors: Tensor) -> Tensor:
    """Mean over the last axis (samples) of the root."""
    return errors.sqrt().mean(-1)


def root_median(errors: Tensor) -> Tensor:
    """Root of the median over the last axis: what half of the samples stay below."""
    return errors.median(-1).values.sqrt()


def root_trimmed(errors: Tensor, trimmed: float = 0.03) -> Tensor:
    """Root of the mean over the last axis without the worst 3 %: a few bifurcating seeds can carry most of a mean square."""
    count = errors.shape[-1]
    return errors.sort(-1).values[..., : count - int(trimmed * count)].mean(-1).sqrt()


def share_of_worst(errors: Tensor, worst: float = 0.03) -> Tensor:
    """The share of the sum over the last axis that the worst 3 % of samples hold."""
    count = max(1, round(worst * errors.shape[-1]))
    return errors.sort(-1).values[..., -count:].sum(-1) / errors.sum(-1)


@dataclass(frozen=True)
class Objective:
    """A measure per sample and how samples are put together. Lower is better."""

    name: str
    measure: Measure
    together: Callable[[Tensor], Tensor]


@functools.lru_cache(maxsize=4)
def objective(name: str) -> Objective:
    """The objective of that name. Raises CampaignError, or PerceptualError where LPIPS has no weights."""
    if name == "rmse":
        return Objective(name, squared, root_mean)
    if name == "seed-rmse":
        return Objective(name, squared, mean_root)
    if name == "l1":
        return Objective(name, absolute, mean)
    if name in ("lpips-alex", "lpips-vgg"):
        return Objective(name, perceptual.load(name.removeprefix("lpips-")), mean)  # pyright: ignore[reportArgumentType]
    raise CampaignError(f"There is no objective {name!r}; there are rmse, seed-rmse, l1, lpips-alex and lpips-vgg.")
