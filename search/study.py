"""The study: ask, evaluate, tell, to the end of the budget.

A generation depends on the seed, its number and the trials before it alone. One worker proposes it, all score it, and when it is
full all append what the study does not hold yet: four workers, one, or one that was killed and resumed, make the same trials.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from search import baselines, storage, tracker
from search.board import Board
from search.campaign import Campaign
from search.race import Race
from search.result import Cost, Known
from search.samplers import sampler
from search.space import Params
from solvers import ScheduleError, Tableau, compile


class Draft(msgspec.Struct, frozen=True):
    """A candidate on the board: its parameters and what goes with them into its trial."""

    params: Params
    user_attrs: dict[str, Any] = {}
    system_attrs: dict[str, Any] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What is told of a candidate: its value (None where it diverged), the seeds it saw, what the network did for it and those with it."""

    value: float | None
    seeds: int
    evaluations: int


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
        found = [self.trial(Draft(params, {"origin": origin})) for params, origin in self._queue[number * size : (number + 1) * size]]
        for _ in range(size - len(found)):
            trial = memory.ask(self._distributions)
            found.append(self.trial(Draft(trial.params, {}, memory.trials[trial.number].system_attrs)))
        return found

    def drafts(self, number: int, before: Sequence[FrozenTrial]) -> list[Draft]:
        """The same, as it goes on the board."""
        return [Draft(trial.params, trial.user_attrs, trial.system_attrs) for trial in self.generation(number, before)]

    def trial(self, draft: Draft) -> FrozenTrial:
        """The draft as a trial, unscored."""
        return optuna.trial.create_trial(
            state=TrialState.PRUNED,
            params=draft.params,
            distributions=self._distributions,
            user_attrs=dict(draft.user_attrs),
            system_attrs=dict(draft.system_attrs),
        )


def scored(trial: FrozenTrial, value: float) -> FrozenTrial:
    """The trial with its value. One that diverged stays PRUNED: samplers learn from it, and it can never be the best."""
    if math.isfinite(value):
        trial.state, trial.values = TrialState.COMPLETE, [value]
    return trial


def explore(
    campaign: Campaign, board: Board, study: optuna.Study, known: Sequence[Known], mirror: tracker.Mirror
) -> tuple[list[FrozenTrial], Cost]:
    """Every trial of the study once its budget is spent, and what they cost. The first are the known solvers that lie in the space."""
    budget, proposals = campaign.settings.budget, Proposals(campaign, known)
    trials = storage.finished(study)
    if len(trials) < budget.trials:
        campaign.on("fit")  # so that its progress bar comes first
    race = Race(campaign.on("fit"), campaign.objective, budget.blocks, budget.risk)
    task = campaign.progress.add_task("search", total=budget.trials)
    while True:
        best = min((t.value for t in trials if t.value is not None), default=math.inf)
        campaign.progress.update(task, completed=len(trials), description=f"search, best {best:.4f}")
        if len(trials) >= budget.trials:
            return trials, cost_of(campaign, trials)
        generation = len(trials) // budget.generation
        first = generation * budget.generation
        before, numbers = trials[:first], range(len(trials), min(first + budget.generation, budget.trials))
        [told] = board.together("proposals", [generation], lambda _, g=generation, b=before: [proposals.drafts(g, b)])
        proposed = dict(enumerate(map(proposals.trial, msgspec.convert(told, list[Draft])), first))

        def score(mine: list[int], proposed: dict[int, FrozenTrial] = proposed, best: float = best) -> list[Outcome]:
            found = run(campaign, race, [proposed[n] for n in mine], incumbent(campaign, before))  # noqa: B023 (called at once)
            for number, outcome in zip(mine, found, strict=True):
                best = min(best, math.inf if outcome.value is None else outcome.value)
                mirror.trial(number, outcome.value, best)
            return found

        outcomes = msgspec.convert(board.together("search", numbers, score), list[Outcome])
        storage.append(study, [finish(proposed[n], outcome) for n, outcome in zip(numbers, outcomes, strict=True)], numbers.start)
        trials = storage.finished(study)


def run(campaign: Campaign, race: Race, trials: Sequence[FrozenTrial], against: Tableau | None) -> list[Outcome]:
    """Score trials; what the network did for all of them is written to the first."""
    before = race.cost
    raced = race.run([compile(campaign.space.decode(trial.params)) for trial in trials], against)
    spent = [race.cost.physical - before.physical] + [0] * len(trials)
    return [Outcome(r.value if math.isfinite(r.value) else None, r.seeds, n) for r, n in zip(raced, spent, strict=False)]


def finish(trial: FrozenTrial, outcome: Outcome) -> FrozenTrial:
    """The trial with what was told of it."""
    trial.user_attrs.update({"seeds": outcome.seeds, "evaluations": outcome.evaluations})
    return scored(trial, math.inf if outcome.value is None else outcome.value)


def incumbent(campaign: Campaign, trials: Sequence[FrozenTrial]) -> Tableau | None:
    """The best table so far, against which the next ones race: of the trials that were scored on every fit seed."""
    seeds = campaign.settings.seeds.fit
    whole = [trial for trial in trials if trial.value is not None and trial.user_attrs.get("seeds", seeds) == seeds]
    best = min(whole, key=lambda trial: trial.value or 0.0, default=None)
    return best and compile(campaign.space.decode(best.params))


def cost_of(campaign: Campaign, trials: Sequence[FrozenTrial]) -> Cost:
    """What the trials cost: nfe evaluations per seed they saw, and what the network did (shared beginnings once, incumbents again)."""
    asked = sum(trial.user_attrs.get("seeds", 0) for trial in trials) * campaign.settings.nfe
    return Cost(asked, sum(trial.user_attrs.get("evaluations", 0) for trial in trials))


def enqueued(campaign: Campaign, known: Sequence[Known]) -> list[tuple[Params, str]]:
    """The known solvers from which the search starts: of those that lie in the space, the best of the best kinds and the best few."""
    chosen = [*baselines.best_per_solver(known)[:12], *known[:8]]
    found: list[tuple[Params, str]] = []
    for item in [item for index, item in enumerate(chosen) if item not in chosen[:index]]:
        try:
            found.append((campaign.space.encode(baselines.schedule(item, campaign.teacher)), item.name))
        except ScheduleError:
            continue  # two-stage methods and words that were switched off stay outside: they are baselines all the same
    return found
