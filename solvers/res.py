"""RES multistep: exponential Adams of the data prediction in lambda (Zhang et al. 2023, refined exponential solver).

res-2m and res-3m satisfy every moment condition. RES4LYF's res_3m replaces the third by a coefficient gamma that has c_3^3
where its derivation has c_3^2 (moment "gamma", the preset named compat): order 2. Its single-step start is not copied. The
ancestral variant steps to sigma_d, and measures its history where the evaluations were made.
"""

from collections.abc import Sequence

from .conventions import steps_of
from .family import Family, Preset, StepsOf
from .process import Process
from .schedule import Step


def _res(order: int, moment: str = "exact") -> StepsOf:
    def steps(times: Sequence[float], process: Process, tail: str = "full") -> list[Step]:
        return steps_of(times, order, tail, moment=moment)

    return steps


def _ancestral(times: Sequence[float], process: Process, eta: float = 1.0, tail: str = "full") -> list[Step]:
    return steps_of(times, 2, tail, eta=eta)


_SOURCE = "Zhang et al. 2023 (RES), multistep"

FAMILY = Family(
    presets={
        "res-2m": Preset(_res(2), 2, 2, f"{_SOURCE}; option tail"),
        "res-3m": Preset(_res(3), 3, 3, f"{_SOURCE}, third order; option tail"),
        "res-3m-compat": Preset(_res(3, "gamma"), 2, 2, f"{_SOURCE}, third order as in RES4LYF; option tail"),
        "res-2m-ancestral": Preset(_ancestral, 1, 1, f"{_SOURCE}, with DDIM's noise; options eta, tail", noise="injected"),
    },
)
