"""Learn the continuous numbers of one schedule by gradient. Iteration 0 is the schedule itself.

Times by stick breaking in lambda, labels by bounded shifts:

    r_i = sigmoid(logit(r_i^0) + theta_i),   lambda_i = lambda_{i-1} + r_i (lambda_N - lambda_{i-1})
    label_i at lambda_i + tanh(phi_i)/2 of the gap to the nearer neighbour, added to the schedule's own shift

Few parameters and least squares, so Levenberg-Marquardt (Marquardt 1963) on the residuals x(theta) - teacher, with exact
forward-mode Jacobians: one jvp per parameter through compile and sample, memory independent of the number of evaluations.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from search.errors import CampaignError
from search.space import LIMIT
from solvers import ScheduleError, SolverSchedule, advance, begin, compile
from teacher.denoiser import Teacher
from teacher.trajectories import Targets

LEVELS = ("times", "times+labels")


class Learner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """level: what may move. Stops after `patience` accepted steps without progress on `select`, at most `iterations`."""

    level: str = "times"
    iterations: int = 20
    patience: int = 3
    damping: float = 1e-2
    batch: int = 64


@dataclass(frozen=True)
class Progress:
    """One iteration: RMSE on both blocks, and the schedule as it stands."""

    iteration: int
    fit: float
    select: float
    schedule: SolverSchedule


@dataclass(frozen=True)
class Parametrisation:
    """From parameters [P] to times [N + 1] and labels [N] of a schedule; zeros give the schedule's own."""

    schedule: SolverSchedule
    level: str

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise CampaignError(f"There is no learner level {self.level!r}; there are {', '.join(LEVELS)}.")

    @property
    def count(self) -> int:
        """P: a gap per inner time and, with labels, a shift for each evaluation but the first."""
        inner = len(self.schedule.steps) - 1
        return inner * (1 if self.level == "times" else 2)

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Times and labels, differentiable in theta."""
        process, inner = self.schedule.process, len(self.schedule.steps) - 1
        own = process.lambda_of(torch.tensor(self.schedule.times, dtype=torch.float64)).clamp(-LIMIT, LIMIT)
        fractions = (own[1:-1] - own[:-2]) / (own[-1] - own[:-2])
        lambdas = [own[0]]
        for i in range(inner):
            r = torch.sigmoid(torch.logit(fractions[i]) + theta[i])
            lambdas.append(lambdas[-1] + r * (own[-1] - lambdas[-1]))
        lambdas.append(own[-1])
        ends = torch.tensor([self.schedule.start, self.schedule.times[-1]], dtype=torch.float64)
        times = torch.stack([ends[0], *process.time_of(torch.stack(lambdas[1:-1])), ends[1]]) if inner else ends
        phi = theta[inner:] if self.level != "times" else torch.zeros(inner, dtype=torch.float64)
        labels = [ends[0] if self.schedule.steps[0].label is None else torch.tensor(self.schedule.steps[0].label, dtype=torch.float64)]
        for i in range(1, inner + 1):
            gap = torch.minimum(lambdas[i + 1] - lambdas[i], lambdas[i] - lambdas[i - 1])
            label = self.schedule.steps[i].label
            shift = torch.zeros(()) if label is None else process.lambda_of(label) - own[i]
            labels.append(process.time_of(lambdas[i] + shift + torch.tanh(phi[i - 1]) / 2 * gap))
        return times, torch.stack(labels)

    def apply(self, theta: Tensor) -> SolverSchedule:
        """The schedule with these parameters, in floats."""
        times, labels = (value.detach().tolist() for value in self(theta))
        steps = []
        for i, step in enumerate(self.schedule.steps):
            moved = i > 0 and (self.level != "times" or step.label is not None)
            steps.append(msgspec.structs.replace(step, to=times[i + 1], label=labels[i] if moved else step.label))
        return SolverSchedule(self.schedule.process, self.schedule.start, tuple(steps))


def residual_function(
    teacher: Teacher, form: Parametrisation, x: Tensor, wanted: Tensor, cond: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """Theta -> x(theta) - teacher for one batch of seeds, flat."""
    knobs: dict[str, Any] = dict(teacher.knobs)

    def denoiser(state: Tensor, at: Any, **row_knobs: Any) -> Tensor:
        return teacher.denoiser(state, at, cond=cond, **knobs, **row_knobs)

    def residual(theta: Tensor) -> Tensor:
        times, labels = form(theta)
        return (_unchecked(denoiser, x, form.schedule, times, labels) - wanted).flatten()

    return residual


def _unchecked(denoiser: Any, x: Tensor, schedule: SolverSchedule, times: Tensor, labels: Tensor) -> Tensor:
    """`sample` without its check for finite results, which cannot be asked inside a jvp."""
    state, request = advance(begin(compile(schedule, times, labels), x))
    while request is not None:
        state, request = advance(state, denoiser(request.x, request.at, **request.knobs))
    return state.x


def normal_equations(teacher: Teacher, form: Parametrisation, theta: Tensor, targets: Targets, batch: int) -> tuple[Tensor, Tensor, float]:
    """J^T J [P, P], J^T r [P] and the RMSE, streamed over batches of seeds."""
    count = form.count
    squares, slope, total = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64), 0.0
    for residual in _batches(teacher, form, targets, batch):
        columns = []
        value = torch.zeros(())
        for direction in torch.eye(count, dtype=torch.float64):
            value, column = torch.func.jvp(residual, (theta,), (direction,))[:2]
            columns.append(column)
        jacobian = torch.stack(columns).double()
        squares += jacobian @ jacobian.T
        slope += jacobian @ value.double()
        total += float(value.double().square().sum())
    return squares, slope, (total / targets.images.numel()) ** 0.5


def _batches(teacher: Teacher, form: Parametrisation, targets: Targets, batch: int) -> Iterator[Callable[[Tensor], Tensor]]:
    for first in range(0, len(targets.seeds), batch):
        part = slice(first, first + batch)
        cond = None if targets.cond is None else targets.cond[part]
        yield residual_function(teacher, form, targets.noise[part], targets.images[part], cond)


@torch.no_grad()
def rmse_of(teacher: Teacher, schedule: SolverSchedule, targets: Targets, batch: int) -> float:
    """RMSE of a schedule on the targets."""
    form = Parametrisation(schedule, "times")
    zero = torch.zeros(form.count, dtype=torch.float64)
    total = sum(float(residual(zero).double().square().sum()) for residual in _batches(teacher, form, targets, batch))
    return (total / targets.images.numel()) ** 0.5


def fit(teacher: Teacher, schedule: SolverSchedule, fit_on: Targets, select_on: Targets, learner: Learner) -> Iterator[Progress]:
    """Yield the start and every accepted step. The caller keeps the schedule that is best on `select`."""
    form = Parametrisation(schedule, learner.level)
    theta, damping = torch.zeros(form.count, dtype=torch.float64), learner.damping
    best, since = rmse_of(teacher, schedule, select_on, learner.batch), 0
    current = rmse_of(teacher, schedule, fit_on, learner.batch)
    yield Progress(0, current, best, schedule)
    if not form.count:
        return
    for iteration in range(1, learner.iterations + 1):
        squares, slope, current = normal_equations(teacher, form, theta, fit_on, learner.batch)
        for _ in itertools.repeat(None, 8):
            step = -torch.linalg.solve(squares + damping * (squares.diagonal() + 1e-12).diag(), slope)
            try:
                tried = rmse_of(teacher, form.apply(theta + step), fit_on, learner.batch)
            except ScheduleError:  # so long a step that two times meet
                tried = math.inf
            if tried < current:
                break
            damping *= 4
        else:
            return  # no damping helps: a minimum
        theta, damping = theta + step, damping / 3
        moved = form.apply(theta)
        select = rmse_of(teacher, moved, select_on, learner.batch)
        yield Progress(iteration, tried, select, moved)
        since = 0 if select < best else since + 1
        best = min(best, select)
        if since >= learner.patience or tried > current * (1 - 1e-4):
            return
