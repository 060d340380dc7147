"""What "close to the teacher" means.

A measure maps two batches of images to a record per sample; an objective also says how samples are put together.

Of seeds, where a record is an error, of a sample against the teacher's own of the same seed:
    rmse         root of the mean over samples of the mean squared error, in network units
    seed-rmse    mean over samples of each one's RMSE: what a few samples do, that fall to another side, weighs less
    l1           mean absolute error
    lpips-alex   mean LPIPS on AlexNet features (search.perceptual)
    lpips-vgg    mean LPIPS on VGG16 features
Several with a plus, such as rmse+lpips-alex, are the mean over samples of the geometric mean of each one's errors (its RMSE, its
LPIPS), so none needs a weight.

Of sets, where a record holds the features of both, and which belongs to which seed is not asked (search.sets):
    frechet-pixels, frechet-alex, frechet-vgg   squared Frechet distance
    mmd-pixels, mmd-alex, mmd-vgg               squared maximum mean discrepancy
Only these can judge samplers that inject noise, which do not follow the teacher's trajectories. A set has no errors that could be
paired, so nothing is raced on them: every candidate gets every seed.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from search import perceptual, sets
from search.errors import CampaignError

Measure = Callable[[Tensor, Tensor], Tensor]


def squared(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error per sample. Shapes: [B, ...], [B, ...] -> [B], float64."""
    return (found - wanted).double().square().flatten(1).mean(1)


def absolute(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error per sample."""
    return (found - wanted).double().abs().flatten(1).mean(1)


def _geometric(measures: Sequence[Measure]) -> Measure:
    """The geometric mean of several errors, sample by sample."""

    def measure(found: Tensor, wanted: Tensor) -> Tensor:
        return torch.stack([each(found, wanted).double() for each in measures]).log().mean(0).exp()

    return measure


def _rooted(found: Tensor, wanted: Tensor) -> Tensor:
    """Each sample's RMSE."""
    return squared(found, wanted).sqrt()


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


def worst_of(count: int) -> int:
    """How many samples are the worst 3 %: a few bifurcating seeds can carry most of a mean square."""
    return int(0.03 * count)


def root_trimmed(errors: Tensor) -> Tensor:
    """Root of the mean over the last axis without the worst 3 %."""
    count = errors.shape[-1]
    return errors.sort(-1).values[..., : count - worst_of(count)].mean(-1).sqrt()


def share_of_worst(errors: Tensor) -> Tensor:
    """The share of the sum over the last axis that the worst 3 % of samples hold."""
    count = errors.shape[-1]
    return errors.sort(-1).values[..., count - worst_of(count) :].sum(-1) / errors.sum(-1)


@dataclass(frozen=True)
class Objective:
    """A measure per sample and how samples are put together. Lower is better.

    measure    pictures and the teacher's [B, ...] -> records [B] of kind "seeds", [B, 2, d] of kind "sets"
    together   records [..., B] or [..., B, 2, d] -> [...]
    """

    name: str
    measure: Measure
    together: Callable[[Tensor], Tensor]
    kind: Literal["seeds", "sets"] = "seeds"


SETS = {"frechet": sets.frechet, "mmd": sets.mmd}
NETWORKS = ("alex", "vgg")
NAMES = ("rmse", "seed-rmse", "l1", *(f"lpips-{n}" for n in NETWORKS), *(f"{kind}-{n}" for kind in SETS for n in ("pixels", *NETWORKS)))


def looks(name: str) -> bool:
    """Whether a classifier looks, at pictures and at nothing else."""
    return any(part.endswith(NETWORKS) for part in name.split("+"))


@functools.lru_cache(maxsize=8)
def objective(name: str) -> Objective:
    """The objective of that name. Raises CampaignError, or PerceptualError where LPIPS has no weights."""
    if "+" in name:
        parts = [objective(part) for part in name.split("+")]
        if any(part.kind == "sets" for part in parts):
            raise CampaignError(f"Only errors of seeds go together, so {name!r} is no objective.")
        return Objective(name, _geometric([_rooted if part.measure is squared else part.measure for part in parts]), mean)
    if name == "rmse":
        return Objective(name, squared, root_mean)
    if name == "seed-rmse":
        return Objective(name, squared, mean_root)
    if name == "l1":
        return Objective(name, absolute, mean)
    if name not in NAMES:
        raise CampaignError(f"There is no objective {name!r}; there are {', '.join(NAMES)}, and several of seeds with a plus.")
    kind, of = name.split("-")
    if kind == "lpips":
        return Objective(name, perceptual.load(of), mean)  # pyright: ignore[reportArgumentType]
    seen = sets.features(of)
    return Objective(name, lambda found, wanted: torch.stack([seen(found), seen(wanted)], 1), SETS[kind], "sets")
