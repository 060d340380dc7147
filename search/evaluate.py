"""Score many candidates against the teacher's images, in as few evaluations of the network as that takes.

Candidates of equal NFE advance side by side, level by level: at each level those whose states are still the same (the same
rows so far, so the same x, at and knobs) are asked for once, and the rest go to the network together, in batches that
run side by side. What is asked at x_T is always shared. `Cost` counts what the candidates ask and what the network did.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from search.objective import Measure, squared
from search.records import Cost
from solvers import Dense, Evaluation, Row, Tableau, advance, begin, draw
from solvers.sample import Request
from solvers.tableau import START
from teacher.denoiser import Teacher, at_of
from teacher.trajectories import Targets

NUMBERS = 2**26  # of the states of all samples that are under way


def stack(tableaus: Sequence[Tableau], forms: Sequence[Dense], repeats: int) -> Tableau:
    """One table for a batch of len(tableaus) * repeats samples: the closed forms side by side, [batch] coefficients.

    All must have the same NFE; forms are those of their visible rows. Candidate k takes samples k * repeats to (k + 1) * repeats.
    Knobs are left out.
    """
    nfe, noises = tableaus[0].nfe, max(form.G.shape[1] for form in forms)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(repeats)

    padded = [torch.cat([f.a[:, None], f.B, f.G, f.G.new_zeros(nfe + 1, noises - f.G.shape[1])], 1) for f in forms]
    table = torch.stack(padded, -1).repeat_interleave(repeats, -1)
    slots = [START, *(f"D{j}" for j in range(nfe)), *(f"z{m}" for m in range(noises))]
    rows: list[Row] = []
    for r in range(nfe + 1):
        evaluation = None
        if r < nfe:
            label, alpha, sigma = ([float(getattr(t.evals[r], name)) for t in tableaus] for name in ("label", "alpha", "sigma"))
            evaluation = Evaluation(column(label), column(alpha), column(sigma))
        terms = {slot: c for slot, c in zip(slots, table[r], strict=True) if slot == START or bool(c.any())}
        rows.append(Row(f"x{r}", 0.0, terms, evaluation))
    return Tableau(tuple(rows))


def prefixes(tableau: Tableau, form: Dense) -> list[tuple[Any, ...]]:
    """One key per evaluation: two candidates of one batch are asked the same there if and only if their keys are equal."""
    if tableau.layout:
        return [((id(tableau), level),) for level in range(tableau.nfe)]  # it shares nothing
    so_far: tuple[Any, ...] = ()
    keys: list[tuple[Any, ...]] = []
    for r, asked in enumerate(tableau.evals):
        state = (float(form.a[r]), *form.B[r, :r].tolist(), *((m, g) for m, g in enumerate(form.G[r].tolist()) if g))
        so_far = (*so_far, (*state, float(asked.label), float(asked.alpha), float(asked.sigma), *sorted(asked.knobs.items())))
        keys.append(so_far)
    return keys


class Drawn(NamedTuple):
    """What came of a candidate: its images [seeds, ...], and the network's answers on the way, as many of the same shape as its NFE."""

    images: Tensor
    answers: tuple[Tensor, ...]


