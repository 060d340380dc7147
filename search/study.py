"""The study: ask, evaluate, tell, to the end of the budget.

A generation depends on the seed, its number and the trials before it alone. One worker proposes it, all score it, and when it is
full all append what the study does not hold yet: four workers, one, or one that was killed and resumed, make the same trials.
A generation has one NFE. Over several, they take turns, and a sampler sees the trials of its own: only S3 is told of the others'.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec
import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from search import storage, tracker
from search.answers import Answers
from search.board import LIVES, Board
from search.campaign import Campaign
from search.foresight import Foresight
from search.proposals import Draft, Proposals, finishers, of_nfe
from search.race import Race, Raced
from search.records import Cost, Known
from solvers import compile


class Outcome(msgspec.Struct, frozen=True):
    """What is told of a candidate: its value (None where it diverged), the seeds it saw, what the network did for it and those with it.

    errors   of every seed, where it is better than the incumbent: the next ones may race against it, and nobody has to draw it again
    """

    value: float | None
    seeds: int
    evaluations: int
    errors: tuple[float, ...] | None = None


def scored(trial: FrozenTrial, value: float) -> FrozenTrial:
    """The trial with its value. One that diverged stays PRUNED: samplers learn from it, and it can never be the best."""
    if math.isfinite(value):
        trial.state, trial.values = TrialState.COMPLETE, [value]
    return trial


def explore(
    campaign: Campaign, board: Board, study: optuna.Study, known: Mapping[int, Sequence[Known]], mirror: tracker.Mirror
) -> list[FrozenTrial]:
    """Every trial of the study once its budget is spent. The first of each NFE are warm starts and the known solvers in the space."""
    budget, foresight = campaign.settings.budget, Foresight(campaign, known, Answers(campaign.key, board.engine))
    proposals = Proposals(campaign, known, foresight)
    trials = storage.finished(study)
    race = Race(campaign.on("fit"), campaign.objective, budget.blocks, budget.risk)
    task = campaign.progress.add_task("search", total=budget.trials)
    while True:
        generation = len(trials) // budget.generation
        here = campaign.at(campaign.budgets[generation % len(campaign.budgets)])
        best = min((t.value for t in of_nfe(trials, here.nfe) if t.value is not None), default=math.inf)
        campaign.progress.update(task, completed=len(trials), description=f"search at NFE {here.nfe}, best {best:.4f}")
        if len(trials) >= budget.trials:
            foresight.forget()
            return trials
        first = generation * budget.generation
        before, numbers = trials[:first], range(len(trials), min(first + budget.generation, budget.trials))
        [told] = board.together("proposals", [generation], lambda _, g=generation, b=before: [proposals.drafts(g, b)])
        proposed = dict(enumerate(map(proposals.trial, msgspec.convert(told, list[Draft])), first))

        def score(mine: list[int], proposed: dict[int, FrozenTrial] = proposed, best: float = best) -> list[Outcome]:
            against = incumbent(here, of_nfe(before, here.nfe))  # noqa: B023 (called at once)
            found = run(here, race, {n: proposed[n] for n in mine}, against, foresight)  # noqa: B023 (as above)
            for number, outcome in zip(mine, found, strict=True):
                best = min(best, math.inf if outcome.value is None else outcome.value)
                mirror.trial(number, here.nfe, outcome.value, best)  # noqa: B023 (as above)
            return found

        def give_up(number: int) -> Outcome:
            campaign.progress.console.print(f"Trial {number} is given up: {LIVES} workers died while they scored it.")
            return Outcome(None, 0, 0)

        outcomes = msgspec.convert(board.together("search", numbers, score, given_up=give_up), list[Outcome])
        storage.append(study, [finish(proposed[n], outcome) for n, outcome in zip(numbers, outcomes, strict=True)], numbers.start)
        trials = storage.finished(study)


def run(campaign: Campaign, race: Race, trials: Mapping[int, FrozenTrial], against: Tensor | None, foresight: Foresight) -> list[Outcome]:
    """Score trials by number, and let `foresight` keep what they were answered. What the network did for all is written to the first.

    against: the incumbent's errors.
    """
    before = race.cost
    tables = [compile(campaign.space.decode(trial.params)) for trial in trials.values()]
    raced = race.run(tables, against, foresight.keep(campaign.nfe))
    foresight.told(dict(zip(trials, (r.kept for r in raced), strict=True)))
    spent = [race.cost.physical - before.physical] + [0] * len(trials)
    limit, whole = math.inf if against is None else float(race.objective.together(against)), campaign.settings.seeds.fit

    def outcome(raced: Raced, evaluations: int) -> Outcome:
        leads = raced.seeds == whole and raced.value < limit and race.objective.kind == "seeds"
        value = raced.value if math.isfinite(raced.value) else None
        return Outcome(value, raced.seeds, evaluations, tuple(raced.errors.tolist()) if leads else None)

    return [outcome(r, n) for r, n in zip(raced, spent, strict=False)]


def finish(trial: FrozenTrial, outcome: Outcome) -> FrozenTrial:
    """The trial with what was told of it."""
    trial.user_attrs.update({"seeds": outcome.seeds, "evaluations": outcome.evaluations})
    if not outcome.seeds:
        trial.user_attrs["given_up"] = True
    if outcome.errors:
        trial.user_attrs["errors"] = outcome.errors
    return scored(trial, math.inf if outcome.value is None else outcome.value)


def incumbent(campaign: Campaign, trials: Sequence[FrozenTrial]) -> Tensor | None:
    """The errors of the best so far, against which the next ones race."""
    best = finishers(trials, campaign.settings.seeds.fit)
    errors = best[0].user_attrs.get("errors") if best else None
    return None if errors is None else torch.tensor(errors, dtype=torch.float64)


def cost_of(trials: Sequence[FrozenTrial]) -> Cost:
    """What the trials cost: nfe evaluations per seed they saw, and what the network did (shared beginnings once)."""
    asked = sum(trial.user_attrs.get("seeds", 0) * trial.user_attrs["nfe"] for trial in trials)
    return Cost(asked, sum(trial.user_attrs.get("evaluations", 0) for trial in trials))
