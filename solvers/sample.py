"""Run a table. `advance` is the one pure stepper; `sample` is its driver and the only caller of a network in this room.

    state, request = advance(state, D)        request = (x, at, knobs) to be answered by D, or None when the table is done

A State is a value: advancing it changes nothing, so it can be kept, forked (candidates that share a prefix) or saved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """What the denoiser is asked: the state x in the caller's dtype, where it is, and the knobs of this evaluation."""

    x: Tensor
    at: At
    knobs: Mapping[str, float]


@dataclass(frozen=True)
class State:
    """A sampler between two evaluations: the slots alive, and the next row."""

    rows: tuple[Row, ...]
    releases: tuple[tuple[str, ...], ...]
    slots: Mapping[str, Tensor]
    dtype: torch.dtype
    noise: NoiseSource
    callback: Callback | None = None
    position: int = 0
    answered: int = field(default=-1)  # the last evaluation that was asked for; -1 before the first

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
    return State(tableau.rows, tableau.releases, slots, x.dtype, source, callback)


def extend(state: State, rows: Sequence[Row]) -> State:
    """The same state with more rows to go: how an adaptive method adds the rows of a step it has just accepted."""
    return replace(state, rows=(*state.rows, *rows), releases=(*state.releases, *([()] * len(rows))))


def advance(state: State, denoised: Tensor | None = None) -> tuple[State, Request | None]:
    """Take the answer to the last request (None at first) and run rows up to the next request, or to the end (None)."""
    slots, position, answered = dict(state.slots), state.position, state.answered
    row = state.rows[position - 1] if position else None
    if row is not None and row.evaluation is not None:
        slots[f"D{answered}"] = _checked(denoised, slots[row.slot])
        _finish(state, slots, position - 1, slots[f"D{answered}"])
    elif denoised is not None:
        raise ScheduleError("An answer was given, but nothing was asked.")
    while position < len(state.rows):
        row = state.rows[position]
        slots[row.slot] = _combine(row.terms, slots, state.noise)
        position += 1
        if row.evaluation is not None:
            for dead in state.releases[position - 1]:
                if dead in row.terms:  # free it before the network runs
                    slots.pop(dead, None)
            moved = replace(state, slots=slots, position=position, answered=answered + 1)
            return moved, Request(moved.x, row.evaluation.at, row.evaluation.knobs)
        _finish(state, slots, position - 1, None)
    return replace(state, slots=slots, position=position, answered=answered), None


def sample(
    denoiser: Denoiser,
    x: Tensor | Mapping[str, Tensor],
    tableau: Tableau,
    noise: Mapping[str, Tensor] | Sequence[Tensor] | Sequence[int] | None = None,
    callback: Callback | None = None,
    mu: Tensor | None = None,
    **knobs: Any,
) -> Tensor:
    """Draw one sample per entry of the batch.

    denoiser   `denoiser(x, at, **knobs) -> D`, the data prediction, of x's shape; `at` is an `At`
    x          x_T [batch, ...], as `initial` makes it; for an inverse, a mapping from the table's starts to states
    noise      what stochastic tables need: a mapping "z0" -> tensor, tensors in row order, or one seed per sample
    callback   called as callback(row, x, D or None) after every row; a tensor it returns replaces the state
    mu         where a mean-reverting process ends, of x's shape or that of one sample
    knobs      handed to every evaluation, below those of the row

    Returns x of the same shape and dtype. Raises ScheduleError if an answer has another shape or the result is not finite
    (which cannot be asked inside torch.func's transforms).
    """
    state, request = advance(begin(tableau, x, noise, callback, mu))
    while request is not None:
        state, request = advance(state, denoiser(request.x, request.at, **{**knobs, **request.knobs}))
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


def _checked(denoised: Any, x: Tensor) -> Tensor:
    if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
        got = f"shape {tuple(denoised.shape)}" if isinstance(denoised, Tensor) else type(denoised).__name__
        raise ScheduleError(f"The denoiser must answer a tensor of the state's shape {tuple(x.shape)}, but it answered {got}.")
    return denoised.to(x.dtype)


def _finish(state: State, slots: dict[str, Tensor], index: int, denoised: Tensor | None) -> None:
    """After row `index` is complete: let the callback see and perhaps replace its state, then free what is dead."""
    slot = state.rows[index].slot
    if state.callback is not None:
        replaced = state.callback(state.rows[index], slots[slot], denoised)
        if replaced is not None:
            slots[slot] = _checked(replaced, slots[slot])
    for dead in state.releases[index]:
        slots.pop(dead, None)
