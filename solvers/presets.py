"""The field's samplers by name: each is a function from a grid to steps, and a line of declared facts that the tests hold it to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ScheduleError
from .grids import Grid, as_times, named_grid
from .process import Process, name_of
from .schedule import SolverSchedule, Step

StepsOf = Callable[..., list[Step]]


@dataclass(frozen=True)
class Preset:
    """A named sampler.

    order        slope of the error on smooth grids whose first steps are graded (a first-order start caps any method at 2;
                 so does UniPC's lower-order tail, its default: with tail="full" it has order 3 and 4)
    rough_order  the same on a grid whose steps alternate 1:3
    per_step     evaluations per step; a method with two saves one where the grid ends at sigma = 0
    point_mass   whether every row maps the data alpha x0 + sigma z of a point mass to itself
    """

    steps: StepsOf
    order: float
    rough_order: float
    source: str
    per_step: int = 1
    point_mass: bool = True

    def nfe(self, steps: int, clean_end: bool) -> int:
        """Evaluations that `steps` steps cost."""
        return self.per_step * steps - (1 if self.per_step > 1 and clean_end else 0)


def _ddim(times: Sequence[float], process: Process, eta: float = 0.0) -> list[Step]:
    return [Step(to=t, eta=eta) for t in times[1:]]


def _euler(times: Sequence[float], process: Process) -> list[Step]:
    return [Step(to=t, space=_natural(process), domain="t" if name_of(process) == "flow" else "rho") for t in times[1:]]


def _heun(times: Sequence[float], process: Process) -> list[Step]:
    domain = "t" if name_of(process) == "flow" else "rho"
    return [Step(to=t, method="heun", space=_natural(process), domain=domain) for t in times[1:]]


def _dpmpp_2s(times: Sequence[float], process: Process) -> list[Step]:
    steps = [Step(to=t, method="midpoint", moment="bh2") for t in times[1:]]
    return [*steps[:-1], Step(to=times[-1])] if times[-1] == process.t_clean else steps


def _dpmpp_2m(times: Sequence[float], process: Process, moment: str = "bh2") -> list[Step]:
    return [Step(to=t, order=min(2, i + 1), moment=moment) for i, t in enumerate(times[1:])]  # pyright: ignore[reportArgumentType]


def _unipc(order: int) -> StepsOf:
    def steps(times: Sequence[float], process: Process, moment: str = "bh2", tail: str = "lower") -> list[Step]:
        _one_of("tail", tail, ("lower", "full"))
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


def _natural(process: Process) -> Any:
    return "flow" if name_of(process) == "flow" else "eps"


def _one_of(what: str, word: str, words: Sequence[str]) -> None:
    if word not in words:
        raise ScheduleError(f"There is no {what} {word!r}; there are {', '.join(words)}.")


PRESETS: dict[str, Preset] = {
    "ddim": Preset(_ddim, 1, 1, "Song et al. 2021 (DDIM), eq. 12 and 16; option eta"),
    "euler": Preset(_euler, 1, 1, "Karras et al. 2022 (EDM); flow: Liu et al. 2022"),
    "heun": Preset(_heun, 2, 2, "Karras et al. 2022 (EDM), algorithm 1, without churn", per_step=2),
    "dpmpp-2s": Preset(_dpmpp_2s, 2, 2, "Lu et al. 2022 (DPM-Solver++), algorithm 1", per_step=2),
    "dpmpp-2m": Preset(_dpmpp_2m, 2, 2, "Lu et al. 2022 (DPM-Solver++), algorithm 2; option moment"),
    "unipc-2": Preset(_unipc(2), 2, 2, "Zhao et al. 2023 (UniPC), order 2; options moment, tail"),
    "unipc-3": Preset(_unipc(3), 2, 2, "Zhao et al. 2023 (UniPC), order 3; options moment, tail"),
    "ipndm": Preset(_ipndm, 2, 1, "Zhang and Chen 2023 (DEIS), section 3.3; Liu et al. 2022 (PNDM); option order"),
    "deis-tab3": Preset(_deis_tab3, 4, 4, "Zhang and Chen 2023 (DEIS), eq. 15, cubic in t"),
}


def preset(name: str, grid: Grid | Sequence[float], process: Process, **options: Any) -> SolverSchedule:
    """The schedule of a named sampler on a grid of N + 1 decreasing points (`times`, `sigmas`, `lambdas`, or plain times).

    Raises ScheduleError for an unknown name, a bad grid, an unknown option, or a start with alpha = 0 on a process that
    cannot leave it.
    """
    if name not in PRESETS:
        raise ScheduleError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    found = as_times(grid, process)
    try:
        steps = PRESETS[name].steps(found, process, **options)
    except TypeError:
        raise ScheduleError(f"Preset {name!r} does not take the options {', '.join(options)}: {PRESETS[name].source}.") from None
    return SolverSchedule(process, found[0], tuple(steps))


def steps_for_nfe(name: str, nfe: int, clean_end: bool) -> int | None:
    """How many steps of a preset cost exactly `nfe` evaluations; None if no number does."""
    found = (n for n in range(1, nfe + 1) if PRESETS[name].nfe(n, clean_end) == nfe)
    return next(found, None)


def preset_for_nfe(name: str, nfe: int, family: str, process: Process, start: float, end: float, **grid_options: float) -> SolverSchedule:
    """A preset on a named grid (`grids.GRIDS`) with as many steps as `nfe` evaluations pay for. Raises ScheduleError if none do."""
    if name not in PRESETS:
        raise ScheduleError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    if nfe < 1 or nfe != int(nfe):
        raise ScheduleError(f"nfe must be a whole number of at least 1, not {nfe}.")
    steps = steps_for_nfe(name, nfe, end == process.t_clean)
    if steps is None:
        raise ScheduleError(f"Preset {name!r} cannot spend exactly {nfe} evaluations; try {nfe - 1} or {nfe + 1}.")
    return preset(name, named_grid(family, process, steps, start, end, **grid_options), process)
