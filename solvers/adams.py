"""Presets of the multistep method: choices of space, domain, order, moment and corrector need no code of their own."""

from collections.abc import Sequence
from typing import Any

from . import multistep
from .family import Family, Method, Preset, StepsOf, one_of
from .process import Process, name_of
from .schedule import Step


def natural(process: Process) -> dict[str, Any]:
    """Space and domain in which the field writes Euler and Heun: the velocity in t on flow, eps in rho elsewhere."""
    return {"space": "flow", "domain": "t"} if name_of(process) == "flow" else {"space": "eps", "domain": "rho"}


def _ddim(times: Sequence[float], process: Process, eta: float = 0.0) -> list[Step]:
    return [Step(to=t, eta=eta) for t in times[1:]]


def _euler(times: Sequence[float], process: Process) -> list[Step]:
    return [Step(to=t, **natural(process)) for t in times[1:]]


def _dpmpp_2m(times: Sequence[float], process: Process, moment: str = "bh2") -> list[Step]:
    return [Step(to=t, order=min(2, i + 1), moment=moment) for i, t in enumerate(times[1:])]  # pyright: ignore[reportArgumentType]


def _unipc(order: int) -> StepsOf:
    def steps(times: Sequence[float], process: Process, moment: str = "bh2", tail: str = "lower") -> list[Step]:
        one_of("tail", tail, ("lower", "full"))
        count = len(times) - 1
        orders = [min(order, i + 1, *([count - i] if tail == "lower" else [])) for i in range(count)]
        return [
            Step(to=t, order=p, corrector=p if i + 1 < count else 0, moment=moment)  # pyright: ignore[reportArgumentType]
            for i, (t, p) in enumerate(zip(times[1:], orders, strict=True))
        ]

    return steps


def _ipndm(times: Sequence[float], process: Process, order: int = 4) -> list[Step]:
    return [Step(to=t, space="eps", domain="index", order=min(order, i + 1)) for i, t in enumerate(times[1:])]


def _deis_tab3(times: Sequence[float], process: Process) -> list[Step]:
    return [Step(to=t, space="eps", domain="t", order=min(4, i + 1)) for i, t in enumerate(times[1:])]


FAMILY = Family(
    methods={"multistep": Method(multistep.rows)},
    presets={
        "ddim": Preset(_ddim, 1, 1, "Song et al. 2021 (DDIM), eq. 12 and 16; option eta"),
        "euler": Preset(_euler, 1, 1, "Karras et al. 2022 (EDM); flow: Liu et al. 2022"),
        "dpmpp-2m": Preset(_dpmpp_2m, 2, 2, "Lu et al. 2022 (DPM-Solver++), algorithm 2; option moment"),
        "unipc-2": Preset(_unipc(2), 2, 2, "Zhao et al. 2023 (UniPC), order 2; options moment, tail"),
        "unipc-3": Preset(_unipc(3), 2, 2, "Zhao et al. 2023 (UniPC), order 3; options moment, tail"),
        "ipndm": Preset(_ipndm, 2, 1, "Zhang and Chen 2023 (DEIS), section 3.3; Liu et al. 2022 (PNDM); option order"),
        "deis-tab3": Preset(_deis_tab3, 4, 4, "Zhang and Chen 2023 (DEIS), eq. 15, cubic in t"),
    },
)
