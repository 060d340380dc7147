"""SA-Solver: stochastic exponential Adams predictor and corrector in lambda, noise rate tau^2 inside a window (Xue et al. 2023).

    window   middle   t in [0.2, 0.8] of the range; on ve sigma in [0.05, 1]
             whole    everywhere
    tau_at   end      tau at the end of a step, and none in the last one (the authors' code, few_steps)
             start    tau at its start, also in the last step (diffusers)
    mode     pec asks the network once a step, pece twice (once in the last)
Orders are the paper's: `predictor` points, and `corrector` points with the new one (0: no corrector). Formulas of two points
replace the first moment by 1/2 (moment bh1, appendix D); moment="exact" does not.
"""

from collections.abc import Sequence
from typing import Any

from .base_process import name_of
from .conventions import orders
from .family import Family, Preset, StepsOf, one_of
from .process import Process
from .schedule import Step


def _inside(t: float, process: Process, window: str) -> bool:
    low, high = (0.05, 1.0) if name_of(process) == "ve" else (0.2 * process.t_max, 0.8 * process.t_max)
    return window == "whole" or low <= t <= high


def _sa_solver(mode: str) -> StepsOf:
    def steps(
        times: Sequence[float],
        process: Process,
        predictor: int = 3,
        corrector: int = 4,
        tau: float = 1.0,
        window: str = "middle",
        tau_at: str = "end",
        moment: str = "bh1",
        space: str = "x0",
        tail: str = "lower",
    ) -> list[Step]:
        one_of("window", window, ("middle", "whole"))
        one_of("tau_at", tau_at, ("end", "start"))
        one_of("corrector order", corrector, (0, 2, 3, 4))
        count, words = len(times) - 1, dict[str, Any](space=space, noise="sde", moment=moment, mode=mode)
        history = orders(corrector - 1, count, tail) if corrector else [0] * count
        found: list[Step] = []
        for i, (p, c) in enumerate(zip(orders(predictor, count, tail), history, strict=True)):
            last, seen = i + 1 == count, times[i + 1] if tau_at == "end" else times[i]
            silent = not _inside(seen, process, window) or (last and tau_at == "end")
            found.append(Step(to=times[i + 1], order=p, corrector=0 if last else c, eta=0.0 if silent else tau**2, **words))
        return found

    return steps


_SOURCE = "Xue et al. 2023 (SA-Solver); options predictor, corrector, tau, window, tau_at, moment, space, tail"

FAMILY = Family(
    presets={
        "sa-solver": Preset(_sa_solver("pec"), 2, 2, _SOURCE, noise="injected"),
        "sa-solver-pece": Preset(
            _sa_solver("pece"), 2, 2, f"{_SOURCE}; PECE", noise="injected", nfe=lambda steps, clean_end: 2 * steps - 1
        ),
    },
)
