"""Warm start: schedules that another campaign found, of another NFE, guidance or model, as the first proposals of this one.

Noise levels are kept (search.moves). What a space does not have is replaced by what it has; how good that is, trials say.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from search.errors import CampaignError
from search.moves import transplanted
from search.result import WARM
from solvers import ScheduleError, SolverSchedule, load
from teacher.denoiser import Teacher

SUFFIX = ".schedule.json"


class Warm(NamedTuple):
    """A schedule between our teacher's ends, and the file that it comes from."""

    origin: str
    id: str
    schedule: SolverSchedule


def starts(paths: Iterable[str], teacher: Teacher, home: Path) -> tuple[Warm, ...]:
    """What files say, and those in directories that have multistep steps, but for what this campaign itself writes, in `home`.

    Raises CampaignError or ScheduleError where nothing can be started from.
    """
    found: dict[str, Warm] = {}
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = [file for file in sorted(path.rglob(f"*{SUFFIX}")) if not file.resolve().is_relative_to(home.resolve()) and _fits(file)]
        taken = [_start(file, teacher) for file in files]
        if not taken:
            raise CampaignError(f"{path} holds no {SUFFIX} with steps to start from.")
        found |= {start.id: start for start in taken}
    return tuple(found.values())


def _fits(path: Path) -> bool:
    recipe = load(path).recipe
    return recipe is not None and all(step.method == "multistep" for step in recipe.steps)


def _start(path: Path, teacher: Teacher) -> Warm:
    file = load(path)
    if file.recipe is None:
        raise CampaignError(f"{path} carries rows but no recipe; only steps can be taken to another campaign.")
    others = sorted({step.method for step in file.recipe.steps} - {"multistep"})
    if others:
        raise CampaignError(f"{path} has steps of method {', '.join(others)}; only multistep ones can be taken to another campaign.")
    try:
        schedule = transplanted(file.recipe, teacher.process, teacher.start, teacher.end)
    except ScheduleError as error:
        raise CampaignError(f"{path} cannot be taken to this model's process: {error}") from None
    return Warm(f"{WARM}{path.name.removesuffix(SUFFIX)}", file.id, schedule)
