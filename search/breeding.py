"""Children of points: crossover between two parents step by step, mutation of words and numbers on many scales at once.

No scale has to be tuned. Parameters whose names end in the same number are one step and are inherited together.
"""

import re

import numpy as np
from numpy.typing import NDArray

from search.encoding import Encoding
from search.predictor import Points


def bred(rng: np.random.Generator, one: Points, other: Points, encoding: Encoding, count: int) -> Points:
    """Children of one with another, both best first. Every child has its own scale and its own share of moved numbers and words."""
    parents, n = one + other, len(one.numbers)
    steps = {key: k for k, key in enumerate(sorted({_step(name) for name in encoding.distributions}))}
    first = _early(rng, n, count)
    second = n + _early(rng, len(other.numbers), count)
    mixed = rng.random((count, len(steps))) < np.where(rng.random((count, 1)) < 0.5, 0.0, 0.3)
    numbers, words = parents.numbers[first].copy(), parents.words[first].copy()
    for table, names, source in ((numbers, encoding.numbers, parents.numbers), (words, encoding.words, parents.words)):
        column = np.array([steps[_step(name)] for name in names], dtype=np.int64)
        taken = mixed[:, column] if len(names) else np.zeros((count, 0), dtype=bool)
        table[taken] = source[second][taken]
    scale = np.exp(rng.uniform(np.log(0.003), np.log(0.3), (count, 1)))
    share = rng.choice([1.0, 0.3, 2.0 / max(1, numbers.shape[1])], (count, 1))
    moved = rng.random(numbers.shape) < share
    numbers = np.clip(numbers + moved * scale * rng.standard_normal(numbers.shape), 0.0, 1.0)
    changes = rng.choice([0.0, 1.0, 4.0], (count, 1)) / max(1, words.shape[1])
    changed = rng.random(words.shape) < changes
    words = np.where(changed, rng.integers(0, np.maximum(encoding.choices, 1), words.shape), words)
    return Points(numbers, words)


def apart(points: Points, count: int, radius: float = 0.02) -> Points:
    """The first `count` points that are not near copies of an earlier one, so that one lucky family does not breed alone."""
    kept: list[int] = []
    for i in range(len(points.numbers)):
        if len(kept) == count:
            break
        squares, differ = (points.numbers[kept] - points.numbers[i]) ** 2, points.words[kept] != points.words[i]
        gap = np.sqrt(squares.sum(1) / max(1, squares.shape[1])) + differ.sum(1) / max(1, differ.shape[1])  # a study may have no words
        if (gap > radius).all():
            kept.append(i)
    return points[np.array(kept)]


def _early(rng: np.random.Generator, n: int, count: int) -> NDArray[np.int64]:
    """Numbers below n, the first ones most often."""
    return np.minimum(rng.geometric(min(1.0, 3.0 / n), count) - 1, n - 1)


def _step(name: str) -> str:
    found = re.search(r"\d+$", name)
    return found.group() if found else name
