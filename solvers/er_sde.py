"""ER-SDE-Solvers: the reverse SDE whose fading is rho (exp(rho^0.3) + 10), data prediction in rho (Cui et al. 2023).

As published the third takes the first derivative from the last difference alone (moment "difference"), which leaves it of
second order; moment="exact" interpolates. The step to sigma = 0 is of first order. eta = 0 is the ODE.
"""

from collections.abc import Sequence

from .conventions import closing, steps_of
from .family import Family, Preset, StepsOf
from .process import Process
from .schedule import Step


def _er_sde(order: int) -> StepsOf:
    def steps(times: Sequence[float], process: Process, eta: float = 1.0, moment: str = "difference") -> list[Step]:
        return steps_of(times, order, closing(times, process), domain="rho", moment=moment, noise="er", eta=eta)

    return steps


_SOURCE = "Cui et al. 2023, ER-SDE-Solver"

FAMILY = Family(
    presets={
        "er-sde-1": Preset(_er_sde(1), 1, 1, f"{_SOURCE}-1; options eta, moment", noise="injected"),
        "er-sde-2": Preset(_er_sde(2), 2, 2, f"{_SOURCE}-2; options eta, moment", noise="injected"),
        "er-sde-3": Preset(_er_sde(3), 2, 2, f"{_SOURCE}-3; options eta, moment", noise="injected"),
    },
)
