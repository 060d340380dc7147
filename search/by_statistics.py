"""DPM-Solver-v3 as a level of the learner (Zheng et al. 2023): statistics of the network are measured, and no loss is followed down.

On the schedule's times, as many steps as it has evaluations; statistics of the seeds of `fit`, at full strength and shrunk towards
those of plain theory, with which it is exponential Adams in lambda:

    l' = l + shrink (1 - l),      s' = (1 - shrink) s,      b' = (1 - shrink) b

A strength with an order, a corrector and a tail is a stage of one iteration. `select` chooses among them and the schedule itself.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import msgspec
from rich.progress import Progress

from search.fit import Entry, Fit, Point
from search.learner import STATISTICS, Learner, Stage
from search.losses import Loss
from search.parametrise import Parametrisation
from solvers import SolverSchedule, Statistics, Step, Tableau, compile, dpm_solver_v3
from solvers.commands.interpolate import interpolated
from solvers.dpm_solver_v3 import CORRECTORS
from teacher.denoiser import Teacher
from teacher.statistics import KNOTS, statistics
from teacher.trajectories import Targets

SHRINK = (0.0, 0.25, 0.5, 0.75)


class ByStatistics(Fit):
    """A fit whose stages are the samplers that the statistics make; the first is the schedule itself."""

    def __init__(
        self, teacher: Teacher, schedule: SolverSchedule, fit_on: Targets, select_on: Targets, learner: Learner, progress: Progress
    ) -> None:
        super().__init__(teacher, schedule, fit_on, select_on, learner)
        task = progress.add_task("statistics", total=KNOTS)
        found = statistics(teacher, fit_on, report=lambda done: progress.update(task, completed=done))
        times = evenly(schedule, compile(schedule).nfe)
        self.tables = dict(samplers(schedule, times, found))
        self.stages = [Stage(STATISTICS, 1.0, ""), *self.tables]

    @functools.lru_cache(maxsize=2)  # noqa: B019 (as the method that it stands for)
    def form(self, stage: int) -> Parametrisation:
        """Of the schedule itself: its numbers stay."""
        return Parametrisation(self.schedule, "times")

    def step(self, point: Point) -> Point:
        """The next sampler."""
        stage, loss = point.stage + 1, Loss(self.learner.objective, point.delta)
        table = self.tables[self.stages[stage]]
        select = self.selected(table, loss)
        entry = Entry(stage, loss.shown(loss.together(self.costs(self.fit_on, table, loss))), loss.shown(select))
        point = msgspec.structs.replace(point, stage=stage, curve=(*point.curve, entry), done=stage + 1 == len(self.stages))
        return msgspec.structs.replace(point, best=select, best_stage=stage) if select < point.best else point

    def table(self, point: Point) -> Tableau:
        """What did best on `select`."""
        return self.tables[self.stages[point.best_stage]] if point.best_stage else compile(self.schedule)

    def recipe(self, point: Point) -> SolverSchedule | None:
        """The schedule, where nothing did better; coefficients of every element are no steps."""
        return None if point.best_stage else self.schedule


def evenly(schedule: SolverSchedule, steps: int) -> Sequence[float]:
    """The times of the schedule, interpolated where its steps are not as many."""
    if len(schedule.steps) == steps:
        return schedule.times
    bare = SolverSchedule(schedule.process, schedule.start, tuple(Step(to=step.to) for step in schedule.steps))
    return interpolated(bare, steps).times


def samplers(schedule: SolverSchedule, times: Sequence[float], found: Statistics) -> Iterator[tuple[Stage, Tableau]]:
    """DPM-Solver-v3 of every strength, order, corrector and tail."""
    for shrink, order, corrector, tail in itertools.product(SHRINK, (1, 2, 3), CORRECTORS, ("lower", "full")):
        if order == 1 and (tail == "full" or corrector == "exact"):  # the same as without
            continue
        held = Statistics(found.lambdas, found.l + shrink * (1 - found.l), (1 - shrink) * found.s, (1 - shrink) * found.b)
        which = f" (order {order}; tail {tail}; corrector {corrector})"
        yield Stage(STATISTICS, shrink, "", which), dpm_solver_v3(times, schedule.process, held, order, corrector=corrector, tail=tail)
