"""Adam (Kingma and Ba 2015) with reverse-mode gradients, a step per batch of seeds: what GS, S4S and DC-Solver are trained with.

    m <- 0.9 m + 0.1 g,   v <- 0.999 v + 0.001 g^2,   theta <- theta - rate m' / (sqrt(v') + 1e-8),   m', v' without their bias to zero

g is the gradient of what is minimised over what it was at the start, so that `rate` and `clip` mean the same on any model. A
running mean of theta is what is scored and kept. An iteration is a pass over all seeds, in an order of its own.
"""

from typing import Annotated, Literal

import msgspec
import torch
from torch import Tensor

from search.task import Memory, Moved, Task
from search.trajectory import TrajectoryBatch
from solvers import ScheduleError

Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Adam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it moves.

    rate     of learning
    clip     longest gradient
    average  what the running mean keeps at every step
    memory   "full" holds what every evaluation computed until its gradient is taken; "rows" computes it again, evaluation by evaluation;
             "greedy", for objective=trajectory, learns each row by the next state alone, and holds one evaluation
    """

    rate: Annotated[float, msgspec.Meta(gt=0)] = 1e-2
    clip: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    average: Fraction = 0.95
    memory: Literal["full", "rows", "greedy"] = "full"


def iterate(task: Task, theta: Tensor, memory: Memory, adam: Adam, start: float, number: int) -> Moved | None:
    """A pass over the seeds; None where it went so far that two times met. Its gain is infinite: only `select` ends a stage.

    start: the loss there; number: of the pass, which decides the order.
    """
    now, mean, square = (torch.tensor(memory.get(name, (0.0,) * len(theta)), dtype=torch.float64) for name in ("at", "mean", "square"))
    now = now if memory else theta
    (steps,) = memory.get("steps", (0.0,))
    for k in torch.randperm(len(task.parts), generator=torch.Generator().manual_seed(number)).tolist():
        slope = gradient(task, k, now, adam.memory) / start
        slope = slope * min(1.0, adam.clip / max(float(slope.norm()), 1e-30))
        steps += 1
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope.square()
        now = now - adam.rate * mean / (1 - 0.9**steps) / ((square / (1 - 0.999**steps)).sqrt() + 1e-8)
        theta = adam.average * theta + (1 - adam.average) * now
    try:
        table = task.form.table(theta)
    except ScheduleError:
        return None
    kept = {"at": tuple(now.tolist()), "mean": tuple(mean.tolist()), "square": tuple(square.tolist()), "steps": (steps,)}
    return Moved(theta, table, task.loss.together(task.costs(table)), float("inf"), kept)


def gradient(task: Task, k: int, theta: Tensor, memory: str = "full") -> Tensor:
    """Of the loss of batch k and the shrinkage, [P]."""
    theta = theta.detach().requires_grad_()
    table, part, loss = task.form(theta), task.parts[k], task.loss
    if memory == "greedy":
        assert isinstance(part, TrajectoryBatch)  # a learner proves it
        slopes = [_slope(loss.joined(loss.costs(residual)), theta) for residual in part.greedy(table, loss.view)]
        slope = torch.stack(slopes).mean(0)
    else:
        slope = _slope(loss.joined(loss.costs(part.traced(table, loss.view, memory))), theta)
    return (slope + 2 * task.shrink * theta.detach()).nan_to_num(0.0, 0.0, 0.0)


def _slope(value: Tensor, theta: Tensor) -> Tensor:
    """d value / d theta; what leads from theta to the table is kept for the next."""
    (slope,) = torch.autograd.grad(value, theta, retain_graph=True, allow_unused=True, materialize_grads=True)
    return slope
