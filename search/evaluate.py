"""How far candidates end from the teacher: many at a time.

K schedules times B seeds run as one batch of K B samples, each with its own coefficients and labels, through the same
executor that users run. The first evaluation (same x_T, same time) is the same for every candidate: it is asked once per
evaluator and remembered.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from search.objective import Measure, squared
from search.result import Cost
from solvers import Evaluation, Row, Tableau, advance, begin
from solvers.tableau import START
from teacher.denoiser import Teacher
from teacher.trajectories import Targets


def stack(tableaus: Sequence[Tableau], repeats: int) -> Tableau:
    """One table for a batch of len(tableaus) * repeats samples: the closed forms side by side, [batch] coefficients.

    All must have the same NFE, no noise and no knobs per row; candidate k takes samples k * repeats to (k + 1) * repeats.
    """
    forms = [(tableau.dense(), [i for i, row in enumerate(tableau.rows) if row.evaluation]) for tableau in tableaus]
    nfe = tableaus[0].nfe

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).repeat_interleave(repeats)

    rows: list[Row] = []
    for r in range(nfe + 1):
        index = [asked[r] if r < nfe else -1 for _, asked in forms]
        terms = {START: column([float(d.a[i]) for (d, _), i in zip(forms, index, strict=True)])}
        terms |= {f"D{j}": column([float(d.B[i, j]) for (d, _), i in zip(forms, index, strict=True)]) for j in range(r)}
        evaluation = None
        if r < nfe:
            asked = [tableau.evals[r] for tableau in tableaus]
            label, alpha, sigma = (column([float(getattr(e, name)) for e in asked]) for name in ("label", "alpha", "sigma"))
            evaluation = Evaluation(label, alpha, sigma)
        rows.append(Row(f"x{r}", 0.0, terms, evaluation))
    return Tableau(tuple(rows))


class Evaluator:
    """Scores candidates against one block of targets: `workers` batches at a time, of about `chunk` samples each.

    Small networks gain little from many threads inside one operation, and lose much when another process wants the cores;
    batches side by side, one thread each, do not wait for one another. (torch lets go of the interpreter while it computes.)
    """

    def __init__(self, teacher: Teacher, targets: Targets, chunk: int = 128, workers: int = 1) -> None:
        self.teacher, self.targets, self.chunk, self.workers = teacher, targets, chunk, workers
        self.cost = Cost()
        self._first: dict[tuple[Any, ...], Tensor] = {}

    def errors(self, tableaus: Sequence[Tableau], measure: Measure = squared) -> Tensor:
        """The measured error per seed, [candidates, seeds] in float64; not finite where a candidate diverges.

        Candidates may differ in NFE. Chunking changes results by rounding only.
        """
        seeds = len(self.targets.seeds)
        found = torch.empty(len(tableaus), seeds, dtype=torch.float64)
        step = max(1, self.chunk // seeds)
        for nfe in sorted({tableau.nfe for tableau in tableaus}):
            same = [index for index, tableau in enumerate(tableaus) if tableau.nfe == nfe]
            groups = [same[first : first + step] for first in range(0, len(same), step)]
            self._ask_first([tableaus[index] for index in same])
            with ThreadPoolExecutor(self.workers) as pool:
                batches = pool.map(self._run, ([tableaus[index] for index in group] for group in groups))
                for group, pictures in zip(groups, batches, strict=True):
                    for index, candidate in zip(group, pictures, strict=True):
                        found[index] = measure(candidate, self.targets.images)
        return found

    def images(self, tableau: Tableau) -> Tensor:
        """The candidate's images for the seeds of the targets, [seeds, ...]."""
        self._ask_first([tableau])
        return self._run([tableau])[0]

    @torch.no_grad()
    def _run(self, tableaus: Sequence[Tableau]) -> Tensor:
        """Images [candidates, seeds, ...]."""
        count, seeds = len(tableaus), len(self.targets.seeds)
        table = stack(tableaus, seeds) if count > 1 else tableaus[0]
        cond = self.targets.cond
        many = None if cond is None else torch.cat([cond] * count)
        knobs: dict[str, Any] = dict(self.teacher.knobs)
        state, request = advance(begin(table, torch.cat([self.targets.noise] * count)))
        if request is not None:
            first = [self._first[_key(tableau.evals[0])] for tableau in tableaus]
            state, request = advance(state, torch.cat(first))
        while request is not None:
            state, request = advance(state, self.teacher.denoiser(request.x, request.at, cond=many, **knobs | dict(request.knobs)))
        return state.x.unflatten(0, (count, seeds))

    @torch.no_grad()
    def _ask_first(self, tableaus: Sequence[Tableau]) -> None:
        """Count the cost of the candidates, and ask the denoiser at the start for every label and knobs not asked before."""
        seeds = len(self.targets.seeds)
        for tableau in tableaus:
            asked = tableau.evals[0]
            self.cost += Cost(tableau.nfe * seeds, (tableau.nfe - 1) * seeds)
            if _key(asked) not in self._first:
                knobs: dict[str, Any] = dict(self.teacher.knobs) | dict(asked.knobs)
                self._first[_key(asked)] = self.teacher.denoiser(self.targets.noise, asked.at, cond=self.targets.cond, **knobs)
                self.cost += Cost(0, seeds)


def _key(asked: Evaluation) -> tuple[Any, ...]:
    return (*map(float, asked.at), *asked.knobs.items())
