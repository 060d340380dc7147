"""Level statistics: DPM-Solver-v3 on the times of a schedule, chosen on `select`, in a file that every runtime of operators executes."""

import dataclasses

import msgspec
import pytest
import torch
from rich.progress import Progress
from test_campaign import small
from test_commands import run
from test_fit import guessing, start

from search import charts, style
from search.by_statistics import SHRINK, evenly
from search.errors import CampaignError
from search.evaluate import Evaluator
from search.follow import fits_from, followed
from search.learner import Learner
from search.objective import squared
from search.tracker import WandB
from solvers import compile, load, sample, save
from teacher.errors import TeacherError
from teacher.models import load as model
from teacher.statistics import facts_of, statistics
from teacher.trajectories import targets


class Logged:
    """A run of W&B that keeps the names of what it is given."""

    def log_artifact(self, artifact, aliases):
        self.files = set(artifact.manifest.entries)


QUIET = Progress(disable=True)
BY_STATISTICS = Learner(level="statistics")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    teacher, root = model("mixture"), tmp_path_factory.mktemp("cache")
    return teacher, targets(teacher, "fit", 32, root=root), targets(teacher, "select", 32, root=root)


@pytest.fixture(scope="module")
def ended(scene, tmp_path_factory):
    """A fit and its end."""
    (fit,) = fits_from(scene[0], [start(scene[0], "ddim")], [], scene[1:], BY_STATISTICS, QUIET)
    (point,) = followed([fit], tmp_path_factory.mktemp("fit") / "a", "", QUIET)
    return fit, point


def root_mean_on_select(scene, table):
    drawn = sample(scene[0].denoiser, scene[2].noise, table)
    return float((drawn - scene[2].images).square().mean().sqrt())


def test_the_first_is_the_schedule_itself_and_the_best_on_select_is_taken(scene, ended):
    fit, point = ended
    assert point.curve[0].select == pytest.approx(root_mean_on_select(scene, compile(fit.schedule)), rel=1e-5)
    assert root_mean_on_select(scene, fit.table(point)) == pytest.approx(min(entry.select for entry in point.curve), rel=1e-5)
    assert len(point.curve) == len(fit.stages) == 1 + len(fit.kinds)
    assert point.best_stage > 0  # exponential Adams alone is better than DDIM
    assert "level statistics on the times of x: DPM-Solver-v3 of order" in fit.told(point, "x")


def test_where_nothing_is_better_the_schedule_stays(scene, ended):
    fit, point = ended
    first = fit.begin()
    assert (fit.recipe(first), fit.recipe(point)) == (fit.schedule, None)
    assert fit.table(first).apart(compile(fit.schedule)) == 0
    assert fit.told(first, "x").startswith("x as it was")


def test_the_curve_has_a_line_for_every_strength_and_plain_numbers_at_its_errors(ended):
    fit, point = ended
    figure = charts.learning(point.curve, fit.stages, "rmse")
    (axes,) = figure.axes
    style.png(figure)
    assert [text.get_text() for text in axes.texts] == [f"statistics, {shrink:g}" for shrink in SHRINK]
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels
    assert all(float(label) > 0 for label in labels)


def test_a_fit_that_was_stopped_goes_on_to_the_same(ended):
    fit, point = ended
    half = next(p for p in fit.run() if p.stage == 20)
    again = msgspec.json.decode(msgspec.json.encode(half), type=type(half))
    assert list(fit.run(again))[-1] == point


@pytest.mark.parametrize("name", ["dpm-solver-2s", "heun", "dpmpp-2m"])
def test_it_takes_as_many_steps_as_the_schedule_has_evaluations_between_the_same_ends(scene, name):
    schedule = start(scene[0], name, 4)
    for one in (schedule, guessing(schedule)) if name == "dpmpp-2m" else (schedule,):
        times = evenly(one, nfe := compile(one).nfe).times
        assert (len(times), times[0], times[-1]) == (nfe + 1, schedule.times[0], schedule.times[-1])


def test_statistics_belong_to_the_images_that_they_were_measured_on(scene, tmp_path):
    other = targets(scene[0], "fit", 32, 1e-1, tmp_path)
    assert other.seeds == scene[1].seeds
    assert not torch.equal(other.images, scene[1].images)
    assert facts_of(scene[0], other, 10) != facts_of(scene[0], scene[1], 10)


def test_tables_of_operators_are_scored_beside_others(scene, ended):
    fit, point = ended
    tables = [compile(fit.schedule), fit.table(point), compile(start(scene[0], "dpmpp-2m"))]
    found = Evaluator(scene[0], scene[2]).errors(tables)
    for table, errors in zip(tables, found, strict=True):
        drawn = sample(scene[0].denoiser, scene[2].noise, table)
        torch.testing.assert_close(errors, squared(drawn, scene[2].images).double(), rtol=1e-4, atol=1e-8)


def test_a_model_without_a_finite_lambda_at_an_end_is_refused_at_once(scene):
    clean = dataclasses.replace(scene[0], end=scene[0].process.t_clean)
    with pytest.raises(TeacherError, match="alpha > 0 and an end with sigma > 0"):
        BY_STATISTICS.require(clean, 32)
    with pytest.raises(TeacherError, match="three knots or more, not 2"):
        statistics(scene[0], scene[1], knots=2)
    with pytest.raises(CampaignError, match=r"there are times, .* parallel, statistics"):
        Learner(level="rows of all")


def test_train_writes_a_file_with_its_tensors_that_check_proves(tmp_path):
    teacher = model("gaussian")  # whose statistics are exact
    schedule = start(teacher, "ddim")
    save(compile(schedule), tmp_path / "a.schedule.json", recipe=schedule, fitted_for=teacher.card)
    words = [f"schedule={tmp_path / 'a.schedule.json'}", "learner=statistics", "seeds={fit: 16, select: 32, test: 64}"]
    done = run("train.py", *words)
    assert done.returncode == 0, done.stderr
    written = tmp_path / "a-statistics.schedule.json"
    file, proved = load(written), run("-m", "solvers", "check", written)
    assert proved.returncode == 0, proved.stderr
    assert file.scores[0].ratio_high < 1
    assert "learned at level statistics on the times of" in file.provenance.note
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    logged = Logged()
    WandB(logged).schedule(written, {"nfe": file.executable.nfe})
    assert logged.files == {written.name, *(path.name for path in tmp_path.glob("*.safetensors"))}
    again = run("train.py", f"schedule={written}", "learner=rows")
    assert again.returncode != 0
    assert "none can be made of them. These rows have coefficients of kind 'tensor'" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_campaign_is_polished_by_it(tmp_path):
    budget = {"trials": 8, "generation": 8, "finalists": 2, "known": 8}
    outcome = small(tmp_path / "c", budget=budget, sampler={"name": "random"}, learner={"level": "statistics"})
    file = load(outcome.schedule_file)
    assert file.tableau.layout is not None
    assert outcome.found.ratio.high < 1
    assert "level statistics" in outcome.learned
