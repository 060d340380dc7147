"""What a candidate will probably score, from the trials before it: a Gaussian process on words and numbers, or on features alone.

    k(p, q) = s^2 matern_5/2(|x_p - x_q| / l) exp(-h / w)      x: the numbers, h: how many words differ

on the logarithm of the value, cut where it is hopeless. l, w and the noise are those of the largest marginal likelihood
on a small grid (Rasmussen and Williams 2006, algorithm 2.1 and eq. 5.8).
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # whose parts are imported at their first use, and take a second that most commands never need
from numpy.typing import NDArray

Array = NDArray[np.float64]
SPREAD = 8.0  # widths of a feature; what lies farther out is as strange as it can be
AHEAD = 40  # trials that a predictor has to rank
LENGTHS, WORDS, NOISES = (0.2, 0.5, 1.0, 2.0, 4.0), (2.0, 6.0, 20.0), (1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Points:
    """Candidates as two tables: scaled numbers [n, d], and words [n, e] as indices."""

    numbers: Array
    words: NDArray[np.int64]

    def __getitem__(self, index: NDArray[np.int64] | slice) -> "Points":
        return Points(self.numbers[index], self.words[index])

    def __add__(self, other: "Points") -> "Points":
        return Points(np.concatenate([self.numbers, other.numbers]), np.concatenate([self.words, other.words]))


@dataclass(frozen=True)
class Scale:
    """Features in units in which good candidates differ, so that a distance means the same in all of them."""

    centre: Array
    width: Array

    @staticmethod
    def of(features: Array, values: Array) -> "Scale":
        """From those [n, d] of finished trials: the best third says what is usual, all of them what varies at all."""
        best, whole = features[np.argsort(values, kind="stable")[: max(20, len(values) // 3)]], features.std(0)
        width = np.maximum(best.std(0), 0.05 * whole)
        return Scale(best.mean(0), np.where(whole > 1e-9, width, np.inf))

    def points(self, features: Array) -> Points:
        """The points of some features."""
        scaled = np.clip((features - self.centre) / self.width, -SPREAD, SPREAD) * 1.5 / np.sqrt(max(1, np.isfinite(self.width).sum()))
        return Points(scaled, np.zeros((len(features), 0), dtype=np.int64))


def _distances(a: Points, b: Points) -> tuple[Array, Array]:
    """Euclidean distances between numbers and the count of differing words, each [len(a), len(b)]."""
    squares = (a.numbers**2).sum(1)[:, None] + (b.numbers**2).sum(1) - 2 * a.numbers @ b.numbers.T
    differ = (a.words[:, None, :] != b.words[None, :, :]).sum(-1)
    return np.sqrt(np.maximum(squares, 0.0)), differ.astype(np.float64)


def _kernel(distances: tuple[Array, Array], length: float, word: float) -> Array:
    r = np.sqrt(5.0) * distances[0] / length
    return (1 + r + r**2 / 3) * np.exp(-r - distances[1] / word)


@dataclass(frozen=True)
class Predictor:
    """The process conditioned on trials. `predict` answers mean and deviation of the log value."""

    points: Points
    length: float
    word: float
    factor: Array
    weights: Array
    centre: float
    scale: float

    @staticmethod
    def fit(points: Points, values: Array) -> "Predictor":
        """Condition on finished trials; values are positive, the lower the better."""
        logs = np.log(np.maximum(values, 1e-12))
        logs = np.minimum(logs, np.quantile(logs, 0.25) + 1.0)  # how bad a bad one is says nothing about good ones
        centre, scale = float(logs.mean()), float(logs.std()) or 1.0
        y, distances = (logs - centre) / scale, _distances(points, points)
        best: tuple[float, float, float, Array, Array] | None = None
        words = WORDS if points.words.shape[1] else WORDS[:1]
        for length, word, noise in itertools.product(LENGTHS, words, NOISES):
            factor = scipy.linalg.cholesky(_kernel(distances, length, word) + noise * np.eye(len(y)), lower=True)
            weights = scipy.linalg.cho_solve((factor, True), y)
            evidence = -0.5 * float(y @ weights) - float(np.log(factor.diagonal()).sum())
            if best is None or evidence > best[0]:
                best = (evidence, length, word, factor, weights)
        assert best is not None
        return Predictor(points, best[1], best[2], best[3], best[4], centre, scale)

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Mean and standard deviation [n] of the log value."""
        k = _kernel(_distances(points, self.points), self.length, self.word)
        reduced = scipy.linalg.solve_triangular(self.factor, k.T, lower=True)
        spread = np.sqrt(np.maximum(1.0 - (reduced**2).sum(0), 1e-12))
        return self.centre + self.scale * (k @ self.weights), self.scale * spread

    def optimistic(self, points: Points, deviations: float) -> Array:
        """So many standard deviations below the mean, [n]."""
        mean, spread = self.predict(points)
        return mean - deviations * spread


def backwards(points: Points, values: Array, level: float, ahead: int = AHEAD) -> bool:
    """Whether the process, told all trials but the last `ahead`, ranks those the wrong way round (Kendall's tau, one-sided, at that level).

    Trials ahead were proposed because they were predicted to be good. What is left between them is hard to tell apart, so a tau
    near 0 is what a useful predictor has there, and only one that is clearly negative says that it misleads. Few trials say nothing.
    """
    seen = len(values) - ahead
    if not level or seen < ahead:
        return False
    mean, _ = Predictor.fit(points[slice(seen)], values[:seen]).predict(points[slice(seen, len(values))])
    return misleads(mean, values[seen:], level)


def misleads(foreseen: Array, found: Array, level: float) -> bool:
    """Whether what was foreseen orders what was found the wrong way round (Kendall's tau, one-sided, at that level)."""
    tau: Any = scipy.stats.kendalltau(foreseen, found, alternative="less")
    return bool(tau.pvalue < level)
