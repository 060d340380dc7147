"""Levenberg-Marquardt (Marquardt 1963) on weighted residuals with forward-mode Jacobians, streamed over batches of seeds."""

import torch
from torch import Tensor

from search.residuals import jacobians
from search.spanned import TOLERANCE
from search.task import Memory, Moved, Task
from solvers import ScheduleError

ATTEMPTS = 8


def iterate(task: Task, theta: Tensor, memory: Memory, damping: float) -> Moved | None:
    """One iteration; None where no damping helps: a minimum. damping: where Marquardt's factor starts."""
    curvature, slope, costs = normal_equations(task, theta)
    curvature, slope = curvature + task.shrink * torch.eye(len(theta), dtype=torch.float64), slope + task.shrink * theta
    now, (damping,) = task.loss.together(costs) + task.shrinkage(theta), memory.get("damping", (damping,))
    for _ in range(ATTEMPTS):
        moved = theta - torch.linalg.solve(curvature + damping * (curvature.diagonal() + 1e-12).diag(), slope)
        try:
            table = task.form.table(moved)
        except ScheduleError:  # so long a step that two times meet
            damping *= 4
            continue
        loss = task.loss.together(task.costs(table))
        then = loss + task.shrinkage(moved)
        if then < now:
            return Moved(moved, table, loss, 1 - then / now, {"damping": (damping / 3,)})
        damping *= 4
    return None


def normal_equations(task: Task, theta: Tensor, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor, Tensor]:
    """J^T W J [P, P], J^T W r [P], both per number, and the costs [seeds]."""
    loss, count = task.loss, len(theta)
    squares = torch.zeros(count, count, dtype=torch.float64)
    slope, total, first = torch.zeros(count, dtype=torch.float64), 0, 0
    costs = task.costs(task.form(theta)) if loss.name == "trimmed" else None
    found = list[Tensor]()
    for residual, jacobian in jacobians(task.parts, task.form, theta, loss.view, tolerance):
        found.append(loss.costs(residual))
        weighted = (jacobian * loss.weights(residual, found[-1] if costs is None else costs, 0 if costs is None else first)).flatten(1)
        squares += (weighted @ jacobian.flatten(1).T).double()
        slope += (weighted @ residual.flatten()).double()
        total, first = total + residual.numel(), first + len(residual)
    return squares / total, slope / total, torch.cat(found)
