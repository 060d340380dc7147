"""Warm start: schedules that another campaign found, of another NFE, guidance or model, as the first proposals of this one.

Noise levels are kept (search.moves). What a space does not have is replaced by what it has; how good that is, trials say.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from search.errors import CampaignError
from search.moves import transplanted
from search.records import WARM
from solvers import ScheduleError, ScheduleFile, SolverSchedule, load
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
        inside = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
        files = {p: load(p) for p in inside if not (path.is_dir() and p.resolve().is_relative_to(home.resolve()))}
        taken = [_taken(p, file, teacher) for p, file in files.items() if not (path.is_dir() and _obstacle(file))]
        if not taken:
            raise CampaignError(f"{path} holds no {SUFFIX} with steps to start from.")
        found |= {start.id: start for start in taken}
    return tuple(found.values())


def _obstacle(file: ScheduleFile) -> str:
    """Why it cannot be taken along; empty if it can."""
    if file.recipe is None:
        return "carries rows but no recipe; only steps can be taken to another campaign"
    others = sorted({step.method for step in file.recipe.steps} - {"multistep"})
    return f"has steps of method {', '.join(others)}; only multistep ones can be taken to another campaign" if others else ""


def _taken(path: Path, file: ScheduleFile, teacher: Teacher) -> Warm:
    if file.recipe is None or _obstacle(file):
        raise CampaignError(f"{path} {_obstacle(file)}.")
    return Warm(f"{WARM}{path.name.removesuffix(SUFFIX)}", file.id, between_ends(file.recipe, teacher, path))


def between_ends(recipe: SolverSchedule, teacher: Teacher, path: str | Path) -> SolverSchedule:
    """The steps of a file on the teacher's process and between its ends, at the noise levels they have. Raises CampaignError."""
    try:
        return transplanted(recipe, teacher.process, teacher.start, teacher.end)
    except ScheduleError as error:
        raise CampaignError(f"{path} cannot be taken to this model's process: {error}") from None
