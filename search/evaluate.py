"""How far candidates end from the teacher: many at a time.

K schedules times B seeds run as one batch of K B samples, each with its own coefficients and labels, through the same
executor that users run. The first evaluation (same x_T, same time) is the same for every candidate: it is asked once per
evaluator and remembered.
"""

from collections.abc import Sequence
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
    """Scores candidates against one block of targets. `chunk` bounds how many samples are in flight."""

    def __init__(self, teacher: Teacher, targets: Targets, chunk: int = 256) -> None:
        self.teacher, self.targets, self.chunk = teacher, targets, chunk
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
            for group in (same[first : first + step] for first in range(0, len(same), step)):
                pictures = self._run([tableaus[index] for index in group])
                for index, candidate in zip(group, pictures, strict=True):
                    found[index] = measure(candidate, self.targets.images)
        return found

    def images(self, tableau: Tableau) -> Tensor:
        """The candidate's images for the seeds of the targets, [seeds, ...]."""
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
            first = [self._answer(tableau.evals[0]) for tableau in tableaus]
            state, request = advance(state, torch.cat(first))
        while request is not None:
            state, request = advance(state, self.teacher.denoiser(request.x, request.at, cond=many, **knobs | dict(request.knobs)))
        asked = sum(tableau.nfe for tableau in tableaus)
        self.cost += Cost(asked * seeds, (asked - count) * seeds)
        return state.x.unflatten(0, (count, seeds))

    def _answer(self, asked: Evaluation) -> Tensor:
        """The denoiser at the start, asked once for every label and knobs that candidates start with."""
        key = (*map(float, asked.at), *asked.knobs.items())
        if key not in self._first:
            knobs: dict[str, Any] = dict(self.teacher.knobs) | dict(asked.knobs)
            self._first[key] = self.teacher.denoiser(self.targets.noise, asked.at, cond=self.targets.cond, **knobs)
            self.cost += Cost(0, len(self.targets.seeds))
        return self._first[key]
