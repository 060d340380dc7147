"""DC-Solver: before a step, its newest answer is moved in time by interpolation (Zhao et al. 2024, section 3.2).

    f_i  <-  sum_j l_j(t') f_{i-j},  j = 0, 1, 2,        t' = ratio t_i + (1 - ratio) t_{i-1}

with l_j the Lagrange polynomials in t through the last three times; ratio = 1 changes nothing. The answer stays replaced in history,
so that later steps see it. As rows: the new answer is a linear form of three old ones in a register, and the step that follows, a
UniPC step by default, reads the register instead. A register holds data: where f is eps or flow, the D at x_i that belongs to the
new f. The table is differentiable in the ratios (`compile(schedule, numbers={"ratio": ratios})`), which are to be learnt.
"""

from collections.abc import Sequence

import msgspec

from . import multistep
from .build import Builder, Evaluated, Form, add
from .errors import ScheduleError
from .family import Family, Method, Preset
from .process import Process
from .quadrature import lagrange
from .schedule import Step
from .unipc import unipc


def rows(builder: Builder, i: int) -> None:
    """Step i: compensation where three answers exist, then the multistep step."""
    if len(builder.history) > 2 and ("ratio" in builder.numbers or builder.number(i, "ratio") != 1):
        _compensate(builder, i)
    multistep.rows(builder, i)


def _compensate(builder: Builder, i: int) -> None:
    space, ratio, points = builder.steps[i].space, builder.number(i, "ratio"), builder.history[-3:]
    times, newest = [point.node.time for point in points], points[-1]
    moved = ratio * times[2] + (1 - ratio) * times[1]
    form: Form = {}
    for j, point in enumerate(points):
        add(form, lagrange(times, j, moved), builder.output(point, space))
    if space != "x0":  # eps = (x - alpha D) / sigma, flow = (x - (alpha + sigma) D) / sigma
        s = newest.node
        scale = s.alpha if space == "eps" else s.alpha + s.sigma
        data: Form = {newest.state: 1 / scale}
        add(data, -s.sigma / scale, form)
        form = data
    slot = builder.write(f"dc{i}", newest.node, form)
    builder.history[-1] = Evaluated(newest.node, newest.state, slot)


def _dc_solver(
    times: Sequence[float],
    process: Process,
    ratios: Sequence[float] | None = None,
    order: int = 3,
    moment: str = "bh2",
    space: str = "x0",
    tail: str = "lower",
) -> list[Step]:
    steps = unipc(order)(times, process, moment=moment, space=space, tail=tail)
    given = [1.0] * len(steps) if ratios is None else [float(r) for r in ratios]
    if len(given) != len(steps):
        raise ScheduleError(f"dc-solver takes a ratio per step, {len(steps)} here, not {len(given)}.")
    return [msgspec.structs.replace(step, method="dc-solver", numbers={"ratio": ratio}) for step, ratio in zip(steps, given, strict=True)]


FAMILY = Family(
    methods={"dc-solver": Method(rows, numbers={"ratio": 1.0})},
    presets={
        "dc-solver": Preset(
            _dc_solver,
            2,
            2,
            "Zhao et al. 2024 (DC-Solver) on UniPC; without ratios UniPC itself; options ratios, order, moment, space, tail",
        )
    },
)
