"""Residuals x(theta) - teacher and their derivatives, streamed over batches of seeds.

The Jacobian is forward mode: a tangent per parameter is carried through the sampler by vmap and jvp, and the network is asked along the
few directions that they span (search.spanned). A parameter costs nothing before the row that it touches, and one of the last row
no evaluation at all. In memory are the tangents of a batch's states and answers, and the network for `spanned.TOGETHER` directions.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from search.losses import View
from search.spanned import TOGETHER, TOLERANCE, spanned
from solvers import At, Evaluation, Row, Tableau, advance, begin
from solvers.sample import Request
from teacher.denoiser import Teacher
from teacher.trajectories import Targets

Run = tuple[list[Request], Tensor]
Ask = Callable[[Request], Tensor]


class Numbers(NamedTuple):
    """Every number of a table in one vector [M]."""

    rows: tuple[Row, ...]
    vector: Tensor

    @classmethod
    def of(cls, table: Tableau) -> "Numbers":
        """Read a table; its structure stays behind as a form to fill."""
        found = list[Any]()
        for row in table.rows:
            e = row.evaluation
            found += [*row.terms.values(), *((e.label, e.alpha, e.sigma) if e else ())]
        return cls(table.rows, torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in found]))

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
        """The answer to the first question; it is asked again where a guessed first step has moved it, or with other knobs."""
        if self.first is None or not _same(request, self.first[0]):
            self.first = request, self.ask(*request)
        return self.first[1]

    def run(self, table: Tableau, ask: Ask, first: Ask | None = None) -> Run:
        """All that is asked and the end; `sample` asks whether it is finite, which nobody can inside a jvp. first: who is asked first."""
        state, request = advance(begin(table, self.noise))
        met = list[Request]()
        while request is not None:
            met.append(request)
            state, request = advance(state, (ask if met[1:] else first or ask)(request))
        return met, state.x

    def residue(self, met: Sequence[Request], end: Tensor, view: View) -> Tensor:
        """How far a run that asked all of `met` and ended at `end` is from the teacher, [B, numbers]."""
        return view(end) - self.goal(view)

    def goal(self, view: View) -> Tensor:
        """Where the teacher ends, as `view` sees it."""
        if view not in self.seen:
            self.seen[view] = view(self.wanted)
        return self.seen[view]

    def asked(self, table: Tableau, view: View) -> Tensor:
        """The residual [B, numbers], every answer asked for."""
        return self.residue(*self.run(table, lambda request: self.ask(*request)), view)

    @torch.no_grad()
    def residual(self, table: Tableau, view: View) -> Tensor:
        """x - teacher for these seeds, [B, numbers]."""
        return self.residue(*self.run(table, lambda request: self.ask(*request), self.opening), view)

    def traced(self, table: Tableau, memory: str) -> Run:
        """All that is asked, and the end, with their graph. memory: "full" keeps what an evaluation computed, "rows" computes it again."""

        def ask(request: Request) -> Tensor:
            if not request.x.requires_grad and not request.at.label.requires_grad:
                return self.opening(request)  # at x_T nothing moves
            return checkpoint(self.ask, *request, use_reentrant=False) if memory == "rows" else self.ask(*request)

        return self.run(table, ask)

    @torch.no_grad()
    def jacobian(self, numbers: Numbers, tangents: Tensor, view: View, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
        """The residual [B, numbers] and its derivative [P, B, numbers] along tangents [P, M] of the table's numbers."""
        knobs = list[Mapping[str, float]]()

        def ask(request: Request) -> Tensor:
            knobs.append(request.knobs)
            return spanned(lambda x, at: self.ask(x, at, request.knobs), request.x, request.at, tolerance)

        def states(vector: Tensor) -> tuple[list[tuple[Tensor, ...]], Tensor]:
            met, end = self.run(Tableau(numbers.fill(vector)), ask)
            return [(x, *at) for x, at, _ in met], end

        def seen(places: list[tuple[Tensor, ...]], end: Tensor) -> Tensor:
            met = [Request(x, At(*at), mine) for (x, *at), mine in zip(places, knobs, strict=True)]
            return self.residue(met, end, view)

        def along(direction: Tensor) -> Any:
            return torch.func.jvp(states, (numbers.vector,), (direction,))

        dims: Any = (None, 0)
        found, moved = torch.func.vmap(along, out_dims=dims)(tangents)
        columns = torch.func.vmap(lambda *move: torch.func.jvp(seen, found, move)[1], chunk_size=TOGETHER)(*moved)
        return seen(*found), columns


def _same(one: Request, other: Request) -> bool:
    return one.knobs == other.knobs and all(map(torch.equal, (one.x, *one.at), (other.x, *other.at)))


def batches(teacher: Teacher, targets: Targets, size: int) -> list[Batch]:
    """The targets in batches of at most `size` seeds."""
    cond = targets.cond
    parts = [slice(first, first + size) for first in range(0, len(targets.seeds), size)]
    return [Batch(teacher, targets.noise[p], targets.images[p], None if cond is None else cond[p]) for p in parts]


def linearise(form: Any, theta: Tensor) -> tuple[Numbers, Tensor]:
    """The numbers of the table at theta and their derivatives [P, M]: no network is asked.

    Backwards, all numbers at once: a table is made of thousands of scalars, and torch is slow to carry tangents through those.
    """
    return Numbers.of(form(theta)), torch.func.jacrev(lambda t: Numbers.of(form(t)).vector)(theta).T


def jacobians(
    parts: Sequence[Batch], form: Any, theta: Tensor, view: View, tolerance: float = TOLERANCE
) -> Iterator[tuple[Tensor, Tensor]]:
    """(residual, derivative) of each batch."""
    numbers, tangents = linearise(form, theta)
    for part in parts:
        yield part.jacobian(numbers, tangents, view, tolerance)
