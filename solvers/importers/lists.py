"""Times alone (AYS, GITS, OSS, DMN) and times with labels (LD3): the sampler is said beside them.

Sabour et al. 2024 (AYS); Chen et al. 2024 (GITS); Pei et al. 2025 (OSS); Tong et al. 2025 (LD3).
"""

from typing import Any

import msgspec

from ..errors import ScheduleError
from ..grids import sigmas, times
from ..presets import preset
from ..process import name_of
from ..schedule import SolverSchedule
from .document import Asked, shaped


def from_sigmas(document: Any, asked: Asked) -> SolverSchedule:
    """A list of N + 1 decreasing sigmas as users of the process count them; a last 0 is the clean end."""
    process = asked.need_process()
    found = shaped(document, list[float], "a list of sigmas")
    return preset(asked.sampler, sigmas(found), process)


def from_timesteps(document: Any, asked: Asked) -> SolverSchedule:
    """A list of N training steps; the clean end is added, as diffusers does."""
    process = asked.need_process()
    scale = 1000.0 if name_of(process) == "flow" else 1.0
    found = [t / scale for t in shaped(document, list[float], "a list of timesteps")]
    return preset(asked.sampler, times([*found, process.t_clean] if found[-1:] != [process.t_clean] else found), process)


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
    schedule = preset(asked.sampler, times(known[:half]), process)
    if len(schedule.steps) != half - 1:
        raise ScheduleError(f"LD3 gives one label a step, and {asked.sampler!r} does not make one evaluation a step.")
    told = [None if label == t else label for t, label in zip(known[: half - 1], known[half:-1], strict=True)]
    steps = tuple(msgspec.structs.replace(step, label=label) for step, label in zip(schedule.steps, told, strict=True))
    return SolverSchedule(process, schedule.start, steps)
