"""Learn the numbers of one schedule: stages, each run by an optimiser that is stopped where `select` stops improving.

    minimise   loss(theta) + shrink * loss(0) * |theta|^2,      Tikhonov's shrinkage towards the start

A fit is a list of stages (level, shrink, optimiser): levels to pass through, then the one asked for at every strength, strongest
first; where it begins on an emulator, once at the strongest before that. A stage begins where `select` was best so far, so the
strength is chosen there too. Everything between two iterations is one record, `Point`: writing it down after each makes a killed
fit go on to the same bits.
"""

import functools
from collections.abc import Iterator, Sequence

import msgspec
import torch
from torch import Tensor

from search import adam, emulated, marquardt
from search.emulated import Surrogate
from search.learner import Learner
from search.losses import DIVERGED, Loss
from search.parametrise import Parametrisation
from search.relaxed import relaxed
from search.residuals import Batch, batches
from search.task import Memory, Moved, Task
from search.trajectory import trajectory_batches
from solvers import ScheduleError, SolverSchedule, Tableau, compile
from solvers.weighted import weighted
from teacher.denoiser import Teacher
from teacher.trajectories import Targets


class Entry(msgspec.Struct, frozen=True):
    """One iteration of the learning curve: the loss on both blocks, in the units of its report."""

    stage: int
    fit: float
    select: float


class Point(msgspec.Struct, frozen=True):
    """A fit between two iterations. `theta` belongs to `stage`; best_... is what did best on `select` so far."""

    theta: tuple[float, ...]
    delta: float
    start: float
    best: float
    best_theta: tuple[float, ...]
    best_stage: int
    curve: tuple[Entry, ...]
    stale: float  # the best before this stage
    stage: int = 0
    iteration: int = 0
    since: int = 0
    memory: Memory = {}
    done: bool = False


