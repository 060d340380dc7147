"""Parallel directions: K evaluations inside a step that do not know of each other (Zhu et al. 2025, EPD; K = 1: Zhou et al. 2024, AMED).

    x_k = first-order step from s to t_k,  k = 1..K, asked with label clock_k t_k;       f = sum_k w_k direction_k f_k,   sum w_k = 1
    x_t = first-order step from s to t along f

t_k lies at the fraction at_k of the step in the domain (lambda: t_k = t^at s^(1 - at) in sigma, as published), K is the order of the
step, and all else its numbers, learnable through `compile(schedule, numbers=...)`. The K rows read only what was known before them,
so that a batch can answer them at once (`Tableau.groups`); NFE counts them all. A direction other than 1 scales the velocity and does
not keep a point mass. A step to sigma = 0 is of first order, and a step from alpha = 0 lies in t where the domain is infinite.
"""

from collections.abc import Sequence

from torch import Tensor

from .build import Builder, Form, add
from .errors import ScheduleError
from .family import Family, Method, Preset, StepsOf, each
from .process import Process
from .quadrature import Node, coordinate, node, transfer
from .schedule import Step
from .single_step import composed

MOST = 4
_DEFAULTS = {"at": 0.5, "weight": 1.0, "direction": 1.0, "clock": 1.0}


def rows(builder: Builder, i: int) -> None:
    """Step i."""
    step, s, t, start = builder.steps[i], builder.history[-1], builder.nodes[i + 1], builder.state
    builder.keep(i)
    if t.clean:
        builder.arrive(i + 1, builder.step_form(step, s, t, [], start))
        return
    space = "x0" if s.node.pure and step.space == "eps" else step.space
    weights = [builder.number(i, f"weight{k}") for k in range(1, step.order + 1)]
    total = sum(weights[1:], weights[0])
    if not sum(step.numbers[f"weight{k}"] for k in range(1, step.order + 1)):
        raise ScheduleError(f"Step {i}: the weights of its parallel evaluations sum to 0.")
    keep, gain = transfer(space, s.node, t)
    result: Form = {start: keep}
    for k, weight in enumerate(weights, 1):
        between = _between(builder, i, k)
        form = builder.step_form(step, s, between, [], start)
        asked = builder.ask(f"s{i}_{k}", between, form, builder.number(i, f"clock{k}") * between.time)
        add(result, gain * weight / total * builder.number(i, f"direction{k}"), composed(asked.form(space), asked.state, form))
    builder.arrive(i + 1, result)


def _between(builder: Builder, i: int, k: int) -> Node:
    """The node of the k-th evaluation."""
    step, s, t, process = builder.steps[i], builder.nodes[i], builder.nodes[i + 1], builder.schedule.process
    fraction, given = builder.number(i, f"at{k}"), step.numbers[f"at{k}"]
    if not 0 < given < 1:
        raise ScheduleError(f"Step {i} has an evaluation at {given:g} of its length; they lie inside (0, 1).")
    if step.domain in ("t", "index") or s.pure:
        time = s.time + fraction * (t.time - s.time)
    else:
        first, last = (coordinate(step.domain, process, n) for n in (s, t))
        u: Tensor = first + fraction * (last - first)
        time = process.time_of(u if step.domain == "lambda" else -u.log())
    first, last = builder.schedule.times[i : i + 2]
    return node(process, i + given, time, first + given * (last - first))  # the last only to say that it is no end


def _steps(points: int) -> StepsOf:
    def steps(times: Sequence[float], process: Process, points: int = points, space: str = "eps", answer: str = "network") -> list[Step]:
        if not 1 <= points <= MOST:
            raise ScheduleError(f"A step has 1 to {MOST} parallel evaluations, not {points}.")
        numbers = {f"at{k}": k / (points + 1) for k in range(1, points + 1)}
        words = {"method": "parallel", "space": space, "order": points, "numbers": numbers}
        return [Step(to=t, answer="network" if i else answer, **words) for i, t in enumerate(times[1:])]  # pyright: ignore[reportArgumentType]

    return steps


FAMILY = Family(
    methods={"parallel": Method(rows, numbers={f"{name}{k}": value for name, value in _DEFAULTS.items() for k in range(1, MOST + 1)})},
    presets={
        "epd": Preset(_steps(2), 2, 2, "Zhu et al. 2025 (EPD), before learning; options points, space, answer", nfe=each(3)),
        "amed": Preset(_steps(1), 2, 2, "Zhou et al. 2024 (AMED), its constants those of a midpoint; options space, answer", nfe=each(2)),
    },
)
