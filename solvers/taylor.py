"""Steps of the unified sampling framework: a Taylor expansion at any earlier state (Liu et al. 2023, USF, section 3; its search is S^3).

    x_t = first-order step from s + S_t sum_{k=1}^{p-1} M_k g_k,      M_k = integral of theta^k dm,   theta = (u - u_s) / (u_t - u_s)

with m, S, u of `quadrature` and g_k = d^k f / dtheta^k / k! at s. Of every step its numbers decide

    origin      s: 0, the current state; 1, 2, ...: so many states back, which makes the steps in between stages of this one
    estimate    g_k is the coefficient of theta^k in the polynomial through f_s and max(k, estimate) other points; 0: through all p - 1
    linear, exp g_1 is multiplied by 1 + linear h + exp (e^z - 1), h = lambda_t - lambda_s, z = h in the space eps, -h in the others

besides order (p), space, domain, relax and the corrector, which is the exact one. The other points are those newer than s, oldest
first, then the older ones, newest first. The paper's relaxations dpmsolver-2, unipc-bh1 and -bh2 are the moments of `moments.py`;
its pseudo-corrector is mode "pec", its implicit one "pece". Where an end lies at infinity the step is the plain multistep one.
"""

import math
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from .build import Builder, Evaluated
from .conventions import steps_of
from .errors import ScheduleError
from .family import Family, Method, Preset
from .moments import powers
from .multistep import correct
from .process import Process
from .quadrature import Node, coordinate, phi
from .schedule import Step


def rows(builder: Builder, i: int) -> None:
    """Step i."""
    step, t = builder.steps[i], builder.nodes[i + 1]
    builder.keep(i)
    origin, estimate = _count(builder, i, "origin"), _count(builder, i, "estimate")
    if origin > i or estimate > 3:
        raise ScheduleError(f"Step {i} cannot start {origin} states back or estimate from {estimate} points: there are {i} and at most 3.")
    at = i - origin
    s, others = builder.history[at], [*builder.history[at + 1 :], *builder.history[:at][::-1]][: step.order - 1]
    if step.moment != "exact" and any(step.numbers[name] for name in ("estimate", "linear", "exp")):
        raise ScheduleError(f"Step {i}: the moment {step.moment!r} leaves nothing to estimate or relax; those need the moment 'exact'.")
    found = None
    if step.moment == "exact" and not s.node.pure and not t.clean:
        found = _weights(builder, i, s, t, others, estimate)
    builder.arrive(i + 1, builder.step_form(step, s, t, others, builder.states[at], step.relax, found))
    correct(builder, i, {})


def _count(builder: Builder, i: int, name: str) -> int:
    value = builder.steps[i].numbers[name]
    if value != int(value) or value < 0:
        raise ScheduleError(f"Step {i}: {name} is a whole number of at least 0, not {value:g}.")
    return int(value)


def _weights(builder: Builder, i: int, s: Evaluated, t: Node, others: Sequence[Evaluated], estimate: int) -> list[Tensor]:
    """What multiplies f_j - f_s, for every other point; one that lies at infinity weighs nothing."""
    step, process = builder.steps[i], builder.schedule.process
    lost = step.domain in ("lambda", "rho")
    live = [other.node for other in others if not (lost and other.node.pure)]
    width = coordinate(step.domain, process, t) - coordinate(step.domain, process, s.node)
    thetas = [(coordinate(step.domain, process, n) - coordinate(step.domain, process, s.node)) / width for n in live]
    h = t.lambda_ - s.node.lambda_
    z = h if step.space == "eps" else -h
    relaxed = 1 + builder.number(i, "linear") * h + builder.number(i, "exp") * torch.expm1(z)
    found = [torch.zeros_like(h) for _ in live]
    for k in range(1, len(live) + 1):
        moment = math.factorial(k) * phi(step.space, step.domain, k + 1, process, s.node, t) * (relaxed if k == 1 else 1)
        points = thetas[: max(k, estimate or len(live))]
        found = [c + (powers(points, j)[k - 1] * moment if j < len(points) else 0) for j, c in enumerate(found)]
    by_node = {id(n): c for n, c in zip(live, found, strict=True)}
    return [by_node.get(id(other.node), torch.zeros_like(h)) for other in others]


def _usf(
    times: Sequence[float],
    process: Process,
    order: int = 3,
    space: str = "x0",
    estimate: int = 1,
    linear: float = 0.0,
    exp: float = 0.0,
    corrector: int = 0,
    answer: str = "network",
) -> list[Step]:
    numbers = {"estimate": float(estimate), "linear": linear, "exp": exp}
    steps = steps_of(times, order, method="taylor", space=space, numbers=numbers)
    corrected = [msgspec.structs.replace(step, corrector=min(corrector, i + 1)) for i, step in enumerate(steps[:-1])]
    steps = [*corrected, steps[-1]]
    return [msgspec.structs.replace(steps[0], answer=answer), *steps[1:]]


_SOURCE = "Liu et al. 2023 (USF), section 3; options order, space, estimate, linear, exp, corrector, answer"

FAMILY = Family(
    methods={"taylor": Method(rows, numbers={"origin": 0.0, "estimate": 0.0, "linear": 0.0, "exp": 0.0})},
    presets={"usf": Preset(_usf, 2, 2, _SOURCE)},
)
