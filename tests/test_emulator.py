"""The emulator against the network it stands for, and what it is given."""

import math

import msgspec
import numpy as np
import pytest
import torch
from optuna.trial import create_trial
from rich.progress import Progress
from scipy.stats import kendalltau
from test_space import random_points

from search import baselines
from search.answers import Answers
from search.campaign import campaign
from search.emulator import Emulator, deviations, form
from search.evaluate import Evaluator
from search.foresight import Foresight, overhead, telling
from search.objective import objective, squared
from search.paths import paths
from search.race import Race
from search.settings import settings
from search.space import Space
from solvers import SolverSchedule, compile, named_grid, preset
from teacher.models import load
from teacher.trajectories import targets


def probes(teacher, nfe):
    grids = [named_grid("karras", teacher.process, nfe, teacher.start, teacher.end, rho=rho) for rho in (5.0, 15.0)]
    return [preset(name, grid, teacher.process) for grid in grids for name in ("ddim", "dpmpp-2m")]


def answered(evaluator, tables, ways):
    """True errors [K, S] and deviations [K, S, N, m] of tables."""
    found = dict(evaluator.drawn(tables))
    errors = torch.stack([squared(found[k].images, evaluator.targets.images) for k in range(len(tables))])
    moved = []
    for k, table in enumerate(tables):
        moved.append(deviations(table, ways.reduced(found[k].answers), evaluator.teacher.process, ways))
    return errors, torch.stack(moved)


