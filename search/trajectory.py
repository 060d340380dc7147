"""Learning by the whole trajectory: how far every state is from the teacher's own way at the same noise level, not the end alone.

    cost of a seed = mean over the states x_n that are evaluated, and the end, of   |x_n - x*(lambda_n)|^2 / (P (alpha_n^2 + sigma_n^2))

so that states are compared as a variance-preserving process has them; the end is compared as it is. x* = alpha D* + sigma eps*, with the
teacher's answers D* and eps* linear in lambda between two of `paths.STEPS`. A state then has a target of its own, so a row can be learned
with nothing but the evaluation before it in memory: `greedy`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from search.gaps import lambda_at
from search.losses import View
from search.paths import LARGEST, STEPS, between, way
from search.residuals import Batch, batches
from solvers import At, State, Tableau, advance, begin
from solvers.sample import Request
from teacher.denoiser import Teacher
from teacher.trajectories import Targets


@dataclass(kw_only=True)
class TrajectoryBatch(Batch):
    """Seeds whose whole way is known. lambdas [T]; answers and eps [B, T, P], the teacher's."""

    lambdas: Tensor
    answers: Tensor
    eps: Tensor

    def apart(self, x: Tensor, at: At) -> Tensor:
        """How far states [B, ...] are from the teacher's own there, on the scale of a variance-preserving process, [B, P]."""
        place = lambda_at(at.alpha, at.sigma).reshape(1)
        answer, eps = (pictures[:, 0] for pictures in between(self.lambdas, place, self.answers, self.eps))
        alpha, sigma = at.alpha.to(x), at.sigma.to(x)
        return (x.flatten(1) - alpha * answer - sigma * eps) / (alpha.square() + sigma.square()).sqrt()

    def residue(self, met: Sequence[Request], end: Tensor, view: View) -> Tensor:
        """Of every state, [B, (N + 1) P]."""
        return torch.cat([*(self.apart(x, at) for x, at, _ in met), view(end) - self.goal(view)], 1)

    def greedy(self, table: Tableau, view: View) -> Iterator[Tensor]:
        """The same part by part, each with a graph that ends at the state before: no later one pays for an earlier mistake."""
        state, request = advance(begin(table, self.noise))
        while request is not None:
            yield self.apart(request.x, request.at)
            state, (x, at, knobs) = _detached(state), request
            del request  # and with it the graph of the evaluation before
            state, request = advance(state, self.ask(x.detach(), at, knobs))
        yield view(state.x) - self.goal(view)


def _detached(state: State) -> State:
    return replace(state, slots={name: slot.detach() for name, slot in state.slots.items()})


def holdable(teacher: Teacher, seeds: int) -> bool:
    """Whether the ways of so many seeds are small enough to be held in memory."""
    return 2 * STEPS * seeds * math.prod(teacher.shape) <= LARGEST


def trajectory_batches(teacher: Teacher, targets: Targets, size: int) -> list[Batch]:
    """The targets in batches of at most `size` seeds, with their ways, which cost `paths.STEPS` evaluations a seed."""

    def known(first: int, part: Batch) -> Batch:
        lambdas, answers, eps = way(teacher, targets, slice(first, first + size))
        return TrajectoryBatch(teacher, part.noise, part.wanted, part.cond, lambdas=lambdas, answers=answers, eps=eps)

    return [known(k * size, part) for k, part in enumerate(batches(teacher, targets, size))]
