"""How far candidates end from the teacher: many at a time.

K schedules times B seeds run as one batch of K B samples, each with its own coefficients and labels, through the same
executor that users run. What all candidates ask alike (the first evaluation: same x_T, same time) is asked once.
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


def images(teacher: Teacher, tableau: Tableau, targets: Targets) -> Tensor:
    """The candidate's images for the seeds of `targets`, [seeds, ...]."""
    return _run(teacher, [tableau], targets)[0][0]


def errors(
    teacher: Teacher, tableaus: Sequence[Tableau], targets: Targets, measure: Measure = squared, chunk: int = 256
) -> tuple[Tensor, Cost]:
    """The measured error per seed, [candidates, seeds] in float64 (not finite where a candidate diverges), and the cost.

    Candidates may differ in NFE. `chunk` bounds how many samples are in flight; it changes results by rounding only.
    """
    seeds = len(targets.seeds)
    found = torch.empty(len(tableaus), seeds, dtype=torch.float64)
    cost = Cost()
    for nfe in sorted({tableau.nfe for tableau in tableaus}):
        same = [index for index, tableau in enumerate(tableaus) if tableau.nfe == nfe]
        step = max(1, chunk // seeds)
        for group in (same[first : first + step] for first in range(0, len(same), step)):
            pictures, spent = _run(teacher, [tableaus[index] for index in group], targets)
            for index, candidate in zip(group, pictures, strict=True):
                found[index] = measure(candidate, targets.images)
            cost += spent
    return found, cost


@torch.no_grad()
def _run(teacher: Teacher, tableaus: Sequence[Tableau], targets: Targets) -> tuple[Tensor, Cost]:
    """Images [candidates, seeds, ...] and the cost."""
    count, seeds = len(tableaus), len(targets.seeds)
    knobs: dict[str, Any] = dict(teacher.knobs)
    first = {(e.label, e.alpha, e.sigma) for e in (tableau.evals[0] for tableau in tableaus)}
    table = stack(tableaus, seeds) if count > 1 else tableaus[0]
    cond = targets.cond
    many = None if cond is None else torch.cat([cond] * count)
    state, request = advance(begin(table, torch.cat([targets.noise] * count)))
    physical = 0
    while request is not None:
        if len(first) == 1 and physical == 0:
            at = tableaus[0].evals[0].at
            answer = torch.cat([teacher.denoiser(targets.noise, at, cond=cond, **knobs)] * count)
            physical += seeds
        else:
            answer = teacher.denoiser(request.x, request.at, cond=many, **knobs)
            physical += count * seeds
        state, request = advance(state, answer)
    return state.x.unflatten(0, (count, seeds)), Cost(sum(t.nfe for t in tableaus) * seeds, physical)
