"""Intervals over seeds by the bootstrap (Efron 1979): resample seeds, the same ones for both samplers of a ratio."""

from collections.abc import Callable

import torch
from torch import Tensor

from search.result import Interval

RESAMPLES = 4000
Statistic = Callable[[Tensor], Tensor]


def _resampled(errors: Tensor, together: Statistic) -> Tensor:
    """The statistic of each resample, [RESAMPLES]; equal seeds are drawn at every call, so two calls are paired."""
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(errors), (RESAMPLES, len(errors)), generator=generator)
    return together(errors[picks])


def _interval(value: Tensor, draws: Tensor) -> Interval:
    low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Interval(float(value), low, high)


def interval(errors: Tensor, together: Statistic) -> Interval:
    """The statistic of per-seed errors [seeds] with its 95 % percentile interval."""
    return _interval(together(errors), _resampled(errors, together))


def ratio(errors: Tensor, baseline: Tensor, together: Statistic) -> Interval:
    """together(errors) / together(baseline) on the same seeds, paired, with its 95 % percentile interval."""
    return _interval(together(errors) / together(baseline), _resampled(errors, together) / _resampled(baseline, together))
