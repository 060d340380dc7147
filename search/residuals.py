"""Residuals x(theta) - teacher and their exact derivatives, streamed over batches of seeds.

The Jacobian is forward mode: a tangent per parameter is carried through the sampler, memory independent of the number of
evaluations. A parameter that first touches row r is carried from row r only: the sampler's state before that row is the same
for all, so it is kept and forked (`advance` is pure). A parameter of the last row costs no evaluation at all. The parameters of a
fork go through the network together (vmap), which shares the values between them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from search.losses import View
from solvers import Evaluation, Row, State, Tableau, advance, begin
from solvers.sample import Request
from teacher.denoiser import Teacher
from teacher.trajectories import Targets

DIRECTIONS = 16


class Numbers(NamedTuple):
    """Every number of a table in one vector [M], and for each the evaluations that happen before it is used."""

    rows: tuple[Row, ...]
    vector: Tensor
    stage: Tensor

    @classmethod
    def of(cls, table: Tableau) -> "Numbers":
        """Read a table; its structure stays behind as a form to fill."""
        found, stages, asked = list[Any](), list[int](), 0
        for row in table.rows:
            e = row.evaluation
            mine = [*row.terms.values(), *((e.label, e.alpha, e.sigma) if e else ())]
            found += mine
            stages += [asked] * len(mine)
            asked += e is not None
        vector = torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in found])
        return cls(table.rows, vector, torch.tensor(stages))

    def fill(self, vector: Tensor) -> tuple[Row, ...]:
        """The rows with these numbers."""
        values, rows = iter(vector.unbind()), list[Row]()
        for row in self.rows:
            terms = {slot: next(values) for slot in row.terms}
            e = row.evaluation
            rows.append(Row(row.slot, row.time, terms, e and Evaluation(next(values), next(values), next(values), e.knobs)))
        return tuple(rows)


@dataclass
class Batch:
    """Some seeds: where they start, where they should end, and the answer to the first question, which seldom changes."""

    teacher: Teacher
    noise: Tensor
    wanted: Tensor
    cond: Tensor | None
    first: tuple[Request, Tensor] | None = None
    seen: dict[View, Tensor] = field(default_factory=dict[View, Tensor])

    def ask(self, x: Tensor, at: Any, knobs: Mapping[str, float]) -> Tensor:
        """The denoiser's answer."""
        own: dict[str, Any] = dict(self.teacher.knobs)
        return self.teacher.denoiser(x, at, cond=self.cond, **own | dict(knobs))

    @torch.no_grad()
    def opening(self, request: Request) -> Tensor:
        """The answer to the first question; it is asked again only where a guessed first step has moved it."""
        if self.first is None or not all(map(torch.equal, (request.x, *request.at), (self.first[0].x, *self.first[0].at))):
            self.first = request, self.ask(*request)
        return self.first[1]

    def residue(self, met: Sequence[Request], end: Tensor, view: View) -> Tensor:
        """How far a run that asked all of `met` and ended at `end` is from the teacher, [B, numbers]."""
        return view(end) - self.goal(view)

    def finish(self, state: State, met: Sequence[Request], answer: Tensor, view: View) -> Tensor:
        """From a waiting state to the residual [B, numbers]; `sample` asks whether it is finite, which nobody can inside a jvp.

        met: what was asked so far, the last of which has this answer.
        """
        met = list(met)
        state, request = advance(state, answer)
        while request is not None:
            met.append(request)
            state, request = advance(state, self.ask(*request))
        return self.residue(met, state.x, view)

    def asked(self, table: Tableau, view: View) -> Tensor:
        """The residual [B, numbers], every answer asked for."""
        state, request = advance(begin(table, self.noise))
        assert request is not None  # a table without evaluations has no parameters
        return self.finish(state, [request], self.ask(*request), view)

    def goal(self, view: View) -> Tensor:
        """Where the teacher ends, as `view` sees it."""
        if view not in self.seen:
            self.seen[view] = view(self.wanted)
        return self.seen[view]

    @torch.no_grad()
    def residual(self, table: Tableau, view: View) -> Tensor:
        """x - teacher for these seeds, [B, numbers]."""
        state, request = advance(begin(table, self.noise))
        assert request is not None
        return self.finish(state, [request], self.opening(request), view)

    def traced(self, table: Tableau, memory: str) -> tuple[list[Request], Tensor]:
        """All that was asked, and the end, with their graph. memory: "full" keeps what an evaluation computed, "rows" computes it again."""
        state, request = advance(begin(table, self.noise))
        met = list[Request]()
        while request is not None:
            met.append(request)
            if not request.x.requires_grad and not request.at.label.requires_grad:
                answer = self.opening(request)  # at x_T nothing moves
            elif memory == "rows":
                answer = checkpoint(self.ask, *request, use_reentrant=False)
            else:
                answer = self.ask(*request)
            state, request = advance(state, answer)
        return met, state.x

    @torch.no_grad()
    def jacobian(self, numbers: Numbers, tangents: Tensor, view: View) -> tuple[Tensor, Tensor]:
        """The residual [B, numbers] and its derivative [P, B, numbers] along tangents [P, M] of the table's numbers."""
        rows = numbers.fill(numbers.vector)
        state, request = advance(begin(Tableau(rows), self.noise))
        waiting, met, answers = list[State](), list[Request](), list[Tensor]()
        while request is not None:
            answer = self.ask(*request) if answers else self.opening(request)
            waiting, met, answers = [*waiting, state], [*met, request], [*answers, answer]
            state, request = advance(state, answer)
        value = self.residue(met, state.x, view)
        columns = value.new_zeros(len(tangents), *value.shape)
        never = len(answers) + 1
        since = torch.where(tangents != 0, numbers.stage, never).amin(1) if tangents.numel() else torch.empty(0)
        for stage in sorted({int(s) for s in since} - {never}):
            mine = torch.nonzero(since == stage).flatten()

            def remainder(vector: Tensor, stage: int = stage) -> Tensor:
                if not stage:
                    return self.asked(Tableau(numbers.fill(vector)), view)
                forked = replace(waiting[stage - 1], rows=numbers.fill(vector))
                return self.finish(forked, met[:stage], answers[stage - 1], view)

            def column(direction: Tensor, remainder: Any = remainder) -> Tensor:
                return torch.func.jvp(remainder, (numbers.vector,), (direction,))[1]

            columns[mine] = torch.func.vmap(column, chunk_size=DIRECTIONS)(tangents[mine])
        return value, columns


def batches(teacher: Teacher, targets: Targets, size: int) -> list[Batch]:
    """The targets in batches of at most `size` seeds."""
    cond = targets.cond
    parts = [slice(first, first + size) for first in range(0, len(targets.seeds), size)]
    return [Batch(teacher, targets.noise[p], targets.images[p], None if cond is None else cond[p]) for p in parts]


def linearise(form: Any, theta: Tensor) -> tuple[Numbers, Tensor]:
    """The numbers of the table at theta and their derivatives [P, M]: no network is asked."""
    numbers = Numbers.of(form(theta))

    def along(direction: Tensor) -> Tensor:
        return torch.func.jvp(lambda t: Numbers.of(form(t)).vector, (theta,), (direction,))[1]

    with torch.no_grad():
        return numbers, torch.func.vmap(along)(torch.eye(len(theta), dtype=torch.float64))


def jacobians(parts: Sequence[Batch], form: Any, theta: Tensor, view: View) -> Iterator[tuple[Tensor, Tensor]]:
    """(residual, derivative) of each batch."""
    numbers, tangents = linearise(form, theta)
    for part in parts:
        yield part.jacobian(numbers, tangents, view)
