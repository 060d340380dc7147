"""Adam (Kingma and Ba 2015) with reverse-mode gradients, a step per batch of seeds: what GS, S4S and DC-Solver are trained with.

    m <- 0.9 m + 0.1 g,   v <- 0.999 v + 0.001 g^2,   theta <- theta - rate m' / (sqrt(v') + 1e-8),   m', v' without their bias to zero

g is the gradient of what is minimised over what it was at the start, so that `rate` and `clip` mean the same on any model. A
running mean of theta is what is scored and kept. An iteration is a pass over all seeds, in an order of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from torch import Tensor

from search.adversary import Adversary, Opponent
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

    rate: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1e-2
    clip: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 1.0
    average: Fraction = 0.95
    memory: Literal["full", "rows", "greedy"] = "full"
    adversary: Adversary = Adversary()


class Mover(NamedTuple):
    """A vector that Adam moves, and what it knows of its slope."""

    at: Tensor
    mean: Tensor
    square: Tensor
    steps: float = 0.0

    @classmethod
    def read(cls, memory: Memory, name: str, start: Tensor) -> "Mover":
        """As it was written down, or at the start."""
        if f"{name} at" not in memory:
            return cls(start, torch.zeros_like(start), torch.zeros_like(start))
        at, mean, square = (torch.tensor(memory[f"{name} {each}"], dtype=start.dtype) for each in cls._fields[:3])
        return cls(at, mean, square, *memory[f"{name} steps"])

    def written(self, name: str) -> Memory:
        """To be read again."""
        vectors: Memory = {f"{name} {each}": tuple(getattr(self, each).tolist()) for each in self._fields[:3]}
        return vectors | {f"{name} steps": (self.steps,)}

    def step(self, slope: Tensor, rate: float) -> "Mover":
        """One step."""
        steps, mean, square = self.steps + 1, 0.9 * self.mean + 0.1 * slope, 0.999 * self.square + 0.001 * slope.square()
        moved = mean / (1 - 0.9**steps) / ((square / (1 - 0.999**steps)).sqrt() + 1e-8)
        return Mover(self.at - rate * moved, mean, square, steps)


def iterate(task: Task, theta: Tensor, memory: Memory, adam: Adam, start: float, number: int) -> Moved | None:
    """A pass over the seeds; None where it went so far that two times met. Its gain is infinite: only `select` ends a stage.

    start: the loss there; number: of the pass, which decides the order.
    """
    play = Play.of(memory, adam.adversary, start, task) if adam.adversary.weight else None
    ours, shares = Mover.read(memory, "sampler", theta), trimmed(task, theta)
    for k in torch.randperm(len(task.parts), generator=torch.Generator().manual_seed(number)).tolist():
        slope = gradient(task, k, ours.at, adam.memory, play, shares[k]) / start
        ours = ours.step(slope * min(1.0, adam.clip / max(float(slope.norm()), 1e-30)), adam.rate)
        theta = adam.average * theta + (1 - adam.average) * ours.at
    try:
        table = task.form.table(theta)
    except ScheduleError:
        return None
    kept = ours.written("sampler") | (play.opponent.written("opponent") if play else {})
    return Moved(theta, table, task.loss.together(task.costs(table)), float("inf"), kept)


@dataclass
class Play:
    """The game with an opponent, who moves first."""

    judge: Opponent
    opponent: Mover
    how: Adversary
    scale: float

    @classmethod
    def of(cls, memory: Memory, how: Adversary, start: float, task: Task) -> "Play":
        """As it stood. start: the loss that the weight of the term is relative to."""
        judge = Opponent(task.parts[0].wanted.shape[1])
        return cls(judge, Mover.read(memory, "opponent", judge.start), how, how.weight * start)

    def term(self, samples: Tensor, teachers: Tensor) -> Tensor:
        """What is added to the loss."""
        self.opponent = self.opponent.step(self.judge.slope(self.opponent.at, samples, teachers, self.how.penalty), self.how.rate)
        return self.scale * self.judge.term(self.opponent.at, samples, teachers).mean()


def carried(memory: Memory) -> Memory:
    """What goes on to the next stage: the opponent."""
    return {name: values for name, values in memory.items() if name.startswith("opponent ")}


def trimmed(task: Task, theta: Tensor) -> Sequence[Tensor | float]:
    """What each seed counts in a pass that begins at theta, batch by batch: what is trimmed is the worst of all, not of a batch."""
    if task.loss.name != "trimmed":
        return [1.0] * len(task.parts)
    return task.loss.shares(task.costs(task.form.table(theta))).split([len(part.noise) for part in task.parts])


def gradient(task: Task, k: int, theta: Tensor, memory: str = "full", play: Play | None = None, shares: Tensor | float = 1.0) -> Tensor:
    """Of the loss of batch k, the shrinkage and the term of an opponent, [P]. shares [B]: what each of its seeds counts."""
    theta = theta.detach().requires_grad_()
    table, part, loss = task.form(theta), task.parts[k], task.loss
    if memory == "greedy":
        assert isinstance(part, TrajectoryBatch)  # a learner proves it
        slope = torch.zeros_like(theta)
        for residual in part.greedy(table, loss.view):
            slope += _slope(loss.costs(residual).mean(), theta) / (len(table.evals) + 1)
            del residual  # with its graph, before the next evaluation
    else:
        met, end = part.traced(table, memory)
        whole = (loss.costs(part.residue(met, end, loss.view)) * shares).mean()
        slope = _slope(whole + play.term(end, part.wanted) if play else whole, theta)
    return (slope + 2 * task.shrink * theta.detach()).nan_to_num(0.0, 0.0, 0.0)


def _slope(value: Tensor, theta: Tensor) -> Tensor:
    """d value / d theta; what leads from theta to the table is kept for the next."""
    if not value.requires_grad:  # a state that nothing has moved
        return torch.zeros_like(theta)
    (slope,) = torch.autograd.grad(value, theta, retain_graph=True, allow_unused=True, materialize_grads=True)
    return slope
