"""What train.py runs: learn from one start or several, choose on `select`, judge on seeds never seen, write a new file."""

import tempfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from search import page, starts
from search.campaign import callers, card_of, cores, directory_of, targets
from search.errors import CampaignError
from search.evaluate import Evaluator
from search.fit import Fit, Point
from search.follow import beside, best_of, fits_from, followed, state_of, threads
from search.learner import Learner, Positive
from search.losses import DIVERGED
from search.objective import root_mean, root_median, root_trimmed, share_of_worst
from search.page import Cell, interval_cell, number, percent, ratio_cell
from search.result import count_read
from search.settings import Budget, Count, Named, Seeds, Settings
from search.starts import Start
from search.statistics import interval, ratio
from search.storage import held
from solvers import FittedFor, Score, compile, save
from solvers.atomic import write_atomically
from teacher import cache, models
from teacher.denoiser import Teacher


class Lesson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One call of train.py.

    schedule   files to start from; none: the best known solvers at `nfe`, of which `known` are tuned in `directory`
    model      by default the one that the first file was fitted for
    nfe        by default that of the first file; a file of another number is interpolated
    tolerance, workers, device, chunk   as those of search.settings.Settings
    out        by default beside the first file, or in the directory; nothing that is there is written over
    insist     use files that were fitted for another model
    """

    schedule: str | tuple[str, ...] = ()
    model: Named = Named("")
    nfe: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    learner: Learner = Learner()
    seeds: Seeds = Seeds()
    known: Count = 400
    tolerance: Positive = 1e-3
    workers: Annotated[int, msgspec.Meta(ge=0)] = 0
    device: str = "cpu"
    chunk: Count = 64
    directory: str = ""
    out: str = ""
    insist: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """The files to start from."""
        return (self.schedule,) if isinstance(self.schedule, str) else self.schedule

    @property
    def stem(self) -> str:
        """The name of what it starts from."""
        return Path(self.files[0]).name.removesuffix(".schedule.json") if self.files else Path(self.tuning.directory).name

    @property
    def path(self) -> Path:
        """Where the file is written."""
        home = Path(self.files[0]).parent if self.files else Path(self.tuning.directory)
        budget = f"-nfe{self.nfe}" if self.files and self.nfe else ""
        return Path(self.out or home / f"{self.stem}-{self.learner.level.replace('+', '-')}{budget}.schedule.json")

    @property
    def tuning(self) -> Settings:
        """The campaign that tunes known solvers."""
        if not self.model.name or self.nfe is None:
            raise CampaignError(
                "Say what to start from: schedule=FILE or schedule=FILE,FILE, or a model=... and nfe=... to tune known solvers."
            )
        budget = Budget(trials=min(Budget().trials, self.known), known=self.known)  # never fewer known solvers than trials
        own = Settings(self.model, (self.nfe,), seeds=self.seeds, budget=budget, perceptual=(), tolerance=self.tolerance)
        own = msgspec.structs.replace(own, workers=self.workers, device=self.device, chunk=self.chunk)
        return msgspec.structs.replace(own, directory=self.directory or f"{directory_of(own)}-known")


def lesson(values: dict[str, Any]) -> Lesson:
    """The settings in a plain dictionary. Raises CampaignError naming what does not fit."""
    try:
        return msgspec.convert(values, Lesson)
    except msgspec.ValidationError as error:
        raise CampaignError(f"The settings do not fit: {error}.") from None


def learn(asked: Lesson, progress: Progress) -> tuple[Table, Path]:
    """Fit from every start, choose on `select`, score on `test` against the best start, write the file. Returns a table and the path.

    After every iteration OUT.learning.json is written, with which a run that was killed goes on to the same numbers.
    """
    path = asked.path
    model = asked.model if asked.model.name or not asked.files else starts.fitted_for(asked.files, asked.model.options)
    torch.set_num_threads(1)  # batches run side by side instead, but for the fits, which follow one another
    calls = callers(asked.workers, asked.device)
    teacher = models.ready(model.name, model.options, asked.device, asked.chunk)
    asked.learner.require(teacher, asked.seeds.fit)
    check_free(path)
    with held(path.with_name(f".fewstep-{path.name}.lock"), f"Another process learns {path}; wait for it, or choose another out=...."):
        return learned(asked, teacher, calls, path, progress), path


def learned(asked: Lesson, teacher: Teacher, calls: int, path: Path, progress: Progress) -> Table:
    """That, where it can be written and by nobody else. Returns the table."""
    found, others = beginnings(asked, teacher, progress)
    fit_on, select_on, test_on = (
        targets(teacher, block, asked.seeds, asked.tolerance, progress, calls) for block in ("fit", "select", "test")
    )
    schedules, known = ([start.schedule for start in some] for some in (found, others))
    question = {
        "from": schedules,
        "beside": known,
        "model": teacher.facts(fit_on.seeds + select_on.seeds),
        "learner": asked.learner,
        "seeds": asked.seeds,
        "tolerance": asked.tolerance,
    }
    with threads(asked.workers or cores()):
        exact = schedules[:1] if len(schedules) > 1 else []  # a single one is fitted as the learner says
        fits = fits_from(teacher, schedules, known, (fit_on, select_on), asked.learner, progress, exact)
        points = followed(fits, path, cache.key_of(msgspec.to_builtins(question)), progress)
    tables = [table for fit, point in zip(fits, points, strict=True) for table in (compile(fit.schedule), fit.table(point))]
    reads = count_read(path.parent)
    errors = Evaluator(teacher, test_on, asked.chunk, calls).errors(tables).nan_to_num(DIVERGED, DIVERGED)  # which can be written down
    ends = Ends([starts.start_of(fit, found) for fit in fits], fits, points, errors)
    check_free(path)  # another machine may have been quicker
    write(ends, card_of(teacher, test_on), path, reads)
    state_of(path).unlink(missing_ok=True)
    return ends.shown(f"{asked.stem}: learner {asked.learner.level}")


def beginnings(asked: Lesson, teacher: Teacher, progress: Progress) -> tuple[list[Start], list[Start]]:
    """What is learned from; the known solvers beside, whose answers an emulator begins with."""
    if asked.files:
        return starts.of_files(asked.files, teacher, asked.nfe, asked.insist, asked.learner), []
    known = starts.of_known(*starts.tuned(asked.tuning, progress), asked.learner)
    if not known:
        raise CampaignError(f"No known solver of {asked.nfe} evaluations can be learned at level {asked.learner.level!r}.")
    return known[: starts.COUNT], known[starts.COUNT :]


def check_free(path: Path) -> None:
    """Raise CampaignError unless a file can be written there that takes nothing's place."""
    if path.suffix == ".png":
        raise CampaignError(f"{path} would be taken by the learning curve; choose another out=....")
    try:
        ours = () if state_of(path).exists() else (beside(path, ".png"),)  # one that was killed may have left its picture
        for file in (path, *ours):
            if file.exists():
                raise CampaignError(f"{file} is there already; choose another out=..., or remove it to learn anew.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CampaignError(f"{path} cannot be written: {error.strerror}.") from None


class Ends(NamedTuple):
    """Fits, from where, where they ended, and squared test errors [2 fits, seeds]: of each start, and of what was learned from it."""

    starts: list[Start]
    fits: list[Fit]
    points: list[Point]
    errors: Tensor

    @property
    def best(self) -> int:
        """Which ended best on `select`."""
        return best_of(self.points)

    @property
    def first(self) -> int:
        """Which began best there: what ratios are to."""
        return min(range(len(self.points)), key=lambda k: self.points[k].curve[0].select)

    def shown(self, title: str) -> Table:
        """Every start, and what was learned from it below."""
        rows: list[list[Cell]] = []
        for k, (start, point) in enumerate(zip(self.starts, self.points, strict=True)):
            best = min(point.curve, key=lambda entry: entry.select)
            learned = "  learned" if self.fits[k].emulated == self.fits[0].emulated else "  learned without the emulator"
            for row, label, entry in ((2 * k, start.name, point.curve[0]), (2 * k + 1, learned, best)):
                mine = self.errors[row]
                gain = Cell("1") if row == 2 * self.first else ratio_cell(ratio(mine, self.errors[2 * self.first], root_mean))
                scores = Cell(number(entry.fit), number(entry.select)), interval_cell(interval(mine, root_mean))
                robust = Cell(number(float(root_median(mine))), number(float(root_trimmed(mine))))
                rows.append([Cell(label), gain, *scores, robust, Cell(percent(float(share_of_worst(mine))))])
        header = ["start", "ratio", "fit\nselect", "test RMSE", "median\ntrimmed", "worst 3 %"]
        return page.terminal(header, rows, title, "", 2 * self.best + 1)


def write(ends: Ends, card: FittedFor, path: Path, reads: int) -> None:
    """The best table as a file at `path`, and its learning curve beside it. reads: of the test seeds, so far."""
    from search import charts, style  # here, because a mistake should not wait for matplotlib to be told

    start, fit, point = ends.starts[ends.best], ends.fits[ends.best], ends.points[ends.best]
    write_atomically(beside(path, ".png"), style.png(charts.learning(point.curve, fit.stages, fit.learner.objective)))
    before, after = ends.errors[2 * ends.first], ends.errors[2 * ends.best + 1]
    value, gain = interval(after, root_mean), ratio(after, before, root_mean)
    relative = (f"start: {ends.starts[ends.first].name}", float(root_mean(before)), gain.value, gain.low, gain.high)
    note = fit.told(point, start.origin) + (f"; the best of {len(ends.fits)} fits" if len(ends.fits) > 1 else "")
    save(
        fit.table(point),
        path,
        recipe=fit.recipe(point),
        process=start.schedule.process,
        fitted_for=card,
        scores=[Score("rmse", len(after), value.value, value.low, value.high, *relative)],
        provenance=msgspec.structs.replace(start.provenance, note=note, trial=None, test_reads=reads),
    )
