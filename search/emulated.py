"""Levenberg-Marquardt on an emulator of the network: the network is asked for answers, never for their derivatives.

A table is fitted to the emulator of search.emulator, which knows the teacher's own way on every seed and what the network has
answered to this fit's tables so far; the network is asked then, as often as the table has evaluations:

    theta' = a few iterations of search.marquardt from theta, on the emulator
    theta <- theta' if the network agrees that it is better; else again, knowing its answers, with four times the damping

Space mapping (Bandler et al. 2004) with a coarse model that learns. A Jacobian of the network costs as many evaluations as the table
has, times the directions in which its parameters move the states.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from search import marquardt
from search.emulator import POINTS, Emulator, Form, deviations, form
from search.evaluate import Evaluator, prefixes
from search.learner import Learner
from search.losses import SQUARES, Loss, View
from search.objective import squared
from search.parametrise import Parametrisation
from search.paths import SEEDS, Paths, affordable, paths
from search.residuals import Batch, Numbers
from search.task import Memory, Moved, Task
from solvers import ScheduleError, SolverSchedule, Tableau, compile
from teacher import cache
from teacher.denoiser import Teacher
from teacher.trajectories import Targets

INNER = 3  # iterations on the emulator before the network is asked
ATTEMPTS = 5  # to find something better in one iteration
PROBES, NEARBY = 3, 0.1  # how many parameters around the start are asked for first, and how far away


def surrogate(
    learner: Learner, teacher: Teacher, goal: Targets, starts: Sequence[SolverSchedule], progress: Progress
) -> "Surrogate | None":
    """What fits from these starts share, where a part of them is learned on an emulator; none where that is not possible.

    Coordinates know the mean square of a seed and nothing else of a residual, and they are many where pictures are large.
    """
    wanted = learner.optimiser.startswith("emulated") and learner.objective in SQUARES
    return Surrogate(teacher, goal, starts, progress) if wanted and affordable(teacher, len(goal.seeds)) else None


class Surrogate:
    """An emulator of the network on the seeds of one block, and what it was told: the network's answers to tables, which are kept.

    starts   schedules of one NFE, whose answers span the coordinates (search.paths) and are what it knows at first
    """

    def __init__(
        self, teacher: Teacher, goal: Targets, starts: Sequence[SolverSchedule], progress: Progress | None = None, root: Path = cache.ROOT
    ) -> None:
        self._teacher, self._evaluator = teacher, Evaluator(teacher, goal)
        self._here = torch.arange(min(SEEDS, len(goal.seeds)))
        self._ways = paths(teacher, self._evaluator.on(self._here).targets, starts, progress=progress, root=root)
        self._starts = [compile(start) for start in starts]
        knobs = frozenset[str]().union(*(table.knobs for table in self._starts))
        self._given = dict.fromkeys(knobs, 0.0) | dict(teacher.knobs)
        probed = self._ways.probed.unbind(1)
        self._moved = [deviations(*each, teacher.process, self._ways) for each in zip(self._starts, probed, strict=True)]
        self._asked = dict[tuple[Any, ...], tuple[Tensor, Tensor]]()

    def costs(self, table: Tableau, loss: Loss) -> Tensor:
        """The cost of every seed, [seeds], by one of SQUARES."""
        return loss.costs(self._answered(table)[0])

    def batches(self, tables: Sequence[Tableau]) -> list[Batch]:
        """The seeds as the emulator sees them, once it knows the answers to the starts and these tables, the newest of so many."""
        newest = slice(-(POINTS // tables[0].nfe), None)
        known = [*self._starts, *tables][newest]
        moved = [*self._moved, *(self._answered(table)[1] for table in tables)][newest]
        ways, process = self._ways, self._teacher.process
        emulator = Emulator(ways, form(known, process, self._given), torch.stack(moved))
        ends = ways.scaled(ways.noise), ways.scaled(ways.images)
        return [SurrogateBatch(self._teacher, *ends, None, ways=ways, emulator=emulator, given=self._given)]

    def _answered(self, table: Tableau) -> tuple[Tensor, Tensor]:
        """Every seed's root mean square, [seeds, 1]; how far answers were from the teacher's own where it is emulated, [S, N, m]."""
        dense = table.dense().at(table.visible)
        key = _rounded((*prefixes(table, dense)[-1], float(dense.a[-1]), *dense.B[-1].tolist()))
        if key not in self._asked:
            ((_, drawn),) = self._evaluator.drawn([table])
            answers = [answer[self._here] for answer in drawn.answers]
            squares = squared(drawn.images, self._evaluator.targets.images).double()
            moved = deviations(table, self._ways.reduced(answers), self._teacher.process, self._ways)
            self._asked[key] = squares.sqrt()[:, None], moved
        return self._asked[key]


@dataclass(kw_only=True)
class SurrogateBatch(Batch):
    """Seeds whose network is an emulator; noise and images are coordinates, scaled."""

    ways: Paths
    emulator: Emulator
    given: Mapping[str, float]

    def residual(self, table: Tableau, view: View) -> Tensor:
        """As that of a Batch."""
        here = self._form(table)
        return self._residue(torch.cat([part.ends(here)[0] for part in self.emulator.parts]), view)

    def jacobian(self, numbers: Numbers, tangents: Tensor, view: View, tolerance: float = 0.0) -> tuple[Tensor, Tensor]:
        """As that of a Batch, exactly."""

        def flat(vector: Tensor) -> tuple[Tensor, Form]:
            found = self._form(Tableau(numbers.fill(vector)))
            return torch.cat([each.flatten() for each in found]), found

        slopes, here = torch.func.jacrev(flat, has_aux=True)(numbers.vector)
        moving = tangents.any(0)  # the label of pure noise is not among them, where lambda has no slope
        moves = (tangents[:, moving] @ slopes[:, moving].T).split([each.numel() for each in here], 1)
        along = Form(*(move.reshape(-1, *each.shape[1:]) for move, each in zip(moves, here, strict=True)))
        ends, columns = zip(*(part.moved(here, along) for part in self.emulator.parts), strict=True)
        return self._residue(torch.cat(ends), view), self.ways.scaled(torch.cat(columns).transpose(0, 1))

    def _form(self, table: Tableau) -> Form:
        return form([table], self.teacher.process, self.given)

    def _residue(self, ends: Tensor, view: View) -> Tensor:
        return self.residue((), self.ways.scaled(ends), view)


def _rounded(key: Any) -> Any:
    """Two tables that differ by rounding are one."""
    return tuple(map(_rounded, key)) if isinstance(key, tuple) else round(key, 12) if isinstance(key, float) else key


def iterate(task: Task, theta: Tensor, memory: Memory, damping: float, surrogate: Surrogate) -> Moved | None:
    """One iteration; None where the emulator, told again and again, finds nothing better. damping: where Marquardt's factor starts."""
    (damping,) = memory.get("damping", (damping,))
    tried = [*torch.tensor(memory.get("tried", ()), dtype=torch.float64).reshape(-1, len(theta))] or [*_around(theta, task.form), theta]
    tables = [task.form.table(each) for each in tried]
    now = task.loss.together(surrogate.costs(task.form.table(theta), task.loss)) + task.shrinkage(theta)
    for _ in range(ATTEMPTS):
        there = replace(task, parts=surrogate.batches(tables))
        moved = _fitted(there, theta, damping)
        if moved is None:
            return None
        tried.append(moved.theta)
        tables.append(moved.table)
        loss = task.loss.together(surrogate.costs(moved.table, task.loss))
        then = loss + task.shrinkage(moved.theta)
        if then < now:
            kept = {"damping": (damping / 3,), "tried": tuple(torch.cat(tried).tolist())}
            return Moved(moved.theta, moved.table, loss, 1 - then / now, kept)
        damping *= 4
    return None


def _around(theta: Tensor, form: Parametrisation) -> list[Tensor]:
    """A few parameters near by that have a table: of what no known one has moved, labels mostly, an emulator knows no derivative."""
    near = theta + NEARBY * torch.randn(PROBES, len(theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = list[Tensor]()
    for each in near:
        with suppress(ScheduleError):  # there two times have met
            form.table(each)
            found.append(each)
    return found


def _fitted(there: Task, theta: Tensor, damping: float) -> Moved | None:
    """Some iterations on the emulator; None at its minimum."""
    moved: Moved | None = None
    for _ in range(INNER):
        after = marquardt.iterate(there, moved.theta if moved else theta, moved.memory if moved else {}, damping)
        if after is None:
            break
        moved = after
    return moved
