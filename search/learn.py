"""What train.py runs: polish one schedule file by gradient, judge it on seeds it never saw, write a new file beside it."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from rich.progress import Progress
from rich.table import Table

from search import pictures
from search.campaign import targets
from search.errors import CampaignError
from search.evaluate import Evaluator
from search.fit import Fit, Learner, Point
from search.objective import root_mean, root_median, root_trimmed
from search.settings import Named, Seeds
from search.statistics import interval, ratio
from solvers import FittedFor, Score, compile, load, save
from solvers.atomic import write_atomically
from teacher import cache, models, trajectories


class Lesson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One call of train.py. An empty model name means the model the file was fitted for; out "" is beside the file."""

    schedule: str
    model: Named = Named("")
    learner: Learner = Learner()
    seeds: Seeds = Seeds()
    tolerance: Annotated[float, msgspec.Meta(gt=0)] = 1e-3
    out: str = ""
    insist: bool = False


def lesson(values: dict[str, Any]) -> Lesson:
    """The settings in a plain dictionary. Raises CampaignError naming what does not fit."""
    try:
        return msgspec.convert(values, Lesson)
    except msgspec.ValidationError as error:
        raise CampaignError(f"The settings do not fit: {error}.") from None


def learn(asked: Lesson, progress: Progress) -> tuple[Table, Path]:
    """Fit, choose the best iteration on `select`, score on `test` against the start, write the file. Returns a table and the path.

    After every iteration OUT.learning.json is written, with which a run that was killed goes on to the same numbers.
    """
    source = load(asked.schedule)
    if source.recipe is None:
        raise CampaignError(f"{asked.schedule} carries rows but no recipe; only a schedule with steps can be learned.")
    fitted = source.fitted_for or FittedFor()
    name = asked.model.name or fitted.model
    options = asked.model.options or ({} if fitted.guidance is None else {"guidance": fitted.guidance})
    teacher = models.load(name, **options)
    source.require(teacher.card, insist=asked.insist)
    asked.learner.stages()  # an unknown level is found now, not after the teacher has run
    fit_on, select_on, test_on = (targets(teacher, block, asked.seeds, asked.tolerance, progress) for block in ("fit", "select", "test"))
    stem = Path(asked.schedule).name.removesuffix(".schedule.json")
    path = Path(asked.out or Path(asked.schedule).parent / f"{stem}-{asked.learner.level.replace('+', '-')}.schedule.json")
    question = {"from": source.id, "model": teacher.digest, "learner": asked.learner, "seeds": asked.seeds, "tolerance": asked.tolerance}
    work = Fit(teacher, source.recipe, fit_on, select_on, asked.learner)
    point = followed(work, path, cache.key_of(msgspec.to_builtins(question)), progress)
    write_atomically(path.with_suffix(".png"), pictures.png(pictures.learning(point.curve, work.stages, asked.learner.objective)))

    found = work.table(point)
    before, after = Evaluator(teacher, test_on).errors([compile(source.recipe), found])
    scores = [interval(errors, root_mean) for errors in (before, after)]
    gain = ratio(after, before, root_mean)
    learned = (scores[1].value, scores[1].low, scores[1].high)
    score = Score("rmse", len(test_on.seeds), *learned, f"start: {stem}", scores[0].value, gain.value, gain.low, gain.high)
    provenance = msgspec.structs.replace(
        source.provenance, note=told(work, point, source.id), trial=None, test_reads=source.provenance.test_reads + 1
    )
    facts = msgspec.structs.replace(teacher.card, teacher=f"{trajectories.SOLVER}, {test_on.nfe} evaluations", teacher_error=test_on.error)
    recipe, process = work.recipe(point), source.process
    save(found, path, recipe=recipe, process=process, fitted_for=facts, scores=[score], provenance=provenance)
    state_of(path).unlink(missing_ok=True)
    table = Table("", "fit", "select", "test RMSE (95 %)", "median", "trimmed", "ratio", title=f"{stem}: learner {asked.learner.level}")
    chosen = min(point.curve, key=lambda entry: entry.select)
    for label, entry, errors, on_test in (("start", point.curve[0], before, scores[0]), ("learned", chosen, after, scores[1])):
        relative = "1" if label == "start" else f"{gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f})"
        spread = f"{on_test.value:.4f} ({on_test.low:.4f} to {on_test.high:.4f})"
        robust = (f"{float(together(errors)):.4f}" for together in (root_median, root_trimmed))
        table.add_row(label, f"{entry.fit:.4f}", f"{entry.select:.4f}", spread, *robust, relative)
    return table, path


def state_of(path: Path) -> Path:
    """Where a fit stands, while it runs."""
    return path.with_suffix(".learning.json")


def followed(work: Fit, path: Path, question: str, progress: Progress) -> Point:
    """Run a fit to its end with a progress bar, from where it stood when it was killed, if it asked the same question."""
    state, since = state_of(path), None
    if state.exists():
        try:
            theirs, since = msgspec.json.decode(state.read_bytes(), type=tuple[str, Point])
        except msgspec.MsgspecError:
            raise CampaignError(f"{state} is damaged; remove it to begin anew.") from None
        since = since if theirs == question else None
    each = work.learner.iterations
    task = progress.add_task("learn", total=len(work.stages) * each)
    point = since or work.begin()
    for reached in work.run(point):
        point = reached
        write_atomically(state, msgspec.json.encode((question, point)))
        start, now = point.curve[0], min(point.curve, key=lambda entry: entry.select)
        entry, share = point.curve[-1], now.select / start.select
        words = f"{work.stages[point.stage][0]}: fit {entry.fit:.4f}, select {entry.select:.4f}, best {share:.2f} of the start"
        progress.update(task, completed=point.stage * each + point.iteration, description=words)
    progress.update(task, completed=len(work.stages) * each)
    return point


def told(work: Fit, point: Point, source: str) -> str:
    """What a file says of how it was learned and how far it moved."""
    level, shrink = work.stages[point.best_stage]
    deltas = point.best_theta[len(point.best_theta) - len(work.form(point.best_stage).deltas) :]
    moved = f", coefficients by up to {max(map(abs, deltas)):.3g} of a first-order step" if deltas else ""
    return (
        f"learned at level {level} from {source}, {len(point.curve) - 1} iterations, {work.learner.objective}, shrinkage {shrink:g}; "
        f"times moved by up to {work.distance(point):.3g} in lambda{moved}"
    )
