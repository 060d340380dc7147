"""Between a campaign and its emulator: what of a trial is kept for it, and what it foresees of candidates."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from optuna.trial import FrozenTrial
from torch import Tensor

from search import baselines
from search.answers import Answers
from search.campaign import Campaign, callers, cores
from search.emulator import POINTS, Emulator, deviations, form
from search.evaluate import Drawn
from search.objective import mean_root, squared
from search.paths import SEEDS, STEPS, Paths, affordable, paths
from search.predictor import Array
from search.race import Keep
from search.records import Cost, Known
from search.s3 import Foresee, S3Sampler
from search.samplers import sampler
from solvers import Tableau, compile

PROBES = 8  # known solvers whose answers widen the coordinates


def possible(campaign: Campaign) -> bool:
    """Whether an emulator can judge the candidates, and S3 asks for one: by squared errors, of not too many pixels."""
    settings = campaign.settings
    asked = sampler(settings.sampler.name, settings.seed, 0, **settings.sampler.options)
    fits = affordable(campaign.teacher, settings.seeds.fit, len(campaign.budgets))
    return fits and isinstance(asked, S3Sampler) and asked.imagines and campaign.objective.measure is squared


def overhead(campaign: Campaign, known: Mapping[int, Sequence[Known]]) -> Cost:
    """What the coordinates cost: the teacher's way and the probes, on every seed that is emulated."""
    if not possible(campaign):
        return Cost()
    count = min(SEEDS, campaign.settings.seeds.fit) * sum(STEPS + nfe * len(_probes(nfe, of)) for nfe, of in known.items())
    return Cost(count, count)


def _probes(nfe: int, known: Sequence[Known]) -> list[Known]:
    return [item for item in baselines.best_per_kind(known) if item.nfe == nfe][:PROBES]


def telling(trials: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """The trials to learn from: the best half of so many, and the newest of the others, which say where the emulator was wrong."""
    ranked = sorted(trials, key=lambda trial: trial.value or 0.0)
    best, others = ranked[: -(-count // 2)], ranked[-(-count // 2) :]
    return best + sorted(others, key=lambda trial: -trial.number)[: count // 2]


class Foresight:
    """What the candidates of a campaign would score, by an emulator that has seen its trials; nothing where that is not possible.

    The first fit seeds are emulated, always the same, so that what was foreseen of two trials can be compared.
    """

    def __init__(self, campaign: Campaign, known: Mapping[int, Sequence[Known]], answers: Answers) -> None:
        self._campaign, self._known, self._answers = campaign, known, answers
        self._possible, self._workers = possible(campaign), campaign.settings.workers or cores()
        self._callers = callers(campaign.settings.workers, campaign.settings.device)
        self._given = dict(campaign.teacher.knobs)
        self._paths: dict[int, Paths] = {}

    def keep(self, nfe: int) -> Keep | None:
        """What a race keeps of a candidate: how far the network's answers were from the teacher's own, [seeds, nfe, m], in halves."""
        if not self._possible:
            return None
        ways = self.paths(nfe)

        def moved(tableau: Tableau, drawn: Drawn, which: Tensor) -> Tensor:
            here = which < SEEDS
            mine = ways.on(which[here])
            answers = mine.reduced([answer[here] for answer in drawn.answers])
            seen = deviations(tableau, answers, self._campaign.teacher.process, mine)
            found = seen.new_full((len(which), *seen.shape[1:]), math.nan)
            found[here] = seen
            return found.half()

        return moved

    def told(self, kept: Mapping[int, Tensor | None]) -> None:
        """What was kept of some trials."""
        self._answers.keep({number: held[:SEEDS] for number, held in kept.items() if held is not None})

    def forget(self) -> None:
        """Once the campaign is complete."""
        self._answers.forget()

    def on(self, nfe: int, trials: Sequence[FrozenTrial]) -> Foresee | None:
        """What the finished trials of one NFE let foresee: the objective on every seed. None before there are any."""
        if not self._possible:
            return None
        finished = telling([t for t in trials if t.value is not None], POINTS // nfe)
        answers = self._answers.of(t.number for t in finished)
        seen = [t for t in finished if t.number in answers]
        if not seen:
            return None
        space, ways, rooted = self._campaign.spaces[nfe], self.paths(nfe), self._campaign.objective.together is mean_root

        @functools.cache
        def emulator() -> Emulator:  # most generations ask, but those of known solvers do not
            moved = torch.stack([answers[t.number] for t in seen]).double()
            tables = [compile(space.decode(t.params)) for t in seen]
            return Emulator(ways, form(tables, space.process, self._given), moved, self._workers)

        def foresee(candidates: Sequence[Mapping[str, Any]]) -> Array:
            tables = [compile(space.decode(params)) for params in candidates]
            errors = emulator().errors(form(tables, space.process, self._given))
            return (errors.sqrt() if rooted else errors).numpy()

        return foresee

    def paths(self, nfe: int) -> Paths:
        """The teacher's ways, in coordinates that the best known solvers of that NFE have widened."""
        if nfe not in self._paths:
            campaign = self._campaign
            goal = campaign.on("fit").on(torch.arange(min(SEEDS, campaign.settings.seeds.fit))).targets
            probes = [baselines.schedule(item, campaign.teacher) for item in _probes(nfe, self._known[nfe])]
            self._paths[nfe] = paths(campaign.teacher, goal, probes, self._callers, campaign.progress)
        return self._paths[nfe]
