"""Run a table. `advance` is the one pure stepper; `sample` is its driver and the only caller of a network in this room.

    state, request = advance(state, D)        request = (x, at, knobs) to be answered by D, or None when the table is done

A State is a value: advancing it changes nothing, so it can be kept, forked (candidates that share a prefix) or saved.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from .errors import ScheduleError
from .kinds import Operator
from .noise import NoiseSource, anchor, noise_source
from .tableau import MU, ONE, START, At, Coefficient, Row, Tableau

Denoiser = Callable[..., Tensor]
Callback = Callable[[Row, Tensor, Tensor | None], Tensor | None]


class Request(NamedTuple):
    """What the denoiser is asked: the state x in the caller's dtype, where it is, and the knobs of this evaluation.

    Of a group it is the states of all its evaluations along the batch, and `at` is [batch] then.
    """

    x: Tensor
    at: At
    knobs: Mapping[str, float]


@dataclass(frozen=True)
class State:
    """A sampler between two requests: the slots alive, the next row, and the first one that waits for an answer."""

    rows: tuple[Row, ...]
    releases: tuple[tuple[str, ...], ...]
    pauses: frozenset[int]  # the rows after which the denoiser is asked
    slots: Mapping[str, Tensor]
    dtype: torch.dtype
    noise: NoiseSource
    callback: Callback | None = None
    position: int = 0
    waiting: int = 0  # rows from here to `position` are written, but not complete
    answered: int = 0

    @property
    def x(self) -> Tensor:
        """The newest state, in the caller's dtype."""
        return self.slots[self.rows[self.position - 1].slot].to(self.dtype)


def begin(
    tableau: Tableau,
    x: Tensor | Mapping[str, Tensor],
    noise: Any = None,
    callback: Callback | None = None,
    mu: Tensor | None = None,
    ask: str = "one",
) -> State:
    """The state before the first row. Half-precision latents are combined in float32."""
    given = dict(x) if isinstance(x, Mapping) else {START: x}
    if set(given) != set(tableau.starts):
        raise ScheduleError(f"This table starts from {', '.join(tableau.starts)}, but was given {', '.join(given)}.")
    x = next(iter(given.values()))
    if not x.is_floating_point():
        raise ScheduleError(f"Sampling starts from floating-point numbers, not from {x.dtype}.")
    working = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    source = noise_source(tableau, x, noise, working)
    slots = {name: value.to(working) for name, value in given.items()}
    if tableau.anchored:
        slots[MU] = anchor(x, mu).to(working)
    if any(ONE in row.terms for row in tableau.rows):
        slots[ONE] = torch.ones((), dtype=working, device=x.device).expand_as(x)
    return State(tableau.rows, tableau.releases, _pauses(tableau, ask), slots, x.dtype, source, callback)


def advance(state: State, denoised: Tensor | None = None) -> tuple[State, Request | None]:
    """Take the answer to the last request (None at first) and run rows up to the next request, or to the end (None)."""
    slots, position, waiting, answered = dict(state.slots), state.position, state.waiting, state.answered
    asked = [row for row in state.rows[waiting:position] if row.evaluation is not None]
    if asked:
        answers = iter(_answers(denoised, slots[asked[0].slot], len(asked)))
        for index in range(waiting, position):
            answer = None
            if state.rows[index].evaluation is not None:
                answer = slots[f"D{answered}"] = next(answers)
                answered += 1
            _finish(state, slots, index, answer)
    elif denoised is not None:
        raise ScheduleError("An answer was given, but nothing was asked.")
    waiting = position
    while position < len(state.rows):
        row = state.rows[position]
        slots[row.slot] = _combine(row.terms, slots, state.noise)
        position += 1
        if position - 1 in state.pauses:
            written = {r.slot for r in state.rows[waiting:position]} if position - waiting > 1 else ()
            for dead in state.releases[position - 1]:
                if dead in row.terms and dead not in written:  # free it before the network runs
                    slots.pop(dead, None)
            moved = replace(state, slots=slots, position=position, waiting=waiting, answered=answered)
            return moved, _request(moved)
        if row.evaluation is None and waiting == position - 1:
            _finish(state, slots, waiting, None)
            waiting = position
    return replace(state, slots=slots, position=position, waiting=waiting, answered=answered), None


def _pauses(tableau: Tableau, ask: str) -> frozenset[int]:
    """The rows whose evaluation ends a request: all, or the last of each group; a group of several knobs is asked in parts."""
    if ask not in ("one", "group"):
        raise ScheduleError(f"Evaluations are asked one by one or by the group (ask 'one' or 'group'), not {ask!r}.")
    evals = tableau.evals
    last = set(range(tableau.nfe)) if ask == "one" else {group[-1] for group in tableau.groups}
    last |= {k for k, (one, after) in enumerate(itertools.pairwise(evals)) if one.knobs != after.knobs}
    return frozenset(tableau.visible[k] for k in last)


