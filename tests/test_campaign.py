"""Campaigns end to end on the exact Gaussian teacher: resumed ones are undisturbed ones, and mistakes are sentences."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import optuna
import pytest
import torch
from commands import ROOT, Command
from omegaconf import OmegaConf
from rich.progress import Progress

from search import baselines, conclude, result, storage
from search.conclude import score_on_test
from search.errors import CampaignError
from search.evaluate import Evaluator
from search.objective import objective
from search.records import Known, Scored, beginning_alike
from search.result import read
from search.run import run
from search.s3 import FORESEEN
from search.settings import settings
from solvers import ScheduleError, compile, load, process
from solvers.file import recipe_distance
from teacher import models
from teacher.analytic import analytic_teacher
from teacher.errors import TeacherError
from teacher.trajectories import targets

SMALL = {
    "model": {"name": "gaussian"},
    "nfe": 4,
    "space": OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "space" / "full.yaml")),
    "seeds": {"fit": 16, "select": 32, "test": 64},
    "budget": {"trials": 32, "known": 24, "generation": 8, "finalists": 4},
    "sampler": {"name": "s3", "options": {"imagined": 64}},
    "tracker": {"mode": "disabled"},
    "perceptual": [],
}

TINY = ["model=gaussian", "nfe=3", "budget.trials=8", "budget.known=8", "budget.finalists=2", "seeds={fit: 8, select: 8, test: 16}"]


def small(directory, **changes):
    return run(settings(SMALL | {"directory": str(directory)} | changes), Progress(disable=True))


def search(directory, *more):
    words = ["model=gaussian", "nfe=4", "seeds={fit: 16, select: 32, test: 64}", "sampler.options.imagined=64", "tracker=none"]
    return Command("search.py", *words, f"directory={directory}", *more)


def trials(directory):
    with storage.opened(f"sqlite:///{directory / 'study.sqlite'}") as base:
        return [(t.params, t.value, t.system_attrs) for t in storage.finished(storage.open_study(base, directory.name))]


def written(directory):
    """How many trials are on the disk, without opening the study: two processes must not create it at once."""
    try:
        with closing(sqlite3.connect(f"file:{directory / 'study.sqlite'}?mode=ro", uri=True)) as database:
            return database.execute("select count(*) from trial_values").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("campaign") / "whole"
    return directory, small(directory)


def test_a_campaign_leaves_a_schedule_a_report_and_pictures_and_its_numbers_agree(finished):
    directory, outcome = finished
    file = load(outcome.schedule_file)
    assert file.id == outcome.schedule_id
    assert file.tableau.nfe == 4
    assert recipe_distance(file.tableau, file.recipe) < 1e-12
    assert file.scores[0].value == outcome.found.rmse.value
    assert file.fitted_for.model == "gaussian"
    assert (directory / "report.html").stat().st_size > 10_000
    assert list((directory / "pictures").glob("*.png"))
    assert len(outcome.trials) == 32
    assert len(outcome.known) >= 24
    assert result.read(directory / "result.json") == outcome


def test_the_search_starts_from_the_known_solvers_and_its_best_is_never_worse_on_the_seeds_it_saw(finished):
    _, outcome = finished
    enqueued = [t for t in outcome.trials if t.origin]
    assert [t.number for t in enqueued] == list(range(len(enqueued)))
    in_space = {t.origin: t.fit for t in enqueued if t.seeds == 16}  # the others were stopped: their values are estimates
    assert in_space
    for known in outcome.known:
        if known.name in in_space:
            assert in_space[known.name] == pytest.approx(known.fit, rel=1e-3)
    assert min(t.fit for t in outcome.trials if t.fit is not None) <= min(in_space.values())


def test_nothing_is_drawn_twice_and_every_incumbent_has_told_its_errors(finished):
    directory, outcome = finished
    with storage.opened(f"sqlite:///{directory / 'study.sqlite'}") as base:
        made = storage.finished(storage.open_study(base, directory.name))
    seen = sum(t.user_attrs["seeds"] for t in made)
    assert sum(t.user_attrs["evaluations"] for t in made) <= 4 * seen
    assert any(t.seeds < 16 for t in outcome.trials)  # so somebody was raced against
    for first in range(0, len(made), 8):  # generation by generation
        whole = [t for t in made[: first + 8] if t.user_attrs["seeds"] == 16 and t.value is not None]
        best = min(whole, key=attrgetter("value"))
        assert best.value == pytest.approx((sum(best.user_attrs["errors"]) / 16) ** 0.5)


def test_the_same_campaign_again_is_read_not_run(finished):
    directory, outcome = finished
    before = (directory / "study.sqlite").stat().st_mtime_ns
    assert small(directory) == outcome
    assert (directory / "study.sqlite").stat().st_mtime_ns == before


def test_a_campaign_killed_in_the_middle_goes_on_to_the_same_trials_and_schedule(finished, tmp_path):
    whole, outcome = finished
    directory = tmp_path / whole.name
    words = ["budget={trials: 32, known: 24, generation: 8, finalists: 4}", "perceptual=[]", "compare=[]"]
    process = search(directory, *words)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if written(directory) >= 12:  # inside the second generation
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    done = process.wait()
    assert written(directory) >= 12, done.stderr
    assert not (directory / "result.json").exists()
    assert 12 <= len(trials(directory)) < 32
    again = small(directory)
    assert trials(directory) == trials(whole)
    assert sum(FORESEEN in attrs for *_, attrs in trials(directory)) > 13  # also those after the kill, from answers of before
    assert again.schedule_id == outcome.schedule_id


def test_a_campaign_that_is_asked_to_stop_says_so_in_one_line(tmp_path):
    directory = tmp_path / "c"
    process = search(directory, "budget.trials=200", "budget.known=16")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and written(directory) < 8:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # a Ctrl-C would be ignored where these tests run in the background of a shell
    done = process.wait(60)
    assert done.stderr.splitlines()[-1] == "stopped; the same command goes on from here"
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    with closing(sqlite3.connect(f"file:{directory / 'study.sqlite'}?mode=ro", uri=True)) as database:
        assert database.execute("select count(*) from fewstep_board where found is null").fetchone() == (0,)  # claims are put down


def test_a_directory_of_another_campaign_is_refused_and_left_as_it_was(finished):
    directory, _ = finished
    before = {f.name: f.read_bytes() for f in directory.iterdir() if f.is_file()}
    with pytest.raises(CampaignError, match="belongs to another campaign \\(other model, nfe, images\\)"):
        small(directory, model={"name": "mixture"}, nfe=5)
    assert before == {f.name: f.read_bytes() for f in directory.iterdir() if f.is_file()}


def test_a_directory_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CampaignError, match="is not empty"):
        small(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"model": {"name": "cats"}}, TeacherError, "no model 'cats'"),
        ({"model": {"name": "digits", "options": {"weights": "/nowhere"}}}, TeacherError, "are missing"),
        ({"nfe": 0}, CampaignError, "nfe"),
        ({"nfe": "five"}, CampaignError, "nfe"),
        ({"nfe": "10..3"}, CampaignError, "the first and the last of a range"),
        ({"nfe": "3..100"}, CampaignError, "from 1 to 64"),
        ({"objective": "fid"}, CampaignError, "no objective 'fid'"),
        ({"sampler": {"name": "luck"}}, CampaignError, "no sampler 'luck'"),
        ({"sampler": {"name": "s3", "options": {"describe": 1}}}, CampaignError, "does not take the options describe"),
        ({"sampler": {"name": "tpe", "options": {"n_startup_trials": 4, "sigmo": 1}}}, CampaignError, "does not take the options sigmo."),
        ({"sampler": {"name": "tpe", "options": {"n_ei_candidates": "abc"}}}, CampaignError, "n_ei_candidates: Expected `int`"),
        ({"sampler": {"name": "nsgaii", "options": {"crossover_prob": "often"}}}, CampaignError, "crossover_prob: Expected `float`"),
        ({"sampler": {"name": "tpe", "options": {"n_ei_candidates": 0}}}, CampaignError, "'tpe' refuses its options"),
        ({"sampler": {"name": "cmaes", "options": {"popsize": 1}}}, CampaignError, "'cmaes' refuses its options"),
        ({"sampler": {"name": "s3", "options": {"shortlist": 0}}}, CampaignError, "a whole number of at least 1, not 0"),
        ({"space": {"colour": ["red"]}}, CampaignError, "colour"),
        ({"space": {"order": []}}, ScheduleError, "leaves no order"),
        ({"space": {"order": 3}}, CampaignError, "space.order is a list"),
        ({"space": {"counts": 3}}, CampaignError, "not of the kind"),
        ({"space": {"answer": "network"}}, CampaignError, r"such as \[network\]"),
        ({"space": {"among": {"grid": "karras", "steps": 1.5}}}, ScheduleError, "whole number of steps"),
        ({"space": {"among": {"grid": "karras", "steps": 30, "sigma": 1.0}}}, ScheduleError, "argument 'sigma'"),
        ({"space": {"eta": 0.5}}, CampaignError, "space.eta is a list"),
        ({"objective": "frechet-pixels", "seeds": {"fit": 8, "select": 8, "test": 1}}, CampaignError, "compares sets"),
        ({"objective": "frechet-pixels", "seeds": {"fit": 2, "select": 2, "test": 2}}, CampaignError, "and test three"),
        ({"space": {"relax": ["a", "b"]}}, ScheduleError, "range of relax"),
        ({"space": {"label": [0.4, -0.4]}}, ScheduleError, "range of label"),
        ({"budget": {"trials": 0}}, CampaignError, "trials"),
        ({"learner": {"level": "parallel"}}, CampaignError, "cannot be learned at level 'parallel'"),
        ({"spce": 1}, CampaignError, "spce"),
        ({"perceptual": ["lpips-alex", "lpips-vgg"]}, CampaignError, "compare="),
        ({"perceptual": ["frechet-pixels"]}, CampaignError, "compare="),
        ({"sampler": {"name": "s3", "options": {"doubt": 2.0}}}, CampaignError, "doubt must be a level"),
        ({"sampler": {"name": "s3", "options": {"doubt": "abc"}}}, CampaignError, "doubt: Expected `float`"),
        ({"model": {"name": "gaussian", "options": {"dimensions": -1}}}, TeacherError, "one dimension or more"),
        ({"storage": "postgresql://nobody@127.0.0.1:1/none"}, CampaignError, "cannot be opened"),
        ({"storage": "sqlite:///:memory:"}, CampaignError, "ends with its process"),
    ],
)
def test_bad_settings_end_in_one_sentence(tmp_path, changes, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        small(tmp_path / "c", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "c" / "result.json").exists()


def test_a_place_that_cannot_hold_a_campaign_or_its_storage_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    for directory in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(CampaignError, match="cannot be a campaign's directory"):
            small(directory)
    with pytest.raises(CampaignError, match="cannot be opened"):
        small(tmp_path / "c", storage=f"sqlite:///{tmp_path / 'file' / 'x.db'}")
    with pytest.raises(CampaignError, match=r"\? or %"):
        small(tmp_path / "what?")
    assert not (tmp_path / "what?").exists()
    for text in ("[1, 2]", "{"):
        (tmp_path / "broken").mkdir(exist_ok=True)
        (tmp_path / "broken" / "campaign.json").write_text(text)
        with pytest.raises(CampaignError, match=r"campaign\.json is damaged"):
            small(tmp_path / "broken")


def test_a_sampler_that_diverges_on_a_test_seed_is_scored_so_that_it_can_be_read_again(tmp_path):
    goal = targets(models.load("gaussian"), "test", 8, root=tmp_path)
    ours = SimpleNamespace(settings=SimpleNamespace(perceptual=()), objective=objective("rmse"), teacher=None)
    wild = goal.images.clone()
    wild[3] = torch.nan
    scored = score_on_test(ours, goal, "wild", 4, wild, goal.images + 0.1)
    assert msgspec.json.decode(msgspec.json.encode(scored), type=Scored) == scored
    assert scored.ratio.value > 1e6


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(CampaignError, match=r"c\.json is damaged"):
        read(tmp_path / "c.json")


def test_the_command_says_a_mistake_in_one_line_without_a_traceback(tmp_path):
    done = search(tmp_path / "c", "nfe=0").wait()
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["random", "cmaes"])
def test_other_samplers_run_the_same_loop(tmp_path, name):
    options = {"warn_independent_sampling": False} if name == "cmaes" else {}
    outcome = small(tmp_path / name, sampler={"name": name, "options": options})
    assert outcome.found.ratio.low <= 1
    assert len(outcome.trials) == 32


def test_a_wandb_that_cannot_start_does_not_stop_a_campaign(tmp_path, monkeypatch, caplog):
    wandb = pytest.importorskip("wandb")

    def broken(**_):
        raise OSError("no disk")

    monkeypatch.setattr(wandb, "init", broken)
    assert small(tmp_path / "c", tracker={"mode": "offline"}, budget={"trials": 8, "known": 16, "finalists": 2}).found.nfe == 4
    assert "going on without it" in caplog.text


def test_wandb_offline_holds_the_run_and_the_schedule(tmp_path):
    env = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    words = ["search.py", *TINY]
    done = subprocess.run(
        [sys.executable, *words, f"directory={tmp_path / 'c'}"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    logs = list((tmp_path / "c" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(logs) == 1
    data = logs[0].read_bytes()
    assert b"search/best" in data
    assert b"c.schedule.json" in data


@pytest.mark.parametrize("nfe", [5, 8])
def test_a_campaign_of_parallel_steps_is_polished_whatever_known_solvers_there_are(tmp_path, nfe):
    space = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "space" / "epd.yaml"))
    learner = {"level": "parallel", "iterations": 1, "shrink": [1e-3]}
    outcome = small(tmp_path / "epd", nfe=nfe, space=space, budget={"trials": 8, "generation": 8, "finalists": 2}, learner=learner)
    assert outcome.learned


def test_what_known_solvers_cost_is_what_the_evaluator_counts():
    teacher = models.load("gaussian")
    known = [Known("ddim", {}, grid, {}, 4, answer=answer) for grid in ("log-snr", "uniform") for answer in ("network", "unit-eps")]
    evaluator = Evaluator(teacher, targets(teacher, "fit", 4))
    evaluator.errors([compile(baselines.schedule(item, teacher)) for item in known])
    assert beginning_alike(known, 4) == evaluator.cost


def test_a_learner_polishes_the_finalists_of_a_finished_campaign_and_the_report_shows_both(tmp_path):
    directory, budget = tmp_path / "c", {"trials": 8, "known": 16, "generation": 8, "finalists": 2}
    searched = small(directory, budget=budget)
    both = small(directory, budget=budget, learner={"level": "times", "iterations": 2})
    assert both.trials == searched.trials
    assert [both.found.name, both.others[0].name] == ["learned", "searched"]
    assert both.others[0].rmse == searched.found.rmse
    assert both.found.rmse.value < searched.found.rmse.value
    assert both.test_reads == 2
    file = load(both.schedule_file)
    assert file.id == both.schedule_id != searched.schedule_id
    assert file.provenance.note == both.learned
    assert load(searched.schedule_file).recipe == load(directory / "c.schedule.json").recipe
    assert small(directory, budget=budget) == both  # nothing is done twice, and nothing is lost
    (tmp_path / "old").mkdir()
    directory.rename(tmp_path / "old" / "c")
    again = small(tmp_path / "old" / "c", budget=budget, learner={"level": "times", "iterations": 1})
    assert again.found.name == "learned"  # a campaign that was moved goes on where it is
    there = Path(again.schedule_file).parent
    assert load(there / Path(both.schedule_file).name).id == both.schedule_id  # and leaves what another learner made
    assert again.schedule_file != str(there / Path(both.schedule_file).name)


def test_a_learner_that_finds_nothing_better_says_so_in_the_report(tmp_path, monkeypatch):
    def worse(campaign, *_):
        steps = baselines.schedule(Known("ddim", {}, "uniform", {}, 4), campaign.teacher)
        return conclude.Sampler("learned", steps, compile(steps), steps, "learned at level times from trial 3; moved")

    monkeypatch.setattr(conclude, "learned", worse)
    budget = {"trials": 8, "known": 16, "generation": 8, "finalists": 2}
    done = small(tmp_path / "c", budget=budget, learner={"level": "times"})
    assert done.found.name == "searched"
    assert "not better than what was searched" in done.learned
    assert done.learned.split(";")[0] in (tmp_path / "c" / "report.html").read_text()


def test_a_finished_campaign_whose_directory_was_renamed_is_the_same_campaign(finished, tmp_path):
    home, before = finished
    there = tmp_path / "renamed"
    shutil.copytree(home, there)
    after = small(there)
    assert Path(after.schedule_file).exists()
    assert Path(after.schedule_file).parent == there
    assert after.beside(home) == before
    Path(after.schedule_file).unlink()  # a file that is gone
    again = small(there)  # is written anew, from the same trials, as is the report
    assert load(after.schedule_file).id == before.schedule_id
    assert again.trials == before.trials
    assert again.test_reads == 2
    with storage.opened(f"sqlite:///{there / 'study.sqlite'}") as base:
        assert len(base.get_all_studies()) == 1


def test_somebody_elses_study_of_the_same_name_is_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    theirs = optuna.create_study(storage=url, study_name="mine")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), 2)
    with pytest.raises(CampaignError, match="no campaign of ours"):
        small(tmp_path / "mine", storage=url)
    assert not theirs.user_attrs


def test_on_a_flow_that_ends_on_clean_data_every_known_solver_that_is_tuned_can_be_compiled():
    teacher = analytic_teacher("mixture", process("flow"), 1.0, 0.0)
    made = baselines.candidates(teacher, 12, 120)
    finer = baselines.finer(teacher, made[:20], 3, 30)
    assert len(made) >= 120
    assert len(finer) >= 30
    for item in (*made, *finer):
        assert compile(baselines.schedule(item, teacher)).nfe == 12
