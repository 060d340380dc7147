"""Single steps whose tableau is that of their name: two and three stages in any space and domain, and the classical ones.

heun      c_2 = 1:    (eps, rho) is EDM's Heun (Karras et al. 2022, algorithm 1), (flow, t) flow Heun, (x0, lambda) exponential Heun
midpoint  c_2 given:  (x0 or eps, lambda) is DPM-Solver-2S; moment bh2 is its own weight phi_1 / (2 c_2), exact phi_2 / c_2
ho-3      c_2, c_3:   Hochbruck and Ostermann 2005, section 5.2, family with gamma: the "res_3s" of RES4LYF
ho-3-compat           the same with RES4LYF's gamma, which has c_3^3 for c_3^2: of order 2 unless c_3 = 1
kutta-3, rk4          classical: (eps, rho) is rhoRK (Zhang and Chen 2023, DEIS), (eps, index) with the transfer of PNDM

Churn adds noise exactly, so its only error is Heun's, over a step that is longer by churn = min(S_churn / N, sqrt(2) - 1): of order 2,
since that falls as 1 / N. But while the minimum binds, up to N = S_churn / (sqrt(2) - 1), which is 97 for the default of 40, more steps
do not make it shorter, and little is gained.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from .adams import natural
from .diffusion import ANCESTRAL, SDE
from .errors import ScheduleError
from .family import Family, Method, Preset, StepsOf, each
from .process import Process
from .schedule import Step
from .single_step import Stage, Tableau, Term, rows


def _two(step: Step, c2: float) -> Sequence[Stage]:
    n, weight = {"bh1": (0, 0.5), "bh2": (1, 0.5)}.get(step.moment, (2, 1.0))
    return Stage(c2), Stage(1.0, [Term(weight / c2, n, of=1)])


def _heun(step: Step) -> Sequence[Stage]:
    return _two(step, 1.0)


def _midpoint(step: Step) -> Sequence[Stage]:
    return _two(step, step.numbers["c2"])


def _hochbruck_ostermann(power: int) -> Tableau:
    def stages(step: Step) -> Sequence[Stage]:
        c2, c3 = step.numbers["c2"], step.numbers["c3"]
        if c2 == 2 / 3:
            raise ScheduleError("The three-stage family of Hochbruck and Ostermann has no member with c2 = 2/3.")
        gamma = (3 * c3**power - 2 * c3) / (c2 * (2 - 3 * c2))
        third = 1 / (gamma * c2 + c3)
        inner = [Term(gamma, 2, of=1, until=1), Term(c3 / c2, 2, of=1)]
        return Stage(c2), Stage(c3, inner), Stage(1.0, [Term(gamma * third, 2, of=1), Term(third, 2, of=2)])

    return stages


def _classical(*stages: tuple[float, Sequence[float]]) -> Tableau:
    """Butcher's a_kj for j >= 2, stage by stage, as phi_1 of the stage."""
    found = [Stage(c, [Term(a / c, 1, of=j) for j, a in enumerate(weights, start=1) if a]) for c, weights in stages]
    return lambda step: found


_KUTTA_3 = _classical((1 / 2, ()), (1.0, (2,)), (1.0, (2 / 3, 1 / 6)))
_RK4 = _classical((1 / 2, ()), (1 / 2, (1 / 2,)), (1.0, (0, 1)), (1.0, (1 / 3, 1 / 3, 1 / 6)))


def plain(method: str, **words: Any) -> StepsOf:
    """Every step alike."""

    def steps(times: Sequence[float], process: Process) -> list[Step]:
        return [Step(to=t, method=method, **words) for t in times[1:]]

    return steps


def _heun_steps(times: Sequence[float], process: Process) -> list[Step]:
    return [Step(to=t, method="heun", **natural(process)) for t in times[1:]]


