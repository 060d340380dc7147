"""DPM-Solver (eps) and DPM-Solver++ (x0), multistep: exponential Adams in lambda, and their SDE variants.

    2M   two points; the solver type "midpoint" is moment bh2, "heun" the exact one
    3M   three points, the second derivative with its full weight. Every public 3M gives it half (option third="half", the
         presets named compat): order 2. third="slip" is diffusers' sde-dpmsolver++ of order 3, which has a sign wrong: order 1
Their first steps are 1M and 2M, of the same solver type.
"""

from collections.abc import Sequence
from typing import Any

from .conventions import orders
from .family import Family, Preset, StepsOf
from .process import Process
from .schedule import Step

SOLVER_TYPES = {"midpoint": "bh2", "heun": "exact"}


def _steps(times: Sequence[float], order: int, moment: str, third: str, tail: str, **words: Any) -> list[Step]:
    """Steps whose formulas of two points weigh by `moment`, those of three by `third`."""
    moments: dict[int, Any] = {2: SOLVER_TYPES.get(moment, moment), 3: third}
    found = zip(times[1:], orders(order, len(times) - 1, tail), strict=True)
    return [Step(to=t, order=p, moment=moments.get(p, "exact"), **words) for t, p in found]


def _2m(space: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, moment: str = "midpoint", tail: str = "full") -> list[Step]:
        return _steps(times, 2, moment, "exact", tail, space=space)

    return steps


def _2m_sde(space: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, eta: float = 1.0, moment: str = "midpoint", tail: str = "full") -> list[Step]:
        return _steps(times, 2, moment, "exact", tail, space=space, eta=eta, noise="sde")

    return steps


def _3m(space: str, weight: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, moment: str = "midpoint", third: str = weight, tail: str = "full") -> list[Step]:
        return _steps(times, 3, moment, third, tail, space=space)

    return steps


def _3m_sde(weight: str) -> StepsOf:
    def steps(
        times: Sequence[float], process: Process, eta: float = 1.0, moment: str = "heun", third: str = weight, tail: str = "full"
    ) -> list[Step]:
        return _steps(times, 3, moment, third, tail, eta=eta, noise="sde")

    return steps


_PAPER, _PLUS = "Lu et al. 2022 (DPM-Solver), multistep", "Lu et al. 2022 (DPM-Solver++), algorithm 2"
_SDE, _HALF = "Lu et al. 2022 (SDE-DPM-Solver++)", "as in every public implementation"

FAMILY = Family(
    presets={
        "dpmpp-2m": Preset(_2m("x0"), 2, 2, f"{_PLUS}; options moment, tail"),
        "dpmpp-3m": Preset(_3m("x0", "exact"), 3, 3, f"{_PLUS}, third order; options moment, third, tail"),
        "dpmpp-3m-compat": Preset(_3m("x0", "half"), 2, 2, f"{_PLUS}, third order {_HALF}; options moment, third, tail"),
        "dpm-solver-2m": Preset(_2m("eps"), 2, 2, f"{_PAPER}; options moment, tail"),
        "dpm-solver-3m": Preset(_3m("eps", "exact"), 3, 3, f"{_PAPER}, third order; options moment, third, tail"),
        "dpmpp-2m-sde": Preset(_2m_sde("x0"), 2, 2, f"{_SDE}; options eta, moment, tail", noise="injected"),
        "dpmpp-3m-sde": Preset(_3m_sde("exact"), 2, 2, f"{_SDE}, third order; options eta, moment, third, tail", noise="injected"),
        "dpmpp-3m-sde-compat": Preset(
            _3m_sde("half"), 2, 2, f"{_SDE}, third order {_HALF}; options eta, moment, third, tail", noise="injected"
        ),
        "dpm-solver-2m-sde": Preset(
            _2m_sde("eps"), 2, 2, f"{_SDE}, noise form; options eta, moment, tail", noise="injected", point_mass=False
        ),
    },
)
