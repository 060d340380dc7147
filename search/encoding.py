"""Between Optuna's parameters and points of a predictor."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.predictor import Array, Points


class Encoding:
    """Numbers are scaled to [0, 1], words become indices."""

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.distributions = dict(distributions)
        self.words = [name for name, d in distributions.items() if isinstance(d, CategoricalDistribution)]
        self.numbers = [name for name in distributions if name not in self.words]
        choices = [len(d.choices) for d in distributions.values() if isinstance(d, CategoricalDistribution)]
        self.choices = np.array(choices, dtype=np.int64)

    def points(self, trials: Sequence[Mapping[str, Any]]) -> Points:
        """The points of many parameter sets."""
        numbers = [[self._scaled(name, params[name]) for name in self.numbers] for params in trials]
        words = [[int(self.distributions[name].to_internal_repr(params[name])) for name in self.words] for params in trials]
        return Points(
            np.array(numbers, dtype=np.float64).reshape(len(trials), len(self.numbers)),
            np.array(words, dtype=np.int64).reshape(len(trials), len(self.words)),
        )

    def params(self, numbers: Array, words: NDArray[np.int64]) -> dict[str, Any]:
        """The parameters of one point."""
        found = {name: self._value(name, float(u)) for name, u in zip(self.numbers, numbers, strict=True)}
        return found | {name: self.distributions[name].to_external_repr(int(k)) for name, k in zip(self.words, words, strict=True)}

    def _number(self, name: str) -> FloatDistribution | IntDistribution:
        d = self.distributions[name]
        assert isinstance(d, FloatDistribution | IntDistribution)
        return d

    def _ends(self, name: str) -> tuple[float, float, bool]:
        d = self._number(name)
        return (np.log(d.low), np.log(d.high), True) if d.log else (d.low, d.high, False)

    def _scaled(self, name: str, value: float) -> float:
        low, high, log = self._ends(name)
        return ((np.log(value) if log else value) - low) / ((high - low) or 1.0)

    def _value(self, name: str, u: float) -> float | int:
        (low, high, log), d = self._ends(name), self._number(name)
        value = low + min(max(u, 0.0), 1.0) * (high - low)
        value = np.exp(value) if log else value
        value = d.low + round((value - d.low) / d.step) * d.step if d.step else value
        value = min(max(value, d.low), d.high)
        return int(value) if isinstance(d, IntDistribution) else float(value)