@pytest.fixture(scope="module", params=["gaussian", "digits"])
def scene(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("cache")
    teacher = load(request.param)
    goal = targets(teacher, "fit", 12, root=root)
    space = Space(teacher.process, teacher.start, teacher.end, 5)
    ways = paths(teacher, goal, probes(teacher, 5), root=root)
    tables = [compile(space.decode(params)) for params in random_points(space, 90)]
    evaluator = Evaluator(teacher, goal)
    errors, moved = answered(evaluator, tables, ways)
    usual = errors.mean(1) < 3 * errors.mean(1).median()  # a campaign does not condition on what went far astray
    chosen = [k for k in range(90) if usual[k]]
    return evaluator, space, ways, [tables[k] for k in chosen], errors[chosen], moved[chosen]


def test_what_the_emulator_has_seen_it_repeats(scene):
    evaluator, _, ways, tables, errors, moved = scene
    seen = form(tables[:30], evaluator.teacher.process, {})
    found = Emulator(ways, seen, moved[:30]).errors(seen)
    assert (found.mean(1).sqrt() / errors[:30].mean(1).sqrt() - 1).abs().median() < 0.1


def test_it_ranks_what_it_has_not_seen(scene):
    evaluator, _, ways, tables, errors, moved = scene
    process, true = evaluator.teacher.process, errors[30:].mean(1)
    found = Emulator(ways, form(tables[:30], process, {}), moved[:30]).errors(form(tables[30:], process, {})).mean(1)
    assert kendalltau(found, true).statistic > 0.6


def test_more_seen_is_better_foreseen(scene):
    evaluator, _, ways, tables, errors, moved = scene
    process, true = evaluator.teacher.process, errors[50:].mean(1).log()
    unseen = form(tables[50:], process, {})
    misses = []
    for n in (2, 50):
        found = Emulator(ways, form(tables[:n], process, {}), moved[:n]).errors(unseen)
        misses.append((found.mean(1).log() - true).abs().median())
    assert misses[1] < 0.7 * misses[0]


def test_a_seed_that_a_trial_did_not_get_learns_nothing_from_it_and_the_others_all(scene):
    evaluator, _, ways, tables, _, moved = scene
    process = evaluator.teacher.process
    unseen, some = form(tables[20:30], process, {}), moved[:9].clone()
    some[8, 3:] = math.nan
    found = Emulator(ways, form(tables[:9], process, {}), some).errors(unseen)
    whole = Emulator(ways, form(tables[:9], process, {}), moved[:9]).errors(unseen)
    without = Emulator(ways, form(tables[:8], process, {}), moved[:8]).errors(unseen)
    torch.testing.assert_close(found[:, :3], whole[:, :3], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found[:, 3:], without[:, 3:], rtol=1e-2, atol=1e-5)


def test_the_coordinates_hold_the_noise_and_the_images_and_lose_little_of_the_answers(scene):
    evaluator, _, ways, tables, _, _ = scene
    goal = evaluator.targets
    for pictures, tolerance in ((goal.noise, 1e-4), (goal.images, 0.1)):
        whole = pictures.flatten(1).double()
        kept = torch.einsum("sm,smp->sp", ways.reduced([whole])[:, 0], ways.basis.double())
        assert float((kept - whole).norm() / whole.norm()) < tolerance
    products = ways.basis.double() @ ways.basis.double().mT
    lengths = products.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(products, torch.diag_embed(lengths.round()), atol=1e-4, rtol=0)
    assert set(lengths.round().flatten().tolist()) <= {0.0, 1.0}
    answers = dict(evaluator.drawn(tables[:1]))[0].answers[-1].flatten(1).double()
    assert float(ways.reduced([answers]).norm() / answers.norm()) > 0.95


def test_the_answers_to_the_probes_are_kept(scene):
    evaluator, _, ways, *_ = scene
    tables = [compile(probe) for probe in probes(evaluator.teacher, 5)]
    for k, drawn in evaluator.drawn(tables):
        torch.testing.assert_close(ways.probed[:, k], ways.reduced(drawn.answers), atol=1e-3, rtol=0)


def test_where_the_teacher_was_asked_its_ways_are_its_answers(scene):
    _, _, ways, *_ = scene
    answers, eps = ways.there(ways.lambdas)
    torch.testing.assert_close(answers, ways.answers)
    torch.testing.assert_close(eps, ways.eps)
    some = torch.tensor([4, 1])
    torch.testing.assert_close(ways.on(some).there(ways.lambdas)[0], ways.answers[some])


def test_a_fine_sampler_stays_on_the_teachers_way(scene):
    evaluator, _, ways, tables, errors, moved = scene
    process = evaluator.teacher.process
    grid = named_grid("karras", process, 48, evaluator.teacher.start, evaluator.teacher.end)
    fine = form([compile(preset("dpmpp-3m", grid, process))], process, {})
    found = Emulator(ways, form(tables[:5], process, {}), moved[:5]).errors(fine)
    assert float(found.mean().sqrt()) < 0.2 * float(errors.mean().sqrt())


def test_a_race_keeps_what_it_is_told_to_of_the_seeds_that_a_candidate_got(scene):
    evaluator, *_ = scene
    process, ends = evaluator.teacher.process, (evaluator.teacher.start, evaluator.teacher.end)
    bad, good = (compile(preset("ddim", named_grid("karras", process, n, *ends), process)) for n in (2, 24))
    race = Race(evaluator, objective("rmse"), blocks=4)
    errors = race.run([good], None)[0].errors
    kept = race.run(
        [bad, good], errors, lambda table, drawn, which: torch.stack([which.double(), drawn.images.flatten(1)[:, 0].double()], 1)
    )
    assert kept[0].seeds < 12
    for raced in kept:
        assert raced.kept is not None
        got = raced.kept[:, 0].isfinite()
        assert int(got.sum()) == raced.seeds
        assert torch.equal(raced.kept[got, 0], torch.arange(12.0, dtype=torch.float64)[got])


def told(tmp_path, **changes):
    asked = {"model": {"name": "gaussian"}, "nfe": 4, "directory": str(tmp_path / "c"), "seeds": {"fit": 8}, **changes}
    ours = campaign(settings(asked), Progress(disable=True))
    known = [msgspec.structs.replace(item, fit=1.0) for item in baselines.candidates(ours.teacher, 4, 20)]
    return ours, Foresight(ours, {4: known}, Answers("one"))


@pytest.mark.parametrize("aim", ["rmse", "seed-rmse"])
def test_a_campaign_foresees_what_its_trials_let_it(tmp_path, monkeypatch, aim):
    monkeypatch.chdir(tmp_path)
    ours, foresight = told(tmp_path, objective=aim)
    points = random_points(ours.space, 40)
    assert foresight.on(4, []) is None
    raced = Race(ours.on("fit"), ours.objective, 1).run([compile(ours.space.decode(p)) for p in points], None, foresight.keep(4))
    trials = []
    for number, (params, found) in enumerate(zip(points[:30], raced, strict=False)):
        trial = create_trial(params=params, distributions=ours.space.distributions(), value=found.value, user_attrs={"nfe": 4})
        trial.number = number
        trials.append(trial)
    assert foresight.on(4, trials) is None  # nothing was told yet
    foresight.told({t.number: r.kept for t, r in zip(trials, raced, strict=False)})
    foresee = foresight.on(4, trials)
    cases = foresee(points[30:])
    assert cases.shape == (10, 8)
    assert kendalltau(cases.mean(1), [r.value for r in raced[30:]]).statistic > 0.4
    usual = [k for k in range(30) if raced[k].value < 0.3]
    values = foresee([points[k] for k in usual]).mean(1) ** (0.5 if aim == "rmse" else 1.0)
    assert values == pytest.approx([raced[k].value for k in usual], rel=0.1)  # in the objective's units
    again = Foresight(ours, foresight._known, foresight._answers).on(4, trials)
    assert np.array_equal(again(points[30:]), cases)
    foresight.forget()
    assert foresight.on(4, trials) is None


def test_the_emulator_learns_from_the_best_trials_and_from_the_newest_of_the_others():
    trials = [create_trial(value=value) for value in (5.0, 1.0, 9.0, 2.0, 8.0, 7.0)]
    for number, trial in enumerate(trials):
        trial.number = number
    assert {t.number for t in telling(trials, 4)} == {1, 3, 5, 4}
    assert {t.number for t in telling(trials, 3)} == {1, 3, 5}
    assert {t.number for t in telling(trials, 50)} == set(range(6))
    assert telling([], 4) == []


def test_no_more_seeds_are_walked_kept_and_charged_than_are_emulated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.foresight.SEEDS", 5)
    ours, foresight = told(tmp_path)
    tables = [compile(ours.space.decode(params)) for params in random_points(ours.space, 3)]
    raced = Race(ours.on("fit"), ours.objective, 2).run(tables, None, foresight.keep(4))
    assert len(foresight.paths(4).noise) == 5
    for found in raced:
        assert found.kept[:5].isfinite().all()
        assert found.kept[5:].isnan().all()
    foresight.told({k: found.kept for k, found in enumerate(raced)})
    assert all(held.shape[0] == 5 for held in foresight._answers.of(range(3)).values())
    assert overhead(ours, foresight._known).logical == 5 * (32 + 8 * 4)
    monkeypatch.setattr("search.paths.LARGEST", 10)
    assert overhead(ours, foresight._known).logical == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "l1"},
        {"sampler": {"name": "tpe"}},
        {"sampler": {"name": "s3", "options": {"rounds": 0}}},
        {"sampler": {"name": "s3", "options": {"pool": 1}}},
        {"objective": "mmd-pixels", "compare": []},
    ],
)
def test_where_nothing_can_be_emulated_or_nobody_asks_nothing_is_kept(tmp_path, changes):
    _, foresight = told(tmp_path, **changes)
    assert foresight.keep(4) is None
    assert foresight.on(4, []) is None


def test_schedules_with_knobs_are_told_apart(scene):
    evaluator, space, *_ = scene
    schedule = space.decode(random_points(space, 1)[0])
    told = []
    for scale in (1.0, 2.0):
        steps = tuple(msgspec.structs.replace(step, knobs={"guidance": scale}) for step in schedule.steps)
        told.append(SolverSchedule(schedule.process, schedule.start, steps))
    one, other = (form([compile(s)], evaluator.teacher.process, {"guidance": 1.0}) for s in told)
    assert one.apart.shape == (1, 5, 2)
    assert torch.equal(one.apart[..., 1], torch.zeros(1, 5, dtype=torch.float64))  # as the teacher is asked
    assert bool((other.apart[..., 1] > 0).all())
    assert torch.equal(one.B, other.B)
