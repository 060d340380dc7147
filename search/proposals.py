"""What is proposed: warm starts and known solvers first, then what the sampler asks for, given the trials of the same NFE.

Over several NFE the study has guests besides, for S3: the best schedules of the NFE beside, with a step inserted or deleted.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from search import baselines
from search.campaign import Campaign
from search.features import describer
from search.foresight import Foresight
from search.moves import fitted, neighbours
from search.records import Known
from search.samplers import sampler
from search.space import Params
from solvers import ScheduleError

VISITING = 2  # schedules of each budget beside that may move


class Draft(msgspec.Struct, frozen=True):
    """A candidate on the board: its parameters and what goes with them into its trial."""

    params: Params
    user_attrs: dict[str, Any] = {}
    system_attrs: dict[str, Any] = {}


class Proposals:
    """Optuna's sampler in front of a copy of the finished trials in memory, where asking commits nothing and numbers are the same again."""

    def __init__(self, campaign: Campaign, known: Mapping[int, Sequence[Known]], foresight: Foresight) -> None:
        self._campaign, self._foresight = campaign, foresight
        self._queues = {nfe: enqueued(campaign.at(nfe), known[nfe]) for nfe in campaign.budgets}
        self._distributions = {nfe: space.distributions() for nfe, space in campaign.spaces.items()}
        self._describe = {nfe: describer(space) for nfe, space in campaign.spaces.items()}

    def generation(self, number: int, before: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """The candidates of a generation, unscored: what is still queued, then what the sampler asks for, given the trials before."""
        settings, budgets = self._campaign.settings, self._campaign.budgets
        turn, which = divmod(number, len(budgets))
        nfe, size = budgets[which], settings.budget.generation
        told = {"describe": self._describe[nfe], "foresee": self._foresight.on(nfe, of_nfe(before, nfe))}
        asked = sampler(settings.sampler.name, settings.seed, number, told, **settings.sampler.options)
        memory = optuna.create_study(sampler=asked)
        memory.add_trials(of_nfe(before, nfe))
        memory.set_user_attr("guests", list(self._guests(which, before)))
        queued = self._queues[nfe][turn * size : (turn + 1) * size]
        found = [self.trial(Draft(params, {"nfe": nfe, "origin": origin})) for params, origin in queued]
        for _ in range(size - len(found)):
            trial = memory.ask(self._distributions[nfe])
            found.append(self.trial(Draft(trial.params, {"nfe": nfe}, memory.get_trials(deepcopy=False)[trial.number].system_attrs)))
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
        """The best few schedules of the budgets beside, if they are new, with a step inserted or deleted, wherever that can be."""
        settings, budgets, spaces = self._campaign.settings, self._campaign.budgets, self._campaign.spaces
        last = len(before) - len(budgets) * settings.budget.generation  # when it was this budget's turn
        for beside in (*budgets[max(0, which - 1) : which], *budgets[which + 1 : which + 2]):
            best = finishers(of_nfe(before, beside), settings.seeds.fit)[:VISITING]
            for schedule in [spaces[beside].decode(trial.params) for trial in best if trial.number >= last]:
                yield from map(spaces[budgets[which]].nearest, neighbours(schedule, budgets[which]))


def of_nfe(trials: Sequence[FrozenTrial], nfe: int) -> list[FrozenTrial]:
    """The trials of one NFE."""
    return [trial for trial in trials if trial.user_attrs["nfe"] == nfe]


def finishers(trials: Sequence[FrozenTrial], seeds: int) -> list[FrozenTrial]:
    """The trials that were scored on every fit seed, best first."""
    whole = [trial for trial in trials if trial.value is not None and trial.user_attrs.get("seeds", seeds) == seeds]
    return sorted(whole, key=lambda trial: trial.value or 0.0)


def enqueued(campaign: Campaign, known: Sequence[Known]) -> list[tuple[Params, str]]:
    """Where the search at one NFE starts: warm starts, then the known solvers in the space, the best of the best kinds and the best few."""
    answers = campaign.space.answer
    found: list[tuple[Params, str]] = []
    for start in campaign.warm:
        first, *rest = start.schedule.steps
        first = first if first.answer in answers else msgspec.structs.replace(first, answer=answers[0])
        schedule = msgspec.structs.replace(start.schedule, steps=(first, *rest))
        found.append((campaign.space.nearest(fitted(schedule, campaign.nfe)), start.origin))
    chosen = [*baselines.best_per_kind(known)[:12], *known[:8]]
    for item in [item for index, item in enumerate(chosen) if item not in chosen[:index]]:
        try:
            found.append((campaign.space.encode(baselines.schedule(item, campaign.teacher)), item.name))
        except ScheduleError:
            continue  # two-stage methods and words that were switched off stay outside: they are baselines all the same
    return found
