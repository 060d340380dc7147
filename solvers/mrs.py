"""MRS: fast samplers of mean-reverting diffusion (Ma et al. 2025, MR Sampler). On y = x - mu they are exponential Adams in lambda.

    ODE-n   n points; space "x0" (data prediction) or "eps" (noise prediction)
    SDE-n   the same with the noise of the reverse-time SDE
The paper's third order gives the second derivative half its weight, as DPM-Solver's public code does: that is the preset named
compat, of order 2. Its code takes lower orders at the end of short grids: tail "lower-below-10".
"""

from collections.abc import Sequence
from typing import Any

from .conventions import steps_of
from .family import Family, Preset, StepsOf
from .process import Process
from .schedule import Step


def _mrs(order: int, **words: Any) -> StepsOf:
    def steps(times: Sequence[float], process: Process, space: str = "x0", tail: str = "full") -> list[Step]:
        return steps_of(times, order, tail, space=space, **words)

    return steps


def _preset(order: float, points: int, **words: Any) -> Preset:
    noise = "injected" if words.get("eta") else "none"
    source = "Ma et al. 2025 (MRS), section 3; options space, tail"
    return Preset(_mrs(points, **words), order, order, source, noise=noise, processes=("mean-reverting",))


FAMILY = Family(
    presets={
        "mrs-ode-1": _preset(1, 1),
        "mrs-ode-2": _preset(2, 2),
        "mrs-ode-3": _preset(3, 3),
        "mrs-ode-3-compat": _preset(2, 3, moment="half"),
        "mrs-sde-1": _preset(1, 1, eta=1.0, noise="sde"),
        "mrs-sde-2": _preset(2, 2, eta=1.0, noise="sde"),
    },
)
