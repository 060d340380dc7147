"""Fits on their way: run one after the other, written down after every iteration, described when they have ended."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from search.by_statistics import ByStatistics
from search.emulated import surrogate
from search.errors import CampaignError
from search.fit import Fit, Point
from search.learner import STATISTICS, Learner
from solvers import SolverSchedule
from solvers.atomic import write_atomically
from teacher.denoiser import Teacher
from teacher.trajectories import Targets

KEPT = 2  # fits that go on where an emulator has told which are best


def beside(path: Path, ending: str) -> Path:
    """What is kept beside a file: of its name, whose dots are its own, but for .json."""
    return path.with_name(path.name.removesuffix(".json") + ending)


def state_of(path: Path) -> Path:
    """Where fits stand, while they run."""
    return beside(path, ".learning.json")


def fits_from(
    teacher: Teacher,
    starts: Sequence[SolverSchedule],
    beside: Sequence[SolverSchedule],
    blocks: tuple[Targets, Targets],
    learner: Learner,
    progress: Progress,
    exact: Sequence[SolverSchedule] = (),
) -> list[Fit]:
    """A fit from each start, on blocks (fit, select). Their emulator, if they have one, begins with the answers to those beside, too.

    exact: starts from which a second fit, after all others, begins without the emulator, which leads some into a worse minimum.
    """
    if learner.level == STATISTICS:
        return [ByStatistics(teacher, schedule, *blocks, learner, progress) for schedule in starts]
    shared = surrogate(learner, teacher, blocks[0], [*starts, *beside], progress)
    found = list[Fit]()
    for schedule in starts:
        found.append(Fit(teacher, schedule, *blocks, learner, shared, found[0] if found else None))
    if shared and learner.stages(without="emulated"):
        found += [Fit(teacher, schedule, *blocks, learner, beside=found[0]) for schedule in exact]
    return found


def followed(fits: Sequence[Fit], path: Path, question: str, progress: Progress) -> list[Point]:
    """Where fits end, run one after the other with progress bars. Of those that begin on an emulator the best KEPT go on without it.

    After every iteration `state_of(path)` is written, from which fits that were killed go on to the same numbers, if the question
    and the machine are the same.
    """
    state, points = state_of(path), list[Point]()
    if state.exists():
        try:
            theirs, points = msgspec.json.decode(state.read_bytes(), type=tuple[str, list[Point]])
        except msgspec.MsgspecError:
            raise CampaignError(f"{state} is damaged; remove it to begin anew.") from None
        if theirs != question:
            raise CampaignError(f"{state} is where a fit of other settings stands; finish that, or remove the file.")

    def follow(k: int, first: int, last: int) -> None:
        """Fit k through its stages from `first` to before `last`."""
        work = fits[k]
        each = work.learner.iterations
        task = progress.add_task("learn", total=(last - first) * each)
        since = points[k] if k < len(points) else work.begin(points[0].delta if points else None)
        for point in work.run(since):
            points[k : k + 1] = [point]
            write_atomically(state, msgspec.json.encode((question, points)))
            start, now = point.curve[0], min(point.curve, key=lambda entry: entry.select)
            entry, share = point.curve[-1], now.select / start.select
            words = f"{work.stages[point.stage].level}: fit {entry.fit:.4f}, select {entry.select:.4f}, best {share:.2f} of the start"
            progress.update(task, completed=(point.stage - first) * each + point.iteration, description=words)
            if point.stage >= last:
                break
        progress.update(task, completed=(last - first) * each)

    for k, fit in enumerate(fits):
        follow(k, 0, fit.emulated or len(fit.stages))
    going = [k for k, fit in enumerate(fits) if 0 < fit.emulated < len(fit.stages)]
    for k in sorted(going, key=lambda k: points[k].best)[:KEPT]:
        follow(k, fits[k].emulated, len(fits[k].stages))
    return points


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads inside one operation of torch, for a while: the transforms that fits are made of do not run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def best_of(points: Sequence[Point]) -> int:
    """Which fit ended best on `select`."""
    return min(range(len(points)), key=lambda k: points[k].best)
