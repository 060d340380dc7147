"""Fits on their way: run one after the other, written down after every iteration, described when they have ended."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from rich.progress import Progress

from search.errors import CampaignError
from search.fit import Fit, Point
from solvers.atomic import write_atomically


def state_of(path: Path) -> Path:
    """Where fits stand, while they run."""
    return path.with_suffix(".learning.json")


def followed(fits: Sequence[Fit], path: Path, question: str, progress: Progress) -> list[Point]:
    """Where fits end, run one after the other with progress bars.

    After every iteration `state_of(path)` is written, from which fits that were killed go on to the same numbers, if the question
    is the same.
    """
    state, points = state_of(path), list[Point]()
    if state.exists():
        try:
            theirs, points = msgspec.json.decode(state.read_bytes(), type=tuple[str, list[Point]])
        except msgspec.MsgspecError:
            raise CampaignError(f"{state} is damaged; remove it to begin anew.") from None
        points = points if theirs == question else []
    for k, work in enumerate(fits):
        each = work.learner.iterations
        task = progress.add_task("learn", total=len(work.stages) * each)
        since = points[k] if k < len(points) else work.begin(points[0].delta if points else None)
        for point in work.run(since):
            points[k : k + 1] = [point]
            write_atomically(state, msgspec.json.encode((question, points)))
            start, now = point.curve[0], min(point.curve, key=lambda entry: entry.select)
            entry, share = point.curve[-1], now.select / start.select
            words = f"{work.stages[point.stage][0]}: fit {entry.fit:.4f}, select {entry.select:.4f}, best {share:.2f} of the start"
            progress.update(task, completed=point.stage * each + point.iteration, description=words)
        progress.update(task, completed=len(work.stages) * each)
    return points


def told(work: Fit, point: Point, source: str) -> str:
    """What a file says of how it was learned and how far it moved."""
    level, shrink = work.stages[point.best_stage]
    deltas = point.best_theta[len(point.best_theta) - len(work.form(point.best_stage).deltas) :]
    form, theta = work.form(point.best_stage), torch.tensor(point.best_theta, dtype=torch.float64)
    before, after = form.numbers(0 * theta), form.numbers(theta)
    moved = "".join(f", {name} by up to {float((value - before[name]).abs().max()):.3g}" for name, value in after.items())
    moved += f", coefficients by up to {max(map(abs, deltas)):.3g} of a first-order step" if deltas else ""
    return (
        f"learned at level {level} from {source}, {len(point.curve) - 1} iterations, {work.learner.objective}, shrinkage {shrink:g}; "
        f"times moved by up to {work.distance(point):.3g} in lambda{moved}"
    )
