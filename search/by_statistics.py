"""DPM-Solver-v3 as a level of the learner (Zheng et al. 2023): statistics of the network are measured, and no loss is followed down.

On the schedule's times, as many steps as it has evaluations; statistics of the seeds of `fit`, at full strength and shrunk towards
those of plain theory, with which it is exponential Adams in lambda:

    l' = l + shrink (1 - l),      s' = (1 - shrink) s,      b' = (1 - shrink) b

A strength with an order, a corrector and a tail is a stage of one iteration. `select` chooses among them and the schedule itself.
"""

import functools
import itertools
from typing import NamedTuple

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


class Kind(NamedTuple):
    """What `select` chooses among, and the words of dpm_solver_v3."""

    shrink: float
    order: int
    corrector: str
    tail: str


def kinds(steps: int) -> list[Kind]:
    """All of no higher order than there are steps; at order 1 no step is of a lower one, and the exact corrector changes nothing."""
    found = itertools.starmap(Kind, itertools.product(SHRINK, range(1, min(steps, 3) + 1), CORRECTORS, ("lower", "full")))
    return [kind for kind in found if kind.order > 1 or (kind.tail == "full" and kind.corrector != "exact")]


class ByStatistics(Fit):
    """A fit whose stages are the samplers that the statistics make; the first is the schedule itself."""

    def __init__(
        self, teacher: Teacher, schedule: SolverSchedule, fit_on: Targets, select_on: Targets, learner: Learner, progress: Progress
    ) -> None:
        super().__init__(teacher, schedule, fit_on, select_on, learner)
        task = progress.add_task("statistics", total=KNOTS)
        self.measured = statistics(teacher, fit_on, report=lambda done: progress.update(task, completed=done))
        self.even = evenly(schedule, compile(schedule).nfe)
        self.kinds = kinds(len(self.even.steps))
        self.stages = [Stage(STATISTICS, 1.0, ""), *(Stage(STATISTICS, kind.shrink, "") for kind in self.kinds)]

    @functools.lru_cache(maxsize=2)  # noqa: B019 (as the method that it stands for)
    def form(self, stage: int) -> Parametrisation:
        """Of the schedule itself: its numbers stay."""
        return Parametrisation(self.schedule, "times")

    def sampler(self, stage: int) -> Tableau:
        """The table of a stage."""
        if not stage:
            return compile(self.schedule)
        (shrink, order, corrector, tail), found = self.kinds[stage - 1], self.measured
        held = Statistics(found.lambdas, found.l + shrink * (1 - found.l), (1 - shrink) * found.s, (1 - shrink) * found.b)
        return dpm_solver_v3(self.even.times, self.schedule.process, held, order, corrector=corrector, tail=tail)

    def step(self, point: Point) -> Point:
        """The next sampler."""
        stage, loss = point.stage + 1, Loss(self.learner.objective, point.delta)
        table = self.sampler(stage)
        select = self.selected(table, loss)
        entry = Entry(stage, loss.shown(loss.together(self.costs(self.fit_on, table, loss))), loss.shown(select))
        point = msgspec.structs.replace(point, stage=stage, curve=(*point.curve, entry), done=stage + 1 == len(self.stages))
        return msgspec.structs.replace(point, best=select, best_stage=stage) if select < point.best else point

    def table(self, point: Point) -> Tableau:
        """What did best on `select`."""
        return self.sampler(point.best_stage)

    def recipe(self, point: Point) -> SolverSchedule | None:
        """The schedule, where nothing did better; coefficients of every element are no steps."""
        return None if point.best_stage else self.schedule

    def steps(self, point: Point) -> SolverSchedule:
        """The steps that a picture shows: those of the schedule, or plain ones at the times that are taken."""
        return self.even if point.best_stage else self.schedule

    def told(self, point: Point, source: str) -> str:
        """What a file says of how it came to be."""
        if not point.best_stage:
            return f"{source} as it was, for none of {len(self.kinds)} kinds of DPM-Solver-v3 on its times did better on select"
        shrink, order, corrector, tail = self.kinds[point.best_stage - 1]
        return (
            f"learned at level {STATISTICS} on the times of {source}: DPM-Solver-v3 of order {order} with corrector {corrector} and tail "
            f"{tail}, shrinkage {shrink:g}, the best on select of {len(self.kinds)} kinds"
        )


def evenly(schedule: SolverSchedule, steps: int) -> SolverSchedule:
    """Plain steps at the times of the schedule, interpolated where its steps are not as many."""
    bare = SolverSchedule(schedule.process, schedule.start, tuple(Step(to=step.to) for step in schedule.steps))
    return bare if len(bare.steps) == steps else interpolated(bare, steps)