class Fit:
    """One schedule, one learner, two blocks of seeds.

    surrogate   of the network on `fit_on`, shared by the fits that are compared
    beside      another of those, whose batches serve this one too
    """

    def __init__(
        self,
        teacher: Teacher,
        schedule: SolverSchedule,
        fit_on: Targets,
        select_on: Targets,
        learner: Learner,
        surrogate: Surrogate | None = None,
        beside: "Fit | None" = None,
    ) -> None:
        self.schedule, self.learner, self.surrogate = schedule, learner, surrogate
        self.stages = learner.stages("" if surrogate else "emulated")
        seen = trajectory_batches if learner.objective == "trajectory" else batches
        self.fit_on = beside.fit_on if beside else seen(teacher, fit_on, learner.batch)
        self.select_on = beside.select_on if beside else batches(teacher, select_on, learner.batch)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a fit lives as long as its process)
    def form(self, stage: int) -> Parametrisation:
        """The parametrisation of a stage."""
        return Parametrisation(self.schedule, self.stages[stage].level, self.learner.consistency)

    @property
    def emulated(self) -> int:
        """How many of its stages are on an emulator; they come first."""
        return sum(stage.optimiser == "emulated" for stage in self.stages)

    def begin(self, delta: float | None = None) -> Point:
        """The start: the schedule itself. delta: huber's, by default twice the median here; fits that are compared share it."""
        table, loss = compile(self.schedule), Loss(self.learner.objective)
        costs = self.costs(self.fit_on, table, loss)
        delta = delta or 2 * float(costs.nan_to_num(DIVERGED).median().sqrt())
        loss = Loss(self.learner.objective, delta)
        costs = loss.costs(costs.sqrt()[:, None]) if loss.name == "huber" else costs
        value, select = loss.together(costs), self.selected(table, loss)
        theta = tuple(self.form(0).zeros().tolist())
        entry = Entry(0, loss.shown(value), loss.shown(select))
        return Point(theta, delta, value, select, theta, 0, (entry,), select)

    def costs(self, parts: Sequence[Batch], table: Tableau, loss: Loss) -> Tensor:
        """The cost of every seed, [seeds]."""
        return torch.cat([loss.costs(part.residual(table, loss.view)) for part in parts])

    def selected(self, table: Tableau, loss: Loss) -> float:
        """The loss on `select`: of the end alone, also where states are learned, which differ from table to table."""
        loss = Loss("rmse") if loss.name == "trajectory" else loss
        return loss.together(self.costs(self.select_on, table, loss))

    def table(self, point: Point) -> Tableau:
        """The table that did best on `select`."""
        return self.form(point.best_stage).table(torch.tensor(point.best_theta, dtype=torch.float64))

    def recipe(self, point: Point) -> SolverSchedule | None:
        """The steps that compile to that table, of method "weights" where coefficients left their theory; none if there cannot be any."""
        if not self.form(point.best_stage).deltas:
            return self.steps(point)
        try:
            return weighted(self.table(point), self.schedule.process)
        except ScheduleError:  # two evaluations at one noise level, as Heun's method makes them
            return None

    def steps(self, point: Point) -> SolverSchedule:
        """The steps with the times and labels of that table: the theory that its coefficients are learned from."""
        return self.form(point.best_stage).recipe(torch.tensor(point.best_theta, dtype=torch.float64))

    def distance(self, point: Point) -> float:
        """How far the times moved: the largest change of an inner one, in lambda."""
        form, process = self.form(point.best_stage), self.schedule.process
        times = form.times_and_labels(torch.tensor(point.best_theta, dtype=torch.float64))[0]
        own = torch.tensor(self.schedule.times, dtype=torch.float64)
        moved = (process.lambda_of(times) - process.lambda_of(own))[1:-1].abs()
        return float(moved.max()) if len(moved) else 0.0

    def told(self, point: Point, source: str) -> str:
        """What a file says of how it was learned and how far it moved."""
        (level, shrink, *_), form = self.stages[point.best_stage], self.form(point.best_stage)
        theta = torch.tensor(point.best_theta, dtype=torch.float64)
        deltas, before, after = theta[len(theta) - len(form.deltas) :], form.numbers(0 * theta), form.numbers(theta)
        moved = "".join(f", {name} by up to {float((value - before[name]).abs().max()):.3g}" for name, value in after.items())
        moved += f", coefficients by up to {float(deltas.abs().max()):.3g} of a first-order step" if len(deltas) else ""
        return (
            f"learned at level {level} from {source}, {len(point.curve) - 1} iterations, {self.learner.objective}, shrinkage {shrink:g}; "
            f"times moved by up to {self.distance(point):.3g} in lambda{moved}"
        )

    def run(self, point: Point | None = None) -> Iterator[Point]:
        """Every point from the given one (or the start) to the end."""
        point = point or self.begin()
        yield point
        while not point.done:
            point = self.step(point)
            yield point

    def step(self, point: Point) -> Point:
        """One iteration of the optimiser, or the turn to the next stage."""
        form, learner, loss = self.form(point.stage), self.learner, Loss(self.learner.objective, point.delta)
        if not form.count:
            return self.turn(point)
        parts = self.parts(point, loss)
        moved = self.moved(point, Task(form, loss, self.stages[point.stage].shrink * point.start, parts))
        if moved is None:
            return self.turn(point)
        fit = moved.loss if parts is self.fit_on else loss.together(self.costs(self.fit_on, moved.table, loss))
        select = self.selected(moved.table, loss)
        better = select < point.best
        point = msgspec.structs.replace(
            point,
            theta=tuple(moved.theta.tolist()),
            memory=moved.memory,
            iteration=point.iteration + 1,
            since=0 if better else point.since + 1,
            curve=(*point.curve, Entry(point.stage, loss.shown(fit), loss.shown(select))),
        )
        if better:
            point = msgspec.structs.replace(point, best=select, best_theta=point.theta, best_stage=point.stage)
        ends = point.iteration >= learner.iterations or point.since >= learner.patience
        return self.turn(point) if ends or moved.gain < learner.gain else point

    def parts(self, point: Point, loss: Loss) -> Sequence[Batch]:
        """What an iteration is made with: the seeds of `fit`, their noise moved where that is asked for."""
        if not self.learner.relax or self.stages[point.stage].optimiser == "emulated":
            return self.fit_on
        table = self.form(point.stage).table(torch.tensor(point.theta, dtype=torch.float64))
        return [relaxed(part, table, loss.view, self.learner.relax) for part in self.fit_on]

    def moved(self, point: Point, task: Task) -> Moved | None:
        """What the optimiser of the stage makes of it."""
        theta, learner, optimiser = torch.tensor(point.theta, dtype=torch.float64), self.learner, self.stages[point.stage].optimiser
        if optimiser == "adam":
            return adam.iterate(task, theta, point.memory, learner.adam, point.start, point.iteration)
        if optimiser == "emulated":
            assert self.surrogate is not None  # without one there is no such stage
            return emulated.iterate(task, theta, point.memory, learner.damping, self.surrogate)
        return marquardt.iterate(task, theta, point.memory, learner.damping)

    def turn(self, point: Point) -> Point:
        """To the next stage, from what is best so far; weaker shrinkage is tried only while it helps."""
        helped, now = point.best < point.stale, self.stages[point.stage]
        later = [(k, stage) for k, stage in enumerate(self.stages) if k > point.stage]
        rest = [k for k, stage in later if helped or (stage.level, stage.optimiser) != (now.level, now.optimiser)]
        if not rest:
            return msgspec.structs.replace(point, done=True)
        theta = self.form(rest[0]).zeros()
        theta[: len(point.best_theta)] = torch.tensor(point.best_theta, dtype=torch.float64)
        memory = adam.carried(point.memory)
        return msgspec.structs.replace(
            point, theta=tuple(theta.tolist()), stage=rest[0], iteration=0, since=0, stale=point.best, memory=memory
        )
