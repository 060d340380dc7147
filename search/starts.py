"""Where learning starts from: files that were named, or else the best known solvers, tuned for the model and the budget."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress

from search import baselines, storage
from search.board import Board
from search.campaign import Campaign, campaign, claim
from search.errors import CampaignError
from search.fit import Fit
from search.learner import STATISTICS, Learner
from search.parametrise import Parametrisation
from search.records import Known
from search.settings import Named, Settings
from search.space import table_distance
from search.tune import tune_known
from search.warm import between_ends
from solvers import FittedFor, Provenance, ScheduleError, ScheduleFile, SolverSchedule, Tableau, compile, load
from solvers.commands.interpolate import for_nfe
from solvers.weighted import weighted
from teacher import models
from teacher.denoiser import Teacher

COUNT = 3  # starts, where known solvers are tuned
BESIDE = 8  # known solvers, those among them, whose answers an emulator begins with


class Start(NamedTuple):
    """A schedule, what a table calls it, and what a file says that it came from."""

    schedule: SolverSchedule
    name: str
    origin: str
    provenance: Provenance = Provenance()


def fitted_for(paths: Sequence[str], options: Mapping[str, Any]) -> Named:
    """The model that the first file was fitted for, with these options. Raises CampaignError if it is not ours: files may name no code."""
    fitted = load(paths[0]).fitted_for or FittedFor()
    if fitted.model not in models.LOADERS and not fitted.model.startswith("diffusers:"):
        name = repr(fitted.model) if fitted.model else "no model"
        raise CampaignError(f"{paths[0]} was fitted for {name}, which is not among those here: say model=MODULE:FUNCTION.")
    return Named(fitted.model, ({} if fitted.guidance is None else {"guidance": fitted.guidance}) | dict(options))


def of_files(paths: Sequence[str], teacher: Teacher, nfe: int | None, insist: bool, learner: Learner) -> list[Start]:
    """The schedules of the files, at `nfe` evaluations or the first file's. Raises ScheduleError or CampaignError in a sentence."""
    files = [load(path) for path in paths]
    for file in files:
        file.require(teacher.card, insist=insist)
    found = [_of_file(file, path, teacher, nfe or files[0].executable.nfe) for file, path in zip(files, paths, strict=True)]
    for start in found:
        level = "times" if learner.level == STATISTICS else learner.level  # which proves that there is no noise
        if not Parametrisation(start.schedule, level, learner.consistency).count and level == learner.level:
            raise CampaignError(f"{start.name} has nothing that level {learner.level!r} moves.")
    return found


def _of_file(file: ScheduleFile, path: str, teacher: Teacher, nfe: int) -> Start:
    try:
        theirs = file.recipe or weighted(file.tableau, file.process)
    except ScheduleError as error:
        raise CampaignError(f"{path} carries rows but no steps to learn from, and none can be made of them. {error}") from None
    recipe = between_ends(theirs, teacher, path)
    name, own, moved = Path(path).name.removesuffix(".schedule.json"), compile(recipe).nfe, recipe != theirs
    origin = file.id + " moved to the model's ends" * moved
    if own == nfe:
        return Start(recipe, name, origin, file.provenance)
    return Start(for_nfe(recipe, nfe), f"{name} from NFE {own}", f"{origin} interpolated from NFE {own}", file.provenance)


def tuned(settings: Settings, progress: Progress) -> tuple[Campaign, list[Known]]:
    """The known solvers, best on `select` first; their scores are kept in the directory of the settings."""
    ours = campaign(settings, progress)
    claim(ours)
    with (
        storage.opened(f"sqlite:///{ours.directory / 'study.sqlite'}") as base,
        Board(base.engine, ours.key, settings.grace).at_work() as board,
    ):
        return ours, tune_known(ours, board)[0]


def of_known(ours: Campaign, known: Sequence[Known], learner: Learner) -> list[Start]:
    """The best known solvers of each kind that the learner can move, best on `select` first."""
    provenance = Provenance(licence=ours.teacher.licence, calls_per_evaluation=ours.teacher.calls)
    schedules = ((baselines.schedule(item, ours.teacher), item.name) for item in baselines.best_per_kind(known))
    found = distinct(Start(schedule, name, name, provenance) for schedule, name in schedules if learner.suits(schedule))
    return list(itertools.islice(found, BESIDE))


def start_of(fit: Fit, starts: Sequence[Start]) -> Start:
    """That of a fit from one of these."""
    return next(start for start in starts if start.schedule is fit.schedule)


def distinct(starts: Iterable[Start]) -> Iterator[Start]:
    """Without those that sample like one before: some solvers are others until their numbers are learned."""
    before: list[Tableau] = []
    for start in starts:
        table = compile(start.schedule)
        if all(table_distance(table, other) > 1e-9 for other in before):
            before.append(table)
            yield start
