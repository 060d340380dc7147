"""DPM-Solver (eps) and DPM-Solver++ (x0), single-step: exponential Runge-Kutta in lambda, the fast sequence, ancestral and SDE forms.

2S   c_2 = 1/2: solver type "midpoint" weighs by phi_1 / (2 c_2) (moment bh2), "heun" by phi_2 / c_2 (exact)
3S   c_2, c_3 = 1/3, 2/3: "midpoint" weighs the last stage alone by phi_2 / c_3, "heun" both by phi_2 and phi_3 (Taylor)
fast 3S, ..., 3S, 2S, 1S: the sequence of dpm_solver_pytorch and k-diffusion's sample_dpm_fast for budgets divisible by 3
"""

from collections.abc import Sequence
from typing import Any

from .ancestral import natural_noise
from .diffusion import ANCESTRAL, SDE
from .dpm_solver import SOLVER_TYPES
from .family import Family, Method, Preset, StepsOf, each
from .process import Process
from .schedule import Step
from .single_step import Stage, Term, rows, sigma_tree


def three(step: Step) -> Sequence[Stage]:
    """Lu et al. 2022, algorithm 2 and appendix D: the middle stage interpolates the first, the step the last one or all."""
    c2, c3 = step.numbers["c2"], step.numbers["c3"]
    last = [Term(1 / c3, 2, of=2)]
    if step.moment == "exact":
        gap = c3 - c2
        last = [
            Term(c3 / (c2 * gap), 2, of=1),
            Term(-2 / (c2 * gap), 3, of=1),
            Term(-c2 / (c3 * gap), 2, of=2),
            Term(2 / (c3 * gap), 3, of=2),
        ]
    return Stage(c2), Stage(c3, [Term(c3 / c2, 2, of=1)]), Stage(1.0, last)


def two(step: Step) -> Sequence[Stage]:
    """The stage c_2 with weight phi_1 / (2 c_2)."""
    c2 = step.numbers["c2"]
    return Stage(c2), Stage(1.0, [Term(1 / (2 * c2), 1, of=1)])


def _2s(space: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, c2: float = 0.5, moment: str = "midpoint") -> list[Step]:
        return [_step(t, 2, space, moment, c2=c2) for t in times[1:]]

    return steps


def _3s(space: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, c2: float = 1 / 3, c3: float = 2 / 3, moment: str = "midpoint") -> list[Step]:
        return [_step(t, 3, space, moment, c2=c2, c3=c3) for t in times[1:]]

    return steps


def _step(t: float, order: int, space: str, moment: str, words: Any = (), **numbers: float) -> Step:
    method: dict[str, Any] = {"method": {1: "multistep", 2: "midpoint", 3: "dpm-3s"}[order]}
    return Step(to=t, space=space, moment=SOLVER_TYPES.get(moment, moment), numbers=numbers, **method, **dict(words))  # pyright: ignore[reportArgumentType]


def _fast(times: Sequence[float], process: Process, eta: float = 0.0) -> list[Step]:
    count = len(times) - 1
    words = {"eta": eta, "noise": natural_noise(process)}
    return [_step(t, min(3, count - i), "eps", "midpoint", words) for i, t in enumerate(times[1:])]


def _fast_cost(steps: int, clean_end: bool) -> int:
    return 3 * steps - 3 if steps > 1 else 1


def _2s_ancestral(times: Sequence[float], process: Process, eta: float = 1.0) -> list[Step]:
    words = {"eta": eta, "noise": natural_noise(process)}
    return [_step(t, 2, "x0", "midpoint", words) for t in times[1:]]


def _sde(method: str) -> StepsOf:
    def steps(times: Sequence[float], process: Process, eta: float = 1.0, c2: float = 0.5) -> list[Step]:
        return [Step(to=t, method=method, moment="bh2", eta=eta, noise="sde", numbers={"c2": c2}) for t in times[1:]]

    return steps


_PAPER, _PLUS = "Lu et al. 2022 (DPM-Solver), algorithm", "Lu et al. 2022 (DPM-Solver++), algorithm 1"
_SDE = ANCESTRAL + SDE

FAMILY = Family(
    methods={
        "dpm-3s": Method(rows(three), {"c2": 1 / 3, "c3": 2 / 3}, _SDE),
        "midpoint-sigma-tree": Method(rows(two, sigma_tree), {"c2": 0.5}, SDE),
    },
    presets={
        "dpm-solver-2s": Preset(_2s("eps"), 2, 2, f"{_PAPER} 1; k-diffusion's dpm_2; options c2, moment", each(2)),
        "dpm-solver-3s": Preset(_3s("eps"), 3, 3, f"{_PAPER} 2; options c2, c3, moment", each(3)),
        "dpmpp-2s": Preset(_2s("x0"), 2, 2, f"{_PLUS}; options c2, moment", each(2)),
        "dpmpp-3s": Preset(_3s("x0"), 3, 3, f"{_PLUS}, third order; options c2, c3, moment", each(3)),
        "dpm-fast": Preset(_fast, 2, 2, f"{_PAPER} 2 and appendix D.3, DPM-Solver-fast; option eta", _fast_cost),
        "dpmpp-2s-ancestral": Preset(_2s_ancestral, 1, 1, "k-diffusion's sample_dpmpp_2s_ancestral; option eta", each(2), "injected"),
        "dpmpp-sde": Preset(
            _sde("midpoint"), 2, 2, "k-diffusion's sample_dpmpp_sde with Ito's noise; options eta, c2", each(2), "injected"
        ),
        "dpmpp-sde-compat": Preset(
            _sde("midpoint-sigma-tree"),
            1,
            1,
            "k-diffusion's sample_dpmpp_sde, noise from a tree over sigma; options eta, c2",
            each(2),
            "injected",
        ),
    },
)
