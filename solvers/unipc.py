"""UniP and UniPC: exponential Adams predictor and corrector in lambda, the network asked once a step (Zhao et al. 2023).

moment "bh1" and "bh2" differ in the predictor of two points and the corrector of one; "exact" is the variant of varying
coefficients with its integrals right, "vary" that variant as uni_pc.py has it. tail="lower" is the paper's; without it (full)
the corrector shows its order in full.
"""

from collections.abc import Sequence
from typing import Any

from .conventions import orders, steps_of
from .family import Family, Preset, StepsOf
from .process import Process
from .schedule import Step


def _unip(order: int) -> StepsOf:
    def steps(times: Sequence[float], process: Process, moment: str = "bh2", space: str = "x0", tail: str = "lower") -> list[Step]:
        return steps_of(times, order, tail, moment=moment, space=space)

    return steps


def unipc(order: int, weights: str = "bh2") -> StepsOf:
    """The function from times to the steps of UniPC of that order; `weights` is its default moment."""

    def steps(times: Sequence[float], process: Process, moment: str = weights, space: str = "x0", tail: str = "lower") -> list[Step]:
        count, words = len(times) - 1, dict[str, Any](moment=moment, space=space)
        found = enumerate(zip(times[1:], orders(order, count, tail), strict=True))
        return [Step(to=t, order=p, corrector=p if i + 1 < count else 0, **words) for i, (t, p) in found]

    return steps


def _preset(steps: StepsOf, order: float, what: str) -> Preset:
    return Preset(steps, order, order, f"Zhao et al. 2023 (UniPC), {what}; options moment, space, tail")


FAMILY = Family(
    presets={
        "unip-2": _preset(_unip(2), 2, "UniP-2"),
        "unip-3": _preset(_unip(3), 2, "UniP-3"),
        "unipc-1": _preset(unipc(1), 2, "order 1"),
        "unipc-2": _preset(unipc(2), 2, "order 2"),
        "unipc-3": _preset(unipc(3), 2, "order 3"),
        "unipc-3-vary-compat": _preset(unipc(3, "vary"), 1, "order 3, the vary_coeff of uni_pc.py"),
    },
)
