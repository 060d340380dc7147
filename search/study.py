"""The study: ask, evaluate, tell, to the end of the budget.

A generation depends on the seed, its number and the trials before it alone. One worker proposes it, all score it, and when it is
full all append what the study does not hold yet: four workers, one, or one that was killed and resumed, make the same trials.
A generation has one NFE. Over several, they take turns, and a sampler sees the trials of its own: only S3 is told of the others'.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from search import baselines, storage, tracker
from search.board import Board
from search.campaign import Campaign
from search.moves import fitted, neighbours
from search.race import Race
from search.result import Cost, Known
from search.samplers import sampler
from search.space import Params
from solvers import ScheduleError, Tableau, compile

VISITING = 2  # schedules of each budget beside that may move


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

    def __init__(self, campaign: Campaign, known: Mapping[int, Sequence[Known]]) -> None:
        self._campaign = campaign
        self._queues = {nfe: enqueued(campaign.at(nfe), known[nfe]) for nfe in campaign.budgets}
        self._distributions = {nfe: space.distributions() for nfe, space in campaign.spaces.items()}

    def generation(self, number: int, before: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The candidates of a generation, unscored: what is still queued, then what the sampler asks for, given the trials before."""
        settings, budgets = self._campaign.settings, self._campaign.budgets
        turn, which = divmod(number, len(budgets))
        nfe, size = budgets[which], settings.budget.generation
        memory = optuna.create_study(sampler=sampler(settings.sampler.name, settings.seed, number, **settings.sampler.options))
        memory.add_trials(of_nfe(before, nfe))
        memory.set_user_attr("guests", list(self._guests(which, before)))
        queued = self._queues[nfe][turn * size : (turn + 1) * size]
        found = [self.trial(Draft(params, {"nfe": nfe, "origin": origin})) for params, origin in queued]
        for _ in range(size - len(found)):
            trial = memory.ask(self._distributions[nfe])
            found.append(self.trial(Draft(trial.params, {"nfe": nfe}, memory.trials[trial.number].system_attrs)))
        return found

    def drafts(self, number: int, before: Sequence[FrozenTrial]) -> list[Draft]:
        """The same, as it goes on the board."""
        return [Draft(trial.params, trial.user_attrs, trial.system_attrs) for trial in self.generation(number, before)]

    def trial(self, draft: Draft) -> FrozenTrial:
        """The draft as a trial, unscored."""
        return optuna.trial.create_trial(
            state=TrialState.PRUNED,
            params=draft.params,
            distributions=self._distributions[draft.user_attrs["nfe"]],
            user_attrs=dict(draft.user_attrs),
            system_attrs=dict(draft.system_attrs),
        )

    def _guests(self, which: int, before: Sequence[FrozenTrial]) -> Iterator[Params]:
        """The best few schedules of the budgets beside, with a step inserted or deleted, wherever that can be."""
        budgets, spaces = self._campaign.budgets, self._campaign.spaces
        for beside in (*budgets[max(0, which - 1) : which], *budgets[which + 1 : which + 2]):
            for trial in finishers(of_nfe(before, beside), self._campaign.settings.seeds.fit)[:VISITING]:
                yield from map(spaces[budgets[which]].nearest, neighbours(spaces[beside].decode(trial.params), budgets[which]))


def scored(trial: FrozenTrial, value: float) -> FrozenTrial:
    """The trial with its value. One that diverged stays PRUNED: samplers learn from it, and it can never be the best."""
    if math.isfinite(value):
        trial.state, trial.values = TrialState.COMPLETE, [value]
    return trial


def explore(
    campaign: Campaign, board: Board, study: optuna.Study, known: Mapping[int, Sequence[Known]], mirror: tracker.Mirror
) -> list[FrozenTrial]:
    """Every trial of the study once its budget is spent. The first of each NFE are warm starts and the known solvers in the space."""
    budget, proposals = campaign.settings.budget, Proposals(campaign, known)
    trials = storage.finished(study)
    if len(trials) < budget.trials:
        campaign.on("fit")  # so that its progress bar comes first
    race = Race(campaign.on("fit"), campaign.objective, budget.blocks, budget.risk)
    task = campaign.progress.add_task("search", total=budget.trials)
    while True:
        generation = len(trials) // budget.generation
        here = campaign.at(campaign.budgets[generation % len(campaign.budgets)])
        best = min((t.value for t in of_nfe(trials, here.nfe) if t.value is not None), default=math.inf)
        campaign.progress.update(task, completed=len(trials), description=f"search at NFE {here.nfe}, best {best:.4f}")
        if len(trials) >= budget.trials:
            return trials
        first = generation * budget.generation
        before, numbers = trials[:first], range(len(trials), min(first + budget.generation, budget.trials))
        [told] = board.together("proposals", [generation], lambda _, g=generation, b=before: [proposals.drafts(g, b)])
        proposed = dict(enumerate(map(proposals.trial, msgspec.convert(told, list[Draft])), first))

        def score(mine: list[int], proposed: dict[int, FrozenTrial] = proposed, best: float = best) -> list[Outcome]:
            found = run(here, race, [proposed[n] for n in mine], incumbent(here, of_nfe(before, here.nfe)))  # noqa: B023 (called at once)
            for number, outcome in zip(mine, found, strict=True):
                best = min(best, math.inf if outcome.value is None else outcome.value)
                mirror.trial(number, here.nfe, outcome.value, best)  # noqa: B023 (as above)
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


def of_nfe(trials: Sequence[FrozenTrial], nfe: int) -> list[FrozenTrial]:
    """The trials of one NFE."""
    return [trial for trial in trials if trial.user_attrs["nfe"] == nfe]


def finishers(trials: Sequence[FrozenTrial], seeds: int) -> list[FrozenTrial]:
    """The trials that were scored on every fit seed, best first."""
    whole = [trial for trial in trials if trial.value is not None and trial.user_attrs.get("seeds", seeds) == seeds]
    return sorted(whole, key=lambda trial: trial.value or 0.0)


def incumbent(campaign: Campaign, trials: Sequence[FrozenTrial]) -> Tableau | None:
    """The best table so far, against which the next ones race."""
    best = finishers(trials, campaign.settings.seeds.fit)
    return compile(campaign.space.decode(best[0].params)) if best else None


def cost_of(trials: Sequence[FrozenTrial]) -> Cost:
    """What the trials cost: nfe evaluations per seed they saw, and what the network did (shared beginnings once, incumbents again)."""
    asked = sum(trial.user_attrs.get("seeds", 0) * trial.user_attrs["nfe"] for trial in trials)
    return Cost(asked, sum(trial.user_attrs.get("evaluations", 0) for trial in trials))


def enqueued(campaign: Campaign, known: Sequence[Known]) -> list[tuple[Params, str]]:
    """Where the search at one NFE starts: warm starts, then the known solvers in the space, the best of the best kinds and the best few."""
    found = [(campaign.space.nearest(fitted(start.schedule, campaign.nfe)), start.origin) for start in campaign.warm]
    chosen = [*baselines.best_per_solver(known)[:12], *known[:8]]
    for item in [item for index, item in enumerate(chosen) if item not in chosen[:index]]:
        try:
            found.append((campaign.space.encode(baselines.schedule(item, campaign.teacher)), item.name))
        except ScheduleError:
            continue  # two-stage methods and words that were switched off stay outside: they are baselines all the same
    return found
