"""BDIA: the bidirectional integration that can be run backwards exactly (Zhang et al. 2023, "Exact diffusion inversion via BDIA").

    x_{i+1} = gamma (x_{i-1} - DDIM(s_i -> s_{i-1})) + DDIM(s_i -> s_{i+1}),        eq. 14

both steps with the one answer at x_i; the first step is DDIM. The answer stands between the oldest state and the newest, so either
follows from the other two: `invert.py`. gamma = 1 is of order 2 where step widths change smoothly, less is of order 1, 0 is DDIM.
"""

from collections.abc import Sequence

from .build import Builder, Evaluated, Form, add
from .errors import ScheduleError
from .family import Family, Method, Preset
from .process import Process
from .quadrature import Node
from .schedule import Step


def ddim(s: Evaluated, t: Node, state: str) -> Form:
    """alpha_t D + sigma_t eps, from s to any t, forwards or back, also where alpha_t = 0."""
    keep = t.sigma / s.node.sigma
    return {state: keep, s.answer: t.alpha - keep * s.node.alpha}


def rows(builder: Builder, i: int) -> None:
    """Step i."""
    gamma, current = builder.number(i, "gamma"), builder.history[-1]
    if not 0 <= builder.steps[i].numbers["gamma"] <= 1:
        raise ScheduleError(f"Step {i}: gamma lies in [0, 1], not at {gamma:g}.")
    form = ddim(current, builder.nodes[i + 1], builder.state)
    if i:
        add(form, gamma, {builder.states[-2]: 1 + 0 * current.node.sigma})
        add(form, -gamma, ddim(current, builder.nodes[i - 1], builder.state))
    builder.arrive(i + 1, form)


def _bdia(times: Sequence[float], process: Process, gamma: float = 1.0) -> list[Step]:
    return [Step(to=t, method="bdia", numbers={"gamma": gamma}) for t in times[1:]]


FAMILY = Family(
    methods={"bdia": Method(rows, numbers={"gamma": 1.0})},
    presets={"bdia": Preset(_bdia, 2, 1, "Zhang et al. 2023 (BDIA), eq. 14; invertible by `invert`; option gamma")},
)
