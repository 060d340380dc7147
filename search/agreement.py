"""Whether the ways to measure closeness agree: Kendall's tau between what they say of the same trials.

Trials are taken evenly from the best to the worst on `fit` and drawn once on the `select` seeds; every objective measures the
same pictures. 1 is the same order, 0 none.
"""

from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial

from search.campaign import Campaign
from search.objective import looks, objective
from search.ranks import tau
from search.records import Agreement
from solvers import compile


def agreement(campaign: Campaign, trials: Sequence[FrozenTrial]) -> Agreement | None:
    """Of the objectives in `compare` that the model's samples allow, over twice as many trials as finalists; None without two of them."""
    settings = campaign.settings
    names = [name for name in settings.compare if campaign.teacher.makes_pictures or not looks(name)]
    done = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: trial.value or 0.0)
    places = np.linspace(0, len(done) - 1, min(2 * settings.budget.finalists, len(done))).round().astype(int)
    chosen = [done[place] for place in places]
    if len(names) < 2 or len(chosen) < 3:
        return None
    evaluator, tables = campaign.on("select"), [compile(campaign.space.decode(trial.params)) for trial in chosen]
    values: dict[str, list[float]] = {name: [0.0] * len(tables) for name in names}
    for index, drawn in campaign.progress.track(evaluator.drawn(tables), total=len(tables), description="objectives compared"):
        for aim in map(objective, names):
            values[aim.name][index] = float(aim.together(aim.measure(drawn.images, evaluator.targets.images)))
    taus = tuple(tuple(tau(values[one], values[other]) for other in names) for one in names)
    return Agreement(tuple(names), taus, len(tables), settings.seeds.select)
