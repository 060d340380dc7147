"""Campaigns over several NFE, end to end on the exact Gaussian teacher, and warm starts between campaigns."""

import io
import json
import signal
import time

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from PIL import Image
from test_campaign import search, small, trials, written
from test_report import is_blank

from search import front_report, result, storage
from search.errors import CampaignError
from search.pareto import hypervolume
from search.records import WARM
from search.result import Front
from search.settings import settings
from solvers import load

BUDGETS = (3, 5)
FRONT = {"nfe": list(BUDGETS), "budget": {"trials": 40, "known": 24, "generation": 4, "finalists": 4}}
WORDS = ["nfe=[3,5]", "budget={trials: 40, known: 24, generation: 4, finalists: 4}", "perceptual=[]", "compare=[]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("campaign") / "front"
    return directory, small(directory, **FRONT)


def test_every_budget_leaves_a_file_a_report_and_scores_beside_the_best_known_of_that_budget(finished):
    directory, front = finished
    assert [part.nfe for part in front.parts] == list(BUDGETS)
    for part in front.parts:
        file = load(part.schedule_file)
        assert file.tableau.nfe == part.found.nfe == part.baseline.nfe == part.nfe
        assert file.id == part.schedule_id
        assert file.scores[0].value == part.found.rmse.value
        assert part.known >= 24
        assert part.trials == 20
        assert part.test_reads == 1
        alone = result.read(directory / f"front-nfe{part.nfe}" / "result.json")
        assert (alone.found, alone.baseline, alone.schedule_file) == (part.found, part.baseline, part.schedule_file)
        assert {item.nfe for item in alone.curves} == set(BUDGETS)
    errors = [part.found.rmse.value for part in front.parts]
    assert errors == sorted(errors, reverse=True)
    assert front.hypervolume[-1].evaluations == front.search_cost.logical
    assert result.read(directory / "front.json", Front) == front


def test_the_study_is_a_front_to_optuna_and_every_trial_says_its_budget(finished):
    directory, _ = finished
    with storage.opened(f"sqlite:///{directory / 'study.sqlite'}") as base:
        study = storage.open_study(base, "front", len(BUDGETS))
        stored, found, best_trials = study.get_trials(), storage.finished(study), study.best_trials
    assert [t.user_attrs["nfe"] for t in stored] == [BUDGETS[n // 4 % 2] for n in range(40)]  # a generation in turn
    assert all(t.values[1] == t.user_attrs["nfe"] for t in stored if t.values)
    assert [t.value for t in found] == [t.values and t.values[0] for t in stored]
    best = {nfe: min(t.values[0] for t in stored if t.values and t.values[1] == nfe) for nfe in BUDGETS}
    assert {t.values[1]: t.values[0] for t in best_trials} == best


def test_the_hypervolume_is_optunas_over_the_logarithm_of_the_error_and_never_falls(finished):
    errors = {3: 0.2, 4: 0.3, 6: 0.01, 9: 0.02}  # 4 and 9 are dominated
    for reference in ((10, 0.5), (12, 0.1)):
        points = np.array([(nfe, np.log10(error)) for nfe, error in errors.items() if error < reference[1]])
        expected = compute_hypervolume(points, np.array([reference[0], np.log10(reference[1])]))
        assert hypervolume(errors, reference) == pytest.approx(expected)
    _, front = finished
    gained = [moment.hypervolume for moment in front.hypervolume]
    assert gained == sorted(gained)
    assert gained[-1] > front.known_hypervolume > 0


def test_the_page_and_the_table_tell_every_budget_and_the_pictures_show_something(finished):
    directory, front = finished
    html = (directory / "report.html").read_text()
    for part in front.parts:
        assert f"front-nfe{part.nfe}/front-nfe{part.nfe}.schedule.json" in html
        assert part.schedule_id in html
    assert "LPIPS" not in html  # a Gaussian has no pictures
    assert "<script" not in html
    assert sorted(path.stem for path in (directory / "pictures").iterdir()) == ["front", "hypervolume"]
    for path in (directory / "pictures").iterdir():
        assert not is_blank(Image.open(io.BytesIO(path.read_bytes())))
    assert front_report.table(front).row_count == 2


def test_a_front_killed_in_the_middle_goes_on_to_the_same_trials_and_files_and_is_then_read_not_run(finished, tmp_path):
    whole, front = finished
    directory = tmp_path / "front"
    process = search(directory, *WORDS)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and written(directory) < 28:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert written(directory) >= 28
    assert not (directory / "front.json").exists()
    again = small(directory, **FRONT)
    assert trials(directory) == trials(whole)
    assert [part.schedule_id for part in again.parts] == [part.schedule_id for part in front.parts]
    assert small(directory, **FRONT) == again
    (directory / "front.json").unlink()  # as if killed after the last budget was concluded: no test seed is read again
    assert small(directory, **FRONT).parts == again.parts


def test_a_sampler_of_one_objective_makes_fronts_too(tmp_path):
    budget = {"trials": 40, "known": 8, "generation": 4, "finalists": 2}
    front = small(tmp_path / "tpe", nfe=[2, 3], budget=budget, sampler={"name": "tpe", "options": {"n_startup_trials": 0}})
    assert [(part.nfe, part.trials) for part in front.parts] == [(2, 20), (3, 20)]


def test_files_of_a_front_start_a_campaign_of_another_budget_and_model_and_are_trials_like_others(finished, tmp_path):
    directory, front = finished
    changes = {"nfe": 4, "model": {"name": "mixture"}, "warm": [str(directory)], "budget": {"trials": 24, "known": 24, "finalists": 4}}
    outcome = small(tmp_path / "warm", **changes)
    origins = [trial.origin for trial in outcome.trials]
    assert origins[: len(BUDGETS)] == [f"{WARM}front-nfe{nfe}" for nfe in BUDGETS]
    assert not any(origin.startswith(WARM) for origin in origins[len(BUDGETS) :])
    assert all(trial.fit is not None for trial in outcome.trials[: len(BUDGETS)])
    asked = json.loads((tmp_path / "warm" / "campaign.json").read_text())
    assert sorted(asked["warm"]) == sorted(part.schedule_id for part in front.parts)
    with pytest.raises(CampaignError, match=r"another campaign \(other warm\)"):
        small(tmp_path / "warm", **changes | {"warm": []})


def test_a_warm_start_at_its_own_budget_and_model_begins_where_the_other_campaign_ended(finished, tmp_path):
    _, front = finished
    part = front.parts[0]
    small_budget = {"trials": 8, "known": 24, "generation": 4, "finalists": 2}
    outcome = small(tmp_path / "warm", nfe=part.nfe, warm=[part.schedule_file], budget=small_budget)
    theirs = result.read(finished[0] / "front-nfe3" / "result.json")
    assert outcome.trials[0].fit == pytest.approx(min(t.fit for t in theirs.trials if t.select is not None), rel=0.05)
    assert outcome.found.rmse.value <= 1.02 * part.found.rmse.value


@pytest.mark.parametrize(("nfe", "budgets"), [(5, (5,)), ([5], (5,)), ("3..6", (3, 4, 5, 6)), ([6, 3, 3], (3, 6)), ("4..4", (4,))])
def test_budgets_are_one_number_a_list_or_a_range(nfe, budgets):
    assert settings({"model": {"name": "gaussian"}, "nfe": nfe}).nfe == budgets


@pytest.mark.parametrize("nfe", ["6..3", "3..", "3...5", [], [3, "4"], "0..3", 3.5, None])
def test_what_is_no_range_of_budgets_is_refused_in_one_sentence(nfe):
    with pytest.raises(CampaignError, match="nfe") as caught:
        settings({"model": {"name": "gaussian"}, "nfe": nfe})
    assert "\n" not in str(caught.value)


def test_trials_that_do_not_reach_every_budget_are_refused():
    with pytest.raises(CampaignError, match=r"16 trials do not reach 3 budgets; budget\.trials=17 is the least"):
        settings({"model": {"name": "gaussian"}, "nfe": "3..5", "budget": {"trials": 16, "generation": 8}})
    assert settings({"model": {"name": "gaussian"}, "nfe": "3..5", "budget": {"trials": 17, "generation": 8}}).share == 8
