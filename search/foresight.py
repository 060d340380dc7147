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
from search.campaign import Campaign, cores
from search.emulator import Emulator, deviations, form
from search.evaluate import Drawn
from search.objective import squared
from search.paths import DIRECTIONS, STEPS, Paths, paths
from search.predictor import Array
from search.race import Keep
from search.result import Cost, Known
from search.s3 import Foresee
from solvers import Tableau, compile

POINTS = 400  # answers of a seed that the emulator is conditioned on, at most
SEEDS = 128  # that are emulated, at most: always the first ones, so that what was foreseen of two trials can be compared
LARGEST = 2**29  # numbers of a basis: 2 GiB
PROBES = 8  # known solvers whose answers widen the coordinates


def possible(campaign: Campaign) -> bool:
    """Whether an emulator can judge the candidates, and S3 asks it: of squared errors, without injected noise or too many pixels."""
    settings, options = campaign.settings, campaign.settings.sampler.options
    asked = settings.sampler.name == "s3" and options.get("rounds", 1) and options.get("pool", 2) > 1
    noisy = any(space.eta[1] for space in campaign.spaces.values())
    small = settings.seeds.fit * DIRECTIONS * math.prod(campaign.teacher.shape) <= LARGEST
    return bool(asked) and campaign.objective.measure is squared and not noisy and not campaign.teacher.process.anchored and small


def overhead(campaign: Campaign, known: Mapping[int, Sequence[Known]]) -> Cost:
    """What the coordinates cost: the teacher's way and the probes, on every fit seed."""
    if not possible(campaign):
        return Cost()
    count = len(campaign.on("fit").targets.seeds) * sum(STEPS + nfe * len(_probes(nfe, of)) for nfe, of in known.items())
    return Cost(count, count)


def _probes(nfe: int, known: Sequence[Known]) -> list[Known]:
    return [item for item in baselines.best_per_kind(known) if item.nfe == nfe][:PROBES]


class Foresight:
    """What the candidates of a campaign would score, by an emulator that has seen its trials; nothing where that is not possible."""

    def __init__(self, campaign: Campaign, known: Mapping[int, Sequence[Known]], answers: Answers) -> None:
        self._campaign, self._known, self._answers = campaign, known, answers
        self._possible, self._workers = possible(campaign), campaign.settings.workers or cores()
        self._paths: dict[int, Paths] = {}

    def keep(self, nfe: int) -> Keep | None:
        """What a race keeps of a candidate: how far the network's answers were from the teacher's own, [seeds, nfe, m], in halves."""
        if not self._possible:
            return None

        def moved(tableau: Tableau, drawn: Drawn, which: Tensor) -> Tensor:
            here = self.paths(nfe).on(which)
            answers = here.reduced(torch.stack([answer.flatten(1) for answer in drawn.answers], 1))
            return deviations(form([tableau], self._campaign.teacher.process), answers, here).half()

        return moved

    def told(self, kept: Mapping[int, Tensor]) -> None:
        """What was kept of some trials."""
        self._answers.keep(kept)

    def on(self, nfe: int, trials: Sequence[FrozenTrial]) -> Foresee | None:
        """What the finished trials of one NFE let foresee; none before there are any."""
        if not self._possible:
            return None
        finished = sorted((t for t in trials if t.value is not None), key=lambda t: t.value or 0.0)[: POINTS // nfe]
        answers = self._answers.of(t.number for t in finished)
        seen = [t for t in finished if t.number in answers]
        if not seen:
            return None
        space, ways = self._campaign.spaces[nfe], self.paths(nfe)
        seeds = torch.arange(min(SEEDS, len(ways.noise)))

        @functools.cache
        def emulator() -> Emulator:  # most generations ask, but those of known solvers do not
            moved = torch.stack([answers[t.number][seeds] for t in seen]).double()
            tables = [compile(space.decode(t.params)) for t in seen]
            return Emulator(ways.on(seeds), form(tables, space.process), moved, self._workers)

        def foresee(candidates: Sequence[Mapping[str, Any]]) -> Array:
            tables = [compile(space.decode(params)) for params in candidates]
            return emulator().errors(form(tables, space.process)).numpy()

        return foresee

    def paths(self, nfe: int) -> Paths:
        """The teacher's ways, in coordinates that the best known solvers of that NFE have widened."""
        if nfe not in self._paths:
            campaign = self._campaign
            probes = [baselines.schedule(item, campaign.teacher) for item in _probes(nfe, self._known[nfe])]
            self._paths[nfe] = paths(campaign.teacher, campaign.on("fit").targets, probes, self._workers)
        return self._paths[nfe]
