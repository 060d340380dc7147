"""SEEDS: exponential Runge-Kutta for the reverse-time SDE, with the noise that Ito asks for (Gonzalez et al. 2023).

The tableaus are those of single-step DPM-Solver with z = -(1 + eta) h in data form (x0) and drift (1 + eta) in noise form (eps); a stage
that has seen part of the step's noise shares it with the step (`single_step.ito`). Variants "a" weigh by phi_1 / (2 c_2) and
phi_2 / c_3, variants "b" by all the phi functions. seeds-2 with eta = 1 is DPM++ SDE.
In the noise form a point mass keeps its variance in the limit of small steps only.

The presets named compat are the authors' code. It pairs noises backwards (`single_step.backwards`): of order 1 unless c_2 and c_3 cut the
step evenly. In the noise form of SEEDS-3 it also swaps two of them, and scales the third stage's by the step's sigma; in the data form the
phi_2 of the third stage is mistyped: order 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .diffusion import SDE
from .dpm_solver_single import three, two
from .family import Family, Method, Preset, StepsOf, each, one_of
from .process import Process
from .quadrature import Node
from .schedule import Step
from .single_step import UNIT, Place, Stage, Term, backwards, rows

_METHODS = {1: "multistep", 2: "midpoint", 3: "dpm-3s"}


def _mistyped(step: Step) -> Sequence[Stage]:
    """`three`, but 1 + expm1(-2 c_2 h) / (c_2 h) stands for 1 + expm1(-2 c_3 h) / (2 c_3 h): twice phi_2 of stage two, less 1 / h."""
    second, third, last = three(step)
    c = third.c / second.c
    return second, Stage(third.c, [Term(2 * c, 2, of=1, until=1), Term(-c, UNIT, of=1)]), last


def _swapped(place: Place, nodes: Sequence[Node]) -> list[list[Tensor]]:
    """`backwards`, but the third stage's noise is scaled by sigma_t, and the first two noises of the step are swapped."""
    found = backwards(place, nodes)
    if len(nodes) < 3 or place.s.pure:
        return found
    first, second, (a, b, c) = found
    return [first, [share * nodes[2].sigma / nodes[1].sigma for share in second], [b, a, c]]


def _seeds(order: int, space: str, places: Mapping[str, float], method: str = "") -> StepsOf:
    def steps(times: Sequence[float], process: Process, eta: float = 1.0, variant: str = "a", **numbers: float) -> list[Step]:
        one_of("variant of SEEDS", variant, ("a", "b"))
        if set(numbers) - set(places):
            raise TypeError(f"unexpected {', '.join(numbers)}")
        words: dict[str, Any] = {"method": method or _METHODS[order], "space": space, "moment": "bh2" if variant == "a" else "exact"}
        return [Step(to=t, eta=eta, noise="sde", numbers={**places, **numbers}, **words) for t in times[1:]]

    return steps


_SOURCE = "Gonzalez et al. 2023 (SEEDS)"
_TWO, _THREE = {"c2": 0.5}, {"c2": 1 / 3, "c3": 2 / 3}

FAMILY = Family(
    methods={
        "midpoint-backwards": Method(rows(two, backwards), _TWO, SDE),
        "dpm-3s-mistyped": Method(rows(_mistyped, backwards), _THREE, SDE),
        "dpm-3s-swapped": Method(rows(three, _swapped), _THREE, SDE),
    },
    presets={
        "seeds-1": Preset(_seeds(1, "x0", {}), 1, 1, f"{_SOURCE}, data form; option eta", noise="injected"),
        "seeds-2": Preset(_seeds(2, "x0", _TWO), 2, 2, f"{_SOURCE}, data form; options eta, variant, c2", each(2), "injected"),
        "seeds-3": Preset(_seeds(3, "x0", _THREE), 2, 2, f"{_SOURCE}, data form; options eta, variant, c2, c3", each(3), "injected"),
        "seeds-2-compat": Preset(
            _seeds(2, "x0", _TWO, "midpoint-backwards"),
            2,
            2,
            f"{_SOURCE}, as its code pairs noises; options eta, c2",
            each(2),
            "injected",
        ),
        "seeds-3-compat": Preset(
            _seeds(3, "x0", _THREE, "dpm-3s-mistyped"), 1, 1, f"{_SOURCE}, as its code; options eta, c2, c3", each(3), "injected"
        ),
        "seeds-1-noise": Preset(_seeds(1, "eps", {}), 1, 1, f"{_SOURCE}, noise form; option eta", noise="injected", point_mass=False),
        "seeds-2-noise": Preset(
            _seeds(2, "eps", _TWO), 2, 2, f"{_SOURCE}, noise form; options eta, variant, c2", each(2), "injected", False
        ),
        "seeds-3-noise": Preset(
            _seeds(3, "eps", _THREE), 2, 2, f"{_SOURCE}, noise form; options eta, variant, c2, c3", each(3), "injected", False
        ),
        "seeds-3-noise-compat": Preset(
            _seeds(3, "eps", _THREE, "dpm-3s-swapped"),
            2,
            2,
            f"{_SOURCE}, noise form as its code; options eta, variant, c2, c3",
            each(3),
            "injected",
            False,
        ),
    },
)
