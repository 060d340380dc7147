"""What train.py runs: polish one schedule file by gradient, judge it on seeds it never saw, write a new file beside it."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
from rich.progress import Progress
from rich.table import Table

from search.campaign import targets
from search.errors import CampaignError
from search.evaluate import Evaluator
from search.fit import Learner, fit
from search.objective import root_mean
from search.settings import Named, Seeds
from search.statistics import interval, ratio
from solvers import FittedFor, Score, compile, load, save
from teacher import models, trajectories


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
    """Fit, choose the best iteration on `select`, score on `test` against the start, write the file. Returns a table and the path."""
    source = load(asked.schedule)
    if source.recipe is None:
        raise CampaignError(f"{asked.schedule} carries rows but no recipe; only a schedule with steps can be learned at this level.")
    fitted = source.fitted_for or FittedFor()
    name = asked.model.name or fitted.model
    options = asked.model.options or ({} if fitted.guidance is None else {"guidance": fitted.guidance})
    teacher = models.load(name, **options)
    source.require(teacher.card, insist=asked.insist)
    fit_on, select_on, test_on = (targets(teacher, block, asked.seeds, asked.tolerance, progress) for block in ("fit", "select", "test"))
    task = progress.add_task("learn", total=asked.learner.iterations)
    steps = []
    for state in fit(teacher, source.recipe, fit_on, select_on, asked.learner):
        steps.append(state)
        progress.update(task, completed=state.iteration, description=f"learn, fit {state.fit:.4f}, select {state.select:.4f}")
    best = min(steps, key=lambda state: state.select)
    before, after = Evaluator(teacher, test_on).errors([compile(s) for s in (source.recipe, best.schedule)])
    scores = [interval(errors, root_mean) for errors in (before, after)]
    gain = ratio(after, before, root_mean)
    stem = Path(asked.schedule).name.removesuffix(".schedule.json")
    path = Path(asked.out or Path(asked.schedule).parent / f"{stem}-{asked.learner.level.replace('+', '-')}.schedule.json")
    learned = (scores[1].value, scores[1].low, scores[1].high)
    score = Score("rmse", len(test_on.seeds), *learned, f"start: {stem}", scores[0].value, gain.value, gain.low, gain.high)
    note = f"learned at level {asked.learner.level} from {source.id}, {best.iteration} iterations"
    provenance = msgspec.structs.replace(source.provenance, note=note, trial=None, test_reads=source.provenance.test_reads + 1)
    facts = msgspec.structs.replace(teacher.card, teacher=f"{trajectories.SOLVER}, {test_on.nfe} evaluations", teacher_error=test_on.error)
    save(compile(best.schedule), path, recipe=best.schedule, fitted_for=facts, scores=[score], provenance=provenance)
    table = Table("", "fit", "select", "test RMSE (95 %)", "ratio", title=f"{stem}: learner {asked.learner.level}")
    for label, state, on_test in (("start", steps[0], scores[0]), ("learned", best, scores[1])):
        relative = "1" if label == "start" else f"{gain.value:.3f} ({gain.low:.3f} to {gain.high:.3f})"
        table.add_row(
            label, f"{state.fit:.4f}", f"{state.select:.4f}", f"{on_test.value:.4f} ({on_test.low:.4f} to {on_test.high:.4f})", relative
        )
    return table, path
