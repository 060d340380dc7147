"""Intervals over seeds by the bootstrap (Efron 1979): resample seeds, the same ones for both samplers of a ratio.

A distance of sets has no bootstrap: a resampled set repeats its members, which moves the distance. There the jackknife stands in,
on the logarithm: leave out one block of seeds after the other (Efron and Tibshirani 1993, chapter 11).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from search.records import Interval

RESAMPLES = 4000
TOGETHER = 2**22  # errors that are resampled at once, which bounds the memory
TINY = 1e-30  # whose logarithm is taken for that of nothing
Statistic = Callable[[Tensor], Tensor]


def _resampled(errors: Tensor, together: Statistic) -> Tensor:
    """The statistic of each resample, [RESAMPLES]; equal seeds are drawn at every call, so two calls are paired."""
    generator = torch.Generator().manual_seed(0)
    parts = torch.arange(RESAMPLES).split(max(1, TOGETHER // len(errors)))
    return torch.cat([together(errors[torch.randint(len(errors), (len(part), len(errors)), generator=generator)]) for part in parts])


def _interval(value: Tensor, draws: Tensor) -> Interval:
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Interval(float(value), low, high)


def interval(errors: Tensor, together: Statistic) -> Interval:
    """The statistic of per-seed errors [seeds] with its 95 % percentile interval."""
    return _interval(together(errors), _resampled(errors, together))


def ratio(errors: Tensor, baseline: Tensor, together: Statistic) -> Interval:
    """together(errors) / together(baseline) on the same seeds, paired, with its 95 % percentile interval."""
    return _interval(together(errors) / together(baseline), _resampled(errors, together) / _resampled(baseline, together))


def jackknife(records: Tensor, together: Statistic, blocks: int = 16) -> Interval:
    """A positive statistic of records [seeds, ...] with the normal 95 % interval of its logarithm."""
    parts = torch.arange(len(records)).chunk(min(blocks, len(records)))
    kept = [torch.ones(len(records), dtype=torch.bool).index_fill(0, part, False) for part in parts]
    logs = torch.stack([together(records[keep]).clamp_min(TINY).log() for keep in kept])
    width = 1.96 * float(((len(parts) - 1) * logs.var(unbiased=False)).sqrt())
    value = float(together(records))
    return Interval(value, value * math.exp(-width), value * math.exp(width))


def jackknife_ratio(records: Tensor, baseline: Tensor, together: Statistic, blocks: int = 16) -> Interval:
    """together(records) / together(baseline) on the same seeds, likewise."""
    return jackknife(torch.stack([records, baseline], 1), lambda both: together(both[:, 0]) / together(both[:, 1]), blocks)
