"""The study: ask, evaluate, tell, to the end of the budget.

A generation depends on the seed, its number and the trials before it alone. One that was cut short is proposed again and
only what is missing is scored: a resumed campaign is the undisturbed one.
"""

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search import baselines, storage, tracker
from search.campaign import Campaign
from search.race import Race
from search.result import Cost, Known
from search.samplers import sampler
from search.space import Params
from solvers import ScheduleError, Tableau, compile


class Proposals:
    """Optuna's sampler in front of a copy of the finished trials in memory, where asking commits nothing and numbers are the same again."""

    def __init__(self, campaign: Campaign, known: Sequence[Known]) -> None:
        self._campaign = campaign
        self._queue = enqueued(campaign, known)
        self._distributions = campaign.space.distributions()

    def generation(self, number: int, before: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The candidates of a generation, unscored: what is still queued, then what the sampler asks for, given the trials before."""
        settings = self._campaign.settings
        size = settings.budget.generation
        memory = optuna.create_study(sampler=sampler(settings.sampler.name, settings.seed, number, **settings.sampler.options))
        memory.add_trials(before)
        found = [self._trial(params, {"origin": origin}, {}) for params, origin in self._queue[number * size : (number + 1) * size]]
        for _ in range(size - len(found)):
            trial = memory.ask(self._distributions)
            found.append(self._trial(trial.params, {}, memory.trials[trial.number].system_attrs))
        return found

    def _trial(self, params: Params, user: dict[str, Any], system: dict[str, Any]) -> FrozenTrial:
        return optuna.trial.create_trial(
            state=TrialState.PRUNED, params=params, distributions=self._distributions, user_attrs=user, system_attrs=system
        )


def scored(trial: FrozenTrial, value: float) -> FrozenTrial:
    """The trial with its value. One that diverged stays PRUNED: samplers learn from it, and it can never be the best."""
    if math.isfinite(value):
        trial.state, trial.values = TrialState.COMPLETE, [value]
    return trial


def explore(campaign: Campaign, known: Sequence[Known], mirror: tracker.Mirror) -> tuple[list[FrozenTrial], Cost]:
    """Every trial of the study once its budget is spent, and what they cost. The first are the known solvers that lie in the space."""
    settings = campaign.settings
    url = settings.storage or f"sqlite:///{campaign.directory / 'study.sqlite'}"
    study = storage.open_study(url, campaign.name)
    trials = storage.finished(study)
    size, proposals = settings.budget.generation, Proposals(campaign, known)
    if len(trials) < settings.budget.trials:
        campaign.on("fit")  # so that its progress bar comes first
    best = min((t.value for t in trials if t.value is not None), default=math.inf)
    race = Race(campaign.on("fit"), campaign.objective, settings.budget.blocks, settings.budget.risk)
    task = campaign.progress.add_task("search", total=settings.budget.trials, completed=len(trials))
    while len(trials) < settings.budget.trials:
        generation = len(trials) // size
        proposed = proposals.generation(generation, trials[: generation * size])
        missing = proposed[len(trials) - generation * size :][: settings.budget.trials - len(trials)]
        storage.record(study, run(campaign, race, missing, incumbent(campaign, trials[: generation * size])))
        for number, trial in enumerate(missing, len(trials)):
            best = min(best, math.inf if trial.value is None else trial.value)
            mirror.trial(number, trial.value, best)
        trials = storage.finished(study)
        campaign.progress.update(task, completed=len(trials), description=f"search, best {best:.4f}")
    return trials, cost_of(campaign, trials)


def run(campaign: Campaign, race: Race, trials: Sequence[FrozenTrial], against: Tableau | None) -> Sequence[FrozenTrial]:
    """Score trials in place. They keep how many seeds they saw, and the first one what the network did for all of them."""
    before = race.cost
    raced = race.run([compile(campaign.space.decode(trial.params)) for trial in trials], against)
    for trial, score in zip(trials, raced, strict=True):
        scored(trial, score.value).user_attrs["seeds"] = score.seeds
    trials[0].user_attrs["evaluations"] = race.cost.physical - before.physical
    return trials


def finishers(trials: Sequence[FrozenTrial], seeds: int) -> list[FrozenTrial]:
    """The trials that were scored on every fit seed, best first."""
    whole = [trial for trial in trials if trial.value is not None and trial.user_attrs.get("seeds", seeds) == seeds]
    return sorted(whole, key=lambda trial: trial.value or 0.0)


def incumbent(campaign: Campaign, trials: Sequence[FrozenTrial]) -> Tableau | None:
    """The best table so far, against which the next ones race."""
    best = finishers(trials, campaign.settings.seeds.fit)
    return compile(campaign.space.decode(best[0].params)) if best else None


def cost_of(campaign: Campaign, trials: Sequence[FrozenTrial]) -> Cost:
    """What the trials cost: nfe evaluations per seed they saw, and what the network did (shared beginnings once, incumbents again)."""
    asked = sum(trial.user_attrs.get("seeds", 0) for trial in trials) * campaign.settings.nfe
    return Cost(asked, sum(trial.user_attrs.get("evaluations", 0) for trial in trials))


def enqueued(campaign: Campaign, known: Sequence[Known]) -> list[tuple[Params, str]]:
    """The known solvers from which the search starts: of those that lie in the space, the best of each kind and the best few."""
    chosen = [*baselines.best_per_solver(known), *known[:8]]
    found: list[tuple[Params, str]] = []
    for item in [item for index, item in enumerate(chosen) if item not in chosen[:index]]:
        try:
            found.append((campaign.space.encode(baselines.schedule(item, campaign.teacher)), item.name))
        except ScheduleError:
            continue  # two-stage methods and words that were switched off stay outside: they are baselines all the same
    return found
