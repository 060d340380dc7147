"""How well the predictor ranks candidates before they are scored, beside predictors that anyone could write.

At several moments of a campaign each is given the trials so far and ranks the next ones; Kendall's tau compares the ranking
with what they then scored: 1 is the same order, 0 none. (Proposals that were chosen to be good are hard to tell apart, so
tau falls as a search converges.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from search.encoding import Encoding
from search.predictor import AHEAD, Array, Points, Predictor, Scale
from search.records import Ranked
from search.s3 import FORESEEN, Describe


def _process(seen: Points, values: Array, ahead: Points) -> Array:
    """The sampler's kind of predictor."""
    return Predictor.fit(seen, values).predict(ahead)[0]


def _linear(seen: Points, values: Array, ahead: Points) -> Array:
    """Ridge regression of the log value on numbers and one-hot words."""
    width = max(int(seen.words.max(initial=0)), int(ahead.words.max(initial=0))) + 1

    def features(points: Points) -> Array:
        hot = (points.words[..., None] == np.arange(width)).reshape(len(points.words), -1)
        return np.concatenate([np.ones((len(points.numbers), 1)), points.numbers, hot], 1)

    x = features(seen)
    return features(ahead) @ np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ np.log(values))


def _boosted(seen: Points, values: Array, ahead: Points) -> Array:
    """Gradient boosting of the log value (Friedman 2001), 100 trees of at least five trials a leaf; words are categories."""
    from sklearn.ensemble import HistGradientBoostingRegressor  # here, since it takes a second and most commands never rank

    def table(points: Points) -> Array:
        return np.concatenate([points.numbers, points.words.astype(np.float64)], 1)

    words = [False] * seen.numbers.shape[1] + [True] * seen.words.shape[1]
    options: dict[str, Any] = {"min_samples_leaf": 5, "early_stopping": False, "categorical_features": words, "random_state": 0}
    trees: Any = HistGradientBoostingRegressor(**options)
    return trees.fit(table(seen), np.log(values)).predict(table(ahead))


PREDICTORS: dict[str, Callable[[Points, Array, Points], Array]] = {"parameters": _process, "linear": _linear, "boosting": _boosted}


def ranked(
    trials: Sequence[FrozenTrial], distributions: dict[str, BaseDistribution], describe: Describe | None = None, ahead: int = AHEAD
) -> list[Ranked]:
    """The predictors' ranks over a campaign, at every `ahead` finished trials; empty for a short one.

    "emulator" is what the sampler foresaw of each when it proposed it, where it did so of at least half; "features" the predictor that is
    told what parameters do; the others know the parameters alone.
    """
    done = [trial for trial in trials if trial.value is not None and trial.value > 0]
    points = Encoding(distributions).points([trial.params for trial in done])
    values = np.array([trial.value for trial in done], dtype=np.float64)
    described = np.array([describe(trial.params) for trial in done]) if describe else np.empty((len(done), 0))
    found: list[Ranked] = []
    for seen in range(ahead, len(done) - ahead + 1, ahead):
        past, next_ones = points[slice(seen)], points[slice(seen, seen + ahead)]
        taus: dict[str, float] = {}
        foreseen = {k: done[k].system_attrs[FORESEEN] for k in range(seen, seen + ahead) if FORESEEN in done[k].system_attrs}
        if 2 * len(foreseen) >= ahead:
            taus["emulator"] = tau(list(foreseen.values()), values[list(foreseen)])
        if describe:
            known = Scale.of(described[:seen], values[:seen]).points(described)
            rank = _process(known[slice(seen)], values[:seen], known[slice(seen, seen + ahead)])
            taus["features"] = tau(rank, values[seen : seen + ahead])
        taus |= {name: tau(predict(past, values[:seen], next_ones), values[seen : seen + ahead]) for name, predict in PREDICTORS.items()}
        found.append(Ranked(seen, ahead, taus))
    return found


def tau(one: Sequence[float] | Array, other: Sequence[float] | Array) -> float:
    """Kendall's; 0 where it is not defined."""
    found: Any = scipy.stats.kendalltau(one, other)
    return float(found.statistic) if np.isfinite(found.statistic) else 0.0
