"""Adams-Bashforth with momentum: a moving average of slopes damps what a few large steps make diverge (Wizadwongsa et al. 2024).

With f the prediction of the space, v_{-1} = f_0 and AB_K the Adams-Bashforth mean of K points, a step is the first-order one along u:

    hb        v = (1 - beta) v' + beta AB_K(f)      u = v                                  Polyak's heavy ball
    nesterov  v = (1 - beta) v' + beta AB_K(f)      u = (1 - beta) v + beta AB_K(f)
    ghvb      v = (1 - beta) v' + beta f            u = sum_j m_j(beta) v_{i-j} / beta     generalised heavy ball

At beta = 1 all are Adams-Bashforth (iPNDM in the domain index, for which the m_j are made). The authors call a method by K - 1 + beta;
its formal order is 1 (hb, nesterov) and 2 (ghvb, as iPNDM's on grids that are not uniform). v takes one register.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .build import Builder, Form, add
from .conventions import steps_of
from .errors import ScheduleError
from .family import Family, Method, Preset, StepsOf
from .process import Process
from .quadrature import transfer, weights
from .schedule import Step

# m_j = (a_j + b_j beta) / divisor; they sum to beta
_MIXERS: dict[int, tuple[Sequence[int], Sequence[int], int]] = {
    1: ((0,), (1,), 1),
    2: ((2, -2), (1, 1), 2),
    3: ((18, -24, 6), (5, 8, -1), 12),
    4: ((46, -78, 42, -10), (9, 19, -5, 1), 24),
}
_LEAST = 0.01


def adams_mean(builder: Builder, i: int) -> Form:
    """AB_K(f): f_s and differences to it, weighed as a multistep step of this order and domain weighs them."""
    step, s, t = builder.steps[i], builder.history[-1], builder.nodes[i + 1]
    past = builder.history[-2::-1][: step.order - 1]
    total = transfer(step.space, s.node, t)[1]
    form = dict(builder.output(s, step.space))
    nodes = [other.node for other in past]
    for other, c in zip(past, weights(step.space, step.domain, "exact", builder.schedule.process, s.node, t, nodes), strict=True):
        add(form, c / total, builder.output(other, step.space))
        add(form, -c / total, builder.output(s, step.space))
    return form


def _average(builder: Builder, i: int, new: Form, beta: Tensor | float) -> Form:
    """v_i = (1 - beta) v_{i-1} + beta new, in a register unless this is the last step; without a v_{i-1} it is new."""
    step, current = builder.steps[i], builder.history[-1]
    before = builder.registers.get((f"v {step.space}", builder.history[-2].answer)) if i else None
    form = dict(new)
    if before:
        form = {slot: beta * c for slot, c in new.items()}
        add(form, 1 - beta, {before: torch.ones_like(current.node.time)})
    if i + 1 == len(builder.steps):
        return form
    slot = builder.write(f"v{i}", current.node, form)
    builder.registers[f"v {step.space}", current.answer] = slot
    return {slot: torch.ones_like(current.node.time)}


def _heavy_ball(builder: Builder, i: int, beta: Tensor | float) -> Form:
    builder.keep(i)
    return _average(builder, i, adams_mean(builder, i), beta)


def _nesterov(builder: Builder, i: int, beta: Tensor | float) -> Form:
    builder.keep(i)
    mean = adams_mean(builder, i)
    form = {slot: (1 - beta) * c for slot, c in _average(builder, i, mean, beta).items()}
    add(form, beta, mean)
    return form


def _generalised(builder: Builder, i: int, beta: Tensor | float) -> Form:
    step = builder.steps[i]
    if step.domain != "index":
        raise ScheduleError(f"Step {i}: the coefficients of method 'ghvb' are those of domain 'index', not of {step.domain!r}.")
    velocities = [_average(builder, i, builder.output(builder.history[-1], step.space), beta)]
    for evaluated in builder.history[-2::-1][: step.order - 1]:
        slot = builder.registers.get((f"v {step.space}", evaluated.answer))
        if slot is None:
            break
        velocities.append({slot: torch.ones_like(evaluated.node.time)})
    constant, linear, divisor = _MIXERS[len(velocities)]
    form: Form = {}
    for a, b, velocity in zip(constant, linear, velocities, strict=True):
        add(form, (a + b * beta) / divisor / beta, velocity)
    return form


def rows(slope: Callable[[Builder, int, Tensor | float], Form]) -> Callable[[Builder, int], None]:
    """The method whose step i goes along slope(builder, i, beta)."""

    def write(builder: Builder, i: int) -> None:
        step, s, t, state, beta = builder.steps[i], builder.nodes[i], builder.nodes[i + 1], builder.state, builder.number(i, "beta")
        if not _LEAST <= step.numbers["beta"] <= 1:
            raise ScheduleError(f"Step {i}: beta lies between {_LEAST:g} (nothing new is learnt) and 1 (no momentum), not {beta:g}.")
        u = slope(builder, i, beta)
        if s.pure:  # the space eps has no first-order step from alpha = 0, and there is nothing to average yet
            builder.arrive(i + 1, builder.step_form(step, builder.history[-1], t, [], state))
            return
        keep, gain = transfer(step.space, s, t)
        form: Form = {state: keep}
        add(form, gain, u)
        builder.arrive(i + 1, form)

    return write


def _steps(method: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, order: float = 2.5, space: str = "eps") -> list[Step]:
        points = math.ceil(order)
        if not 1 <= points <= 4:
            raise ScheduleError(f"The order of {method!r} lies in (0, 4], not at {order:g}.")
        return steps_of(times, points, method=method, space=space, domain="index", numbers={"beta": order - points + 1})

    return steps


_SOURCE = "Wizadwongsa et al. 2024 (momentum diffusion)"

FAMILY = Family(
    methods={
        "ghvb": Method(rows(_generalised), numbers={"beta": 1.0}),
        "hb": Method(rows(_heavy_ball), numbers={"beta": 1.0}),
        "nesterov": Method(rows(_nesterov), numbers={"beta": 1.0}),
    },
    presets={
        "ghvb": Preset(_steps("ghvb"), 2, 1, f"{_SOURCE}, generalised heavy ball; options order (with a fraction), space"),
        "hb": Preset(_steps("hb"), 1, 1, f"{_SOURCE}, Polyak's heavy ball; options order (with a fraction), space"),
        "nesterov": Preset(_steps("nesterov"), 1, 1, f"{_SOURCE}, Nesterov momentum; options order (with a fraction), space"),
    },
)
