"""Times alone (AYS, GITS, OSS, DMN), times with labels (LD3) and times with ratios (DC-Solver); the sampler is said beside them.

Zhao et al. 2024 (DC-Solver); Sabour et al. 2024 (AYS); Chen et al. 2024 (GITS); Pei et al. 2025 (OSS); Tong et al. 2025 (LD3).
"""

from typing import Any

import msgspec

from ..base_process import name_of
from ..compile import compile
from ..errors import ScheduleError
from ..grids import sigmas, times
from ..presets import preset
from ..schedule import SolverSchedule
from .document import Asked, shaped


def from_sigmas(document: Any, asked: Asked) -> SolverSchedule:
    """A list of N + 1 decreasing sigmas as users of the process count them; a last 0 is the clean end."""
    process = asked.need_process()
    found = shaped(document, list[float], "a list of sigmas")
    return preset(asked.solver, sigmas(found), process)


def from_timesteps(document: Any, asked: Asked) -> SolverSchedule:
    """A list of N training steps; the clean end is added, as diffusers does."""
    process = asked.need_process()
    scale = 1000.0 if name_of(process) == "flow" else 1.0
    found = [t / scale for t in shaped(document, list[float], "a list of timesteps")]
    return preset(asked.solver, times([*found, process.t_clean] if found[-1:] != [process.t_clean] else found), process)


class BestSteps(msgspec.Struct, frozen=True):
    """An LD3 result: N + 1 times, then N + 1 times told to the network."""

    best_t_steps: list[float]


def from_ld3(document: Any, asked: Asked) -> SolverSchedule:
    """LD3's `best_t_steps` (or the bare list): times and labels in the process's own t. The last label is of no evaluation."""
    process = asked.need_process()
    known = shaped({"best_t_steps": document} if isinstance(document, list) else document, BestSteps, "an LD3 result").best_t_steps
    half = len(known) // 2
    if len(known) != 2 * half or half < 2:
        raise ScheduleError(f"An LD3 result has as many labels as times; this list has {len(known)} numbers.")
    schedule = preset(asked.solver, times(known[:half]), process)
    if (len(schedule.steps), compile(schedule).nfe) != (half - 1, half - 1):
        raise ScheduleError(f"LD3 gives one label a step, and {asked.solver!r} does not make one evaluation a step.")
    told = [None if label == t else label for t, label in zip(known[: half - 1], known[half:-1], strict=True)]
    steps = tuple(msgspec.structs.replace(step, label=label) for step, label in zip(schedule.steps, told, strict=True))
    return SolverSchedule(process, schedule.start, steps)


class Ratios(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """N + 1 times, and the ratios of the last steps (or of all N); order: UniPC's."""

    times: list[float]
    dc_ratios: list[float]
    order: int = 3


def from_dc_solver(document: Any, asked: Asked) -> SolverSchedule:
    """DC-Solver: its list of ratios names no times, so they stand beside it. Steps without a ratio have 1, which changes nothing."""
    found, process = shaped(document, Ratios, "an object with times and dc_ratios"), asked.need_process()
    if not 1 <= found.order <= 3:
        raise ScheduleError(f"DC-Solver is written for UniPC of order 1 to 3, not {found.order}.")
    missing = len(found.times) - 1 - len(found.dc_ratios)
    if missing < 0:
        raise ScheduleError(f"There are {len(found.dc_ratios)} ratios for {len(found.times) - 1} steps.")
    return preset("dc-solver", times(found.times), process, ratios=[1.0] * missing + found.dc_ratios, order=found.order)