class Evaluator:
    """Scores candidates against one block of targets.

    chunk    samples in one call of the network, at most, which may be less than the seeds of a candidate; `workers` calls run
             side by side, one thread each (torch lets go of the interpreter while it computes). Small networks gain little
             from many threads inside one operation, and lose much when another process wants the cores. On CPUs more samples
             than fit into the caches are slower.
    group    samples that are under way at once, at most: what bounds the memory, as NUMBERS does where samples are large
    """

    def __init__(self, teacher: Teacher, targets: Targets, chunk: int = 64, workers: int = 1, group: int = 2048) -> None:
        self.teacher, self.targets, self.chunk, self.workers = teacher, targets, chunk, workers
        self.group = max(1, min(group, NUMBERS // math.prod(teacher.shape)))
        self.cost = Cost()
        self._first: dict[tuple[Any, ...], Tensor] = {}

    def on(self, index: Tensor) -> "Evaluator":
        """An evaluator on some of the seeds, with costs of its own."""
        goal = self.targets
        part = replace(
            goal,
            seeds=tuple(goal.seeds[i] for i in index.tolist()),
            noise=goal.noise[index],
            images=goal.images[index],
            cond=None if goal.cond is None else goal.cond[index],
        )
        return Evaluator(self.teacher, part, self.chunk, self.workers, self.group)

    def errors(self, tableaus: Sequence[Tableau], measure: Measure = squared) -> Tensor:
        """The measured records per seed, [candidates, seeds, ...] in float64; not finite where a candidate diverges."""
        found = {index: measure(drawn.images, self.targets.images).double() for index, drawn in self.drawn(tableaus)}
        return torch.stack([found[index] for index in range(len(tableaus))])

    def drawn(self, tableaus: Sequence[Tableau]) -> Iterator[tuple[int, Drawn]]:
        """Every candidate's number and what came of it, in an order that shares most.

        Candidates may differ in NFE. How they are batched changes results by rounding only.
        """
        for nfe in sorted({tableau.nfe for tableau in tableaus}):
            same = [index for index, tableau in enumerate(tableaus) if tableau.nfe == nfe]
            alone = [[index] for index in same if tableaus[index].layout]  # coefficients of every element stand in no batch
            shared = [index for index in same if not tableaus[index].layout]
            for part in (*_parts(shared, max(1, self.group // len(self.targets.seeds))), *alone):
                yield from zip(part, self._run([tableaus[index] for index in part]), strict=True)

    def images(self, tableau: Tableau) -> Tensor:
        """The candidate's images for the seeds of the targets, [seeds, ...]."""
        return self._run([tableau])[0].images

    def _run(self, tableaus: Sequence[Tableau]) -> list[Drawn]:
        """What comes of candidates of equal NFE."""
        goal, count, seeds = self.targets, len(tableaus), len(self.targets.seeds)
        forms = [tableau.dense().at(tableau.visible) for tableau in tableaus]
        keys = [prefixes(tableau, form) for tableau, form in zip(tableaus, forms, strict=True)]
        table = stack(tableaus, forms, seeds) if count > 1 else tableaus[0]
        noise = {name: torch.cat([draw(goal.seeds, goal.noise.shape[1:], name)] * count) for name in table.noises}
        answered: list[Tensor] = []
        with torch.no_grad(), ThreadPoolExecutor(self.workers) as pool:
            state, request = advance(begin(table, torch.cat([goal.noise] * count), noise or None))
            for level in range(table.nfe):
                assert request is not None  # a table asks nfe times
                here = [key[level] for key in keys]
                answers = dict(self._first) if level == 0 else {}
                missing = [here.index(key) for key in dict.fromkeys(here) if key not in answers]
                self.cost += Cost(count * seeds, len(missing) * seeds)
                by_knobs = sorted(missing, key=lambda k: sorted(tableaus[k].evals[level].knobs.items()))
                for knobs, same in itertools.groupby(by_knobs, key=lambda k: tableaus[k].evals[level].knobs):
                    asked = list(same)
                    samples = torch.cat([torch.arange(k * seeds, (k + 1) * seeds) for k in asked])
                    calls = pool.map(self._ask, itertools.repeat(request), self._batches(samples), itertools.repeat(knobs))
                    answers |= zip((here[k] for k in asked), torch.cat(list(calls)).unflatten(0, (len(asked), seeds)), strict=True)
                if level == 0:  # what most begin with is asked once for all batches: the network at x_T, which nothing has rounded yet
                    begun = Counter(key for key in here if key[0][0] == 1.0)
                    self._first = {key: answers[key] for key, _ in begun.most_common(1)} or self._first
                answered.append(torch.cat([answers[key] for key in here]))
                state, request = advance(state, answered[-1])
        apart = ([whole[k * seeds : (k + 1) * seeds] for whole in (state.x, *answered)] for k in range(count))
        return [Drawn(images, tuple(answers)) for images, *answers in apart]

    def _batches(self, samples: Tensor) -> Sequence[Tensor]:
        """In parts of equal size, as many as keep every worker busy to the end, none larger than `chunk`."""
        return samples.tensor_split(min(len(samples), self.workers * -(-len(samples) // (self.chunk * self.workers))))

    @torch.no_grad()
    def _ask(self, request: Request, samples: Tensor, knobs: Mapping[str, float]) -> Tensor:
        """The network's answers to the requests of some samples of a batch of candidates, in one call."""
        cond = self.targets.cond
        many = None if cond is None else cond[samples % len(self.targets.seeds)]
        return self.teacher.denoiser(request.x[samples], at_of(request.at, samples), cond=many, **dict(self.teacher.knobs) | dict(knobs))


def _parts(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[first : first + size] for first in range(0, len(items), size))