def _churn(
    times: Sequence[float], process: Process, s_churn: float = 40.0, s_tmin: float = 0.0, s_tmax: float = math.inf, s_noise: float = 1.0
) -> list[Step]:
    gamma = min(s_churn / (len(times) - 1), math.sqrt(2) - 1)
    sigmas = [float(process.sigma_of(t)) for t in times[:-1]]
    churns = [gamma if s_tmin <= sigma <= s_tmax else 0.0 for sigma in sigmas]
    steps = zip(_heun_steps(times, process), churns, strict=True)
    return [msgspec.structs.replace(step, numbers={"churn": churn, "s_noise": s_noise}) for step, churn in steps]


def _res_2s(times: Sequence[float], process: Process, c2: float = 0.5) -> list[Step]:
    return [Step(to=t, method="midpoint", numbers={"c2": c2}) for t in times[1:]]


def _res_3s(method: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, c2: float = 0.5, c3: float = 1.0) -> list[Step]:
        return [Step(to=t, method=method, numbers={"c2": c2, "c3": c3}) for t in times[1:]]

    return steps


def _pndm(times: Sequence[float], process: Process) -> list[Step]:
    words: list[dict[str, Any]] = [{"method": "rk4"}] * 3 + [{"order": 4}] * (len(times) - 4)
    return [Step(to=t, space="eps", domain="index", **word) for t, word in zip(times[1:], words, strict=False)]


def _pndm_cost(steps: int, clean_end: bool) -> int:
    return each(4)(steps, clean_end) if steps < 4 else 9 + steps


_RES, _DEIS = "Zhang et al. 2023 (RES), algorithm 1", "Zhang and Chen 2023 (DEIS), section 3.4 (rhoRK)"
_SDE = ANCESTRAL + SDE

FAMILY = Family(
    methods={
        "heun": Method(rows(_heun), {"churn": 0.0, "s_noise": 1.0}, _SDE),
        "midpoint": Method(rows(_midpoint), {"c2": 0.5}, _SDE),
        "ho-3": Method(rows(_hochbruck_ostermann(2)), {"c2": 0.5, "c3": 1.0}, _SDE),
        "ho-3-compat": Method(rows(_hochbruck_ostermann(3)), {"c2": 0.5, "c3": 1.0}, _SDE),
        "kutta-3": Method(rows(_KUTTA_3)),
        "rk4": Method(rows(_RK4)),
    },
    presets={
        "heun": Preset(_heun_steps, 2, 2, "Karras et al. 2022 (EDM), algorithm 1, without churn", each(2)),
        "heun-churn": Preset(
            _churn, 2, 2, "Karras et al. 2022 (EDM), algorithm 2; options s_churn, s_tmin, s_tmax, s_noise", each(2), "injected"
        ),
        "res-2s": Preset(_res_2s, 2, 2, f"{_RES}; option c2", each(2)),
        "res-2s-stable": Preset(plain("midpoint", moment="bh2"), 2, 2, f"{_RES}, all weight on the stage halfway", each(2)),
        "res-3s": Preset(_res_3s("ho-3"), 3, 3, "Hochbruck and Ostermann 2005, section 5.2; options c2, c3", each(3)),
        "res-3s-compat": Preset(_res_3s("ho-3-compat"), 3, 3, "as in RES4LYF, exact at c3 = 1 alone; options c2, c3", each(3)),
        "exp-heun": Preset(plain("heun"), 2, 2, "Hochbruck and Ostermann 2005, eq. 5.3, c2 = 1", each(2)),
        "exp-heun-mean": Preset(plain("heun", moment="bh2"), 2, 2, "the 2heun_edm of RES: both answers weigh alike", each(2)),
        "rho-heun": Preset(plain("heun", space="eps", domain="rho"), 2, 2, f"{_DEIS}, Heun", each(2)),
        "rho-kutta": Preset(plain("kutta-3", space="eps", domain="rho"), 3, 3, f"{_DEIS}, Kutta", each(3)),
        "rho-rk4": Preset(plain("rk4", space="eps", domain="rho"), 4, 4, f"{_DEIS}, classical order 4", each(4)),
        "pndm": Preset(_pndm, 2, 1, "Liu et al. 2022 (PNDM), algorithm 2: F-PNDM", _pndm_cost),
    },
)