def _request(state: State) -> Request:
    rows, count = state.rows[state.waiting : state.position], len(state.x)
    if len(rows) == 1 and (only := rows[0].evaluation) is not None:  # nearly always, and worth a short way
        return Request(state.x, only.at, only.knobs)
    asked = [(state.slots[row.slot], row.evaluation) for row in rows if row.evaluation is not None]
    first = asked[0][1]

    def along(values: Iterable[Tensor]) -> Tensor:
        return torch.cat([value.expand(count) for value in values])

    at = At(along(e.at.label for _, e in asked), along(e.at.alpha for _, e in asked), along(e.at.sigma for _, e in asked))
    return Request(torch.cat([x for x, _ in asked]).to(state.dtype), at, first.knobs)


def sample(
    denoiser: Denoiser,
    x: Tensor | Mapping[str, Tensor],
    tableau: Tableau,
    noise: Mapping[str, Tensor] | Sequence[Tensor] | Sequence[int] | None = None,
    callback: Callback | None = None,
    mu: Tensor | None = None,
    ask: str = "one",
    **knobs: Any,
) -> Tensor:
    """Draw one sample per entry of the batch.

    denoiser   `denoiser(x, at, **knobs) -> D`, the data prediction, of x's shape; `at` is an `At`
    x          x_T [batch, ...], as `initial` makes it; for an inverse, a mapping from the table's starts to states
    noise      what stochastic tables need: a mapping "z0" -> tensor, tensors in row order, or one seed per sample
    callback   called as callback(row, x, D or None) after every row; a tensor it returns replaces the state
    mu         where a mean-reverting process ends, of x's shape or that of one sample
    ask        "one" evaluation a call; or a "group" of them (`Tableau.groups`) along the batch of one call, for a denoiser that
               takes [batch] labels, alphas and sigmas. A state that a callback replaces is then read after its group
    knobs      handed to every evaluation, below those of the row; `cond` belongs to the samples and goes along the batch with them

    Returns x of the same shape and dtype. Raises ScheduleError if an answer has another shape or the result is not finite
    (which cannot be asked inside torch.func's transforms).
    """
    state, request = advance(begin(tableau, x, noise, callback, mu, ask))
    while request is not None:
        given, questions = {**knobs, **request.knobs}, len(request.x) // max(1, len(state.x))
        cond = given.get("cond")
        if questions > 1 and isinstance(cond, Tensor):
            given["cond"] = torch.cat([cond] * questions)
        state, request = advance(state, denoiser(request.x, request.at, **given))
    result = state.x
    if result.numel() and not _transformed() and not torch.isfinite(result.detach().abs().amax()):
        raise ScheduleError("The sample is not finite: the denoiser answered NaN or infinity, or the table is unstable for this model.")
    return result


def _combine(terms: Mapping[str, Coefficient], slots: Mapping[str, Tensor], noise: NoiseSource) -> Tensor:
    """Sum of coefficient * slot, accumulated in the tensor of the first product.

    That tensor is ours alone and no derivative of these operations needs its old value, so autograd is safe; inside
    torch.func's transforms a sum may need another shape than its first term, and there every sum is a new tensor.
    """
    apart = _transformed()
    total: Tensor | None = None
    for slot, coefficient in terms.items():
        value = slots[slot] if slot in slots else noise(slot)
        if isinstance(coefficient, Operator):
            value, coefficient = coefficient.apply(value), 1.0
        factor = _broadcast(coefficient, value) if isinstance(coefficient, Tensor) else coefficient
        if total is None:
            total = value * factor
        elif apart:
            total = total + value * factor
        elif isinstance(factor, Tensor):
            total.addcmul_(value, factor)
        else:
            total.add_(value, alpha=factor)
    assert total is not None  # a Tableau has no row without terms
    return total


def _transformed() -> bool:
    """Whether torch.func (jvp, vmap ...) is looking on: values cannot be asked then."""
    return bool(peek_interpreter_stack())


def _broadcast(coefficient: Tensor, value: Tensor) -> Tensor:
    coefficient = coefficient.to(value)
    return coefficient.reshape(coefficient.shape + (1,) * (value.ndim - 1)) if coefficient.ndim else coefficient


def _answers(denoised: Any, x: Tensor, count: int) -> Sequence[Tensor]:
    """The answers to `count` questions like x, which came along the batch."""
    if count == 1:
        return (_checked(denoised, x.shape).to(x.dtype),)
    whole, size = _checked(denoised, (count * len(x), *x.shape[1:])).to(x.dtype), len(x)
    return [whole[k * size : (k + 1) * size] for k in range(count)]


def _checked(denoised: Any, shape: Sequence[int]) -> Tensor:
    if not isinstance(denoised, Tensor) or denoised.shape != shape:
        got = f"shape {tuple(denoised.shape)}" if isinstance(denoised, Tensor) else type(denoised).__name__
        raise ScheduleError(f"The denoiser must answer a tensor of the state's shape {tuple(shape)}, but it answered {got}.")
    return denoised


def _finish(state: State, slots: dict[str, Tensor], index: int, denoised: Tensor | None) -> None:
    """After row `index` is complete: let the callback see and perhaps replace its state, then free what is dead."""
    slot = state.rows[index].slot
    if state.callback is not None:
        replaced = state.callback(state.rows[index], slots[slot], denoised)
        if replaced is not None:
            slots[slot] = _checked(replaced, slots[slot].shape).to(slots[slot].dtype)
    for dead in state.releases[index]:
        slots.pop(dead, None)
