"""The multistep method, and its presets of first order: choices of space, domain, order and moment need no code of their own."""

from collections.abc import Sequence
from typing import Any

from . import multistep
from .base_process import name_of
from .conventions import closing, steps_of
from .diffusion import ANCESTRAL, SDE
from .family import Family, Method, Preset
from .process import Process
from .schedule import Step


def natural(process: Process) -> dict[str, Any]:
    """Space and domain in which the field writes Euler and Heun: the velocity in t on flow, eps in rho elsewhere."""
    return {"space": "flow", "domain": "t"} if name_of(process) == "flow" else {"space": "eps", "domain": "rho"}


def _ddim(times: Sequence[float], process: Process, eta: float = 0.0) -> list[Step]:
    return steps_of(times, 1, eta=eta)


def _euler(times: Sequence[float], process: Process) -> list[Step]:
    return steps_of(times, 1, **natural(process))


def _gradient_estimation(times: Sequence[float], process: Process, gamma: float = 2.0) -> list[Step]:
    # d_s + (gamma - 1) (d_s - d_before): Adams-Bashforth's 3/2, -1/2 with the difference relaxed to gamma - 1
    return steps_of(times, 2, closing(times, process), space=natural(process)["space"], domain="index", relax=2 * (gamma - 1))


_DDIM = Preset(_ddim, 1, 1, "Song et al. 2021 (DDIM), eq. 12 and 16; first order in every space and domain; option eta")

FAMILY = Family(
    methods={"multistep": Method(multistep.rows, noises=ANCESTRAL + SDE)},
    presets={
        "ddim": _DDIM,
        "dpm-solver-1": _DDIM,
        "deis-tab0": _DDIM,
        "unip-1": _DDIM,
        "euler": Preset(_euler, 1, 1, "Karras et al. 2022 (EDM); flow: Liu et al. 2022"),
        "gradient-estimation": Preset(
            _gradient_estimation, 1, 1, "Permenter and Yuan 2024 (gradient estimation), as in ComfyUI; option gamma"
        ),
    },
)
