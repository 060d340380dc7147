"""Objectives of sets against other ways to compute them, campaigns that need them, and how alike objectives rank."""

import math

import msgspec
import numpy as np
import pytest
import torch
from rich.progress import Progress
from scipy.linalg import sqrtm
from test_campaign import SMALL, small
from test_perceptual import _load_or_skip, _pictures

from search import sets
from search.campaign import campaign
from search.errors import CampaignError
from search.evaluate import Evaluator
from search.objective import objective
from search.perceptual import PerceptualError
from search.race import Race
from search.ranks import tau
from search.records import Interval
from search.settings import settings
from search.statistics import jackknife, jackknife_ratio
from solvers import ScheduleError, SolverSchedule, Step, compile, initial, load, preset, sample
from solvers.grids import named_grid
from teacher import models
from teacher.trajectories import Targets, targets


def pairs(seeds: int, numbers: int) -> torch.Tensor:
    """Two sets of correlated features, [seeds, 2, numbers]."""
    generator = torch.Generator().manual_seed(seeds)
    mix = torch.randn(2, numbers, numbers, generator=generator, dtype=torch.float64)
    return torch.einsum("bki,kij->bkj", torch.randn(seeds, 2, numbers, generator=generator, dtype=torch.float64), mix) + 0.3


@pytest.mark.parametrize(("seeds", "numbers"), [(200, 5), (40, 39), (12, 30)])
def test_the_frechet_distance_is_that_of_the_matrix_root_in_scipy(seeds, numbers):
    both = pairs(seeds, numbers)
    (one, other), (mean, mean_) = both.unbind(1), both.mean(0)
    c, c_ = (np.cov(x.numpy(), rowvar=False) for x in (one, other))
    ridge = 1e-12 * np.eye(numbers)  # scipy's root needs them regular
    wanted = float((mean - mean_).square().sum()) + np.trace(c + c_ - 2 * sqrtm((c + ridge) @ (c_ + ridge)).real)
    assert float(sets.frechet(both)) == pytest.approx(wanted, rel=1e-4)


def test_the_mean_discrepancy_is_its_double_loop():
    both = pairs(15, 4)

    def kernel(x, y):
        return (float(x @ y) / 4 + 1) ** 3

    def mean(xs, ys):
        return sum(kernel(x, y) for x in xs for y in ys) / (len(xs) * len(ys))

    one, other = both.unbind(1)
    assert float(sets.mmd(both)) == pytest.approx(mean(one, one) + mean(other, other) - 2 * mean(one, other))


@pytest.mark.parametrize("distance", [sets.frechet, sets.mmd])
def test_a_distance_of_sets_asks_not_which_member_belongs_to_which(distance):
    both = pairs(20, 6)
    shuffled = torch.stack([both[:, 0], both[torch.randperm(20), 1]], 1)
    torch.testing.assert_close(distance(shuffled), distance(both))
    assert float(distance(both[:, :1].expand(-1, 2, -1))) == pytest.approx(0, abs=1e-9)
    broken = both.clone()
    broken[3, 0, 2] = torch.nan
    many = distance(torch.stack([both, broken]))
    torch.testing.assert_close(many[0], distance(both))
    assert many[1] == torch.inf


def test_features_are_the_classifiers_last_ones_in_the_mean():
    of = _load_or_skip("alex")
    images = _pictures(3)
    scale, net = (of.model.get_submodule(name) for name in ("scaling_layer", "net"))
    whole = net(scale(images))[-1]
    torch.testing.assert_close(of.pooled(images), whole.flatten(2).mean(2), rtol=1e-5, atol=1e-6)
    assert objective("frechet-alex").measure(images, images).shape == (3, 2, 256)
    with pytest.raises(PerceptualError, match="float batch"):
        of.pooled(torch.zeros(2, 5))


def test_lpips_as_an_objective_is_the_mean_of_the_packages():
    of = _load_or_skip("alex")
    one, other = _pictures(4), _pictures(4).flip(0)
    aim = objective("lpips-alex")
    assert float(aim.together(aim.measure(one, other))) == pytest.approx(float(of.model(one, other).mean()), rel=1e-5)


def test_a_jackknife_interval_holds_the_true_mean_about_95_times_in_100():
    generator, hits = torch.Generator().manual_seed(6), 0
    for _ in range(200):
        found = jackknife(torch.rand(160, generator=generator, dtype=torch.float64), lambda e: e.mean(-1))
        hits += found.low <= 0.5 <= found.high
    assert 178 <= hits <= 199
    same = pairs(40, 3)
    assert jackknife_ratio(same, same, sets.mmd) == Interval(1.0, 1.0, 1.0)
    assert all(map(math.isfinite, msgspec.structs.astuple(jackknife(torch.zeros(32, dtype=torch.float64), lambda e: e.mean(-1)))))


def targets_of(teacher, count):
    """Seeds to draw, without the teacher's images: nothing is measured."""
    noise = initial(range(count), teacher.shape, compile(preset("ddim", [teacher.start, teacher.end], teacher.process)))
    return Targets("fit", tuple(range(count)), noise, noise, teacher.conditions(list(range(count))), 0.0, 0)


# --------------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    teacher = models.load("gaussian")
    return teacher, targets(teacher, "fit", 24, root=tmp_path_factory.mktemp("cache"))


def noisy(teacher, eta, count=4):
    grid = named_grid("karras", teacher.process, count, teacher.start, teacher.end)
    steps = tuple(Step(to=t, order=min(2, i + 1), eta=e, noise="sde") for i, (t, e) in enumerate(zip(grid[1:], eta, strict=True)))
    return compile(SolverSchedule(teacher.process, grid[0], steps))


def test_candidates_that_inject_noise_get_the_noise_of_their_seeds_in_any_batch(scene):
    teacher, goal = scene
    tables = [noisy(teacher, eta) for eta in ((0, 0, 0, 0), (0.5, 1, 1, 0), (0, 1, 0, 0), (0.5, 1, 0.3, 0))]
    evaluator = Evaluator(teacher, goal, chunk=50)
    together = dict(evaluator.drawn(tables))
    for index, table in enumerate(tables):
        alone = sample(teacher.denoiser, goal.noise, table, noise=goal.seeds)
        torch.testing.assert_close(together[index].images, alone, rtol=1e-4, atol=1e-5)
    assert evaluator.cost.physical == (1 + 2 + 3 + 4) * 24  # alike until the first different eta


def test_nothing_is_raced_on_sets(scene):
    teacher, goal = scene
    good, bad = (
        compile(preset("ddim", named_grid("karras", teacher.process, n, teacher.start, teacher.end), teacher.process)) for n in (9, 2)
    )
    aim = objective("frechet-pixels")
    race = Race(Evaluator(teacher, goal), aim)
    raced = race.run([bad, good], race.run([good], None)[0].errors)
    assert [r.seeds for r in raced] == [24, 24]
    whole = aim.together(Evaluator(teacher, goal).errors([bad, good], aim.measure))
    assert [r.value for r in raced] == pytest.approx(whole.tolist(), rel=1e-4)
    assert raced[1].value < raced[0].value


def test_an_objective_that_pairs_seeds_refuses_a_space_with_noise():
    space = SMALL["space"] | {"eta": [0.0, 1.0], "space": ["x0", "eps"]}
    with pytest.raises(CampaignError, match=r"leave the teacher's trajectories, so 'rmse' cannot judge them: .* objective=frechet-alex"):
        campaign(settings(SMALL | {"space": space}), Progress(disable=True))


def test_a_campaign_may_search_samplers_that_inject_noise_by_a_distance_of_sets(tmp_path):
    space = SMALL["space"] | {"eta": [0.2, 1.0], "space": ["x0"]}
    names = ["rmse", "seed-rmse", "mmd-pixels", "lpips-alex"]
    budget = {"trials": 16, "known": 8, "generation": 8, "finalists": 4}
    outcome = small(tmp_path / "noisy", space=space, objective="mmd-pixels", compare=names, budget=budget)
    file, page = load(outcome.schedule_file), (tmp_path / "noisy" / "report.html").read_text()
    assert file.tableau.noises
    assert [score.metric for score in file.scores] == ["rmse", "mmd-pixels"]
    assert outcome.found.aim.low <= outcome.found.aim.value <= outcome.found.aim.high
    assert all(trial.seeds == 16 for trial in outcome.trials)  # none was stopped
    assert "(mmd-pixels)" in page
    assert "noise=seeds" in page

    assert outcome.agreement.names == ("rmse", "seed-rmse", "mmd-pixels")  # these samples are no pictures
    taus = np.array(outcome.agreement.taus)
    assert np.array_equal(taus, taus.T)
    assert taus.diagonal() == pytest.approx(1)
    assert taus[0, 1] > 0.5
    assert outcome.agreement.trials == 8
    assert "Do the objectives agree?" in page


def test_guidance_may_be_searched_step_by_step_where_the_model_is_guided():
    words = SMALL | {"model": {"name": "digits", "options": {"guidance": 2.0}}, "nfe": 2}
    words |= {"space": SMALL["space"] | {"answer": ["network"], "knobs": {"guidance": [1.0, 3.0]}}}
    ours = campaign(settings(words), Progress(disable=True))
    steps = ours.space.decode({"gap1": 0.5, "guidance_0": 3.0, "guidance_1": 1.5}).steps
    assert [step.knobs["guidance"] for step in steps] == [3.0, 1.5]
    evaluator = Evaluator(ours.teacher, targets_of(ours.teacher, 2))
    plain, told = (evaluator.images(compile(ours.space.decode({"gap1": 0.5, **g}))) for g in ({}, {"guidance_0": 3.0}))
    assert not torch.allclose(plain, told)
    with pytest.raises(ScheduleError, match="not asked with a knob 'guidance'"):
        campaign(settings(words | {"model": {"name": "digits"}}), Progress(disable=True))


def test_kendalls_tau_of_a_constant_is_nothing():
    assert tau([1, 2, 3], [1, 1, 1]) == 0
    assert tau([1, 2, 3], [3, 2, 1]) == -1


def test_several_objectives_are_the_geometric_mean_of_each_seeds_errors(tmp_path):
    generator = torch.Generator().manual_seed(0)
    found, wanted = torch.randn(2, 6, 9, generator=generator)
    both, squares, l1 = objective("rmse+l1"), objective("rmse"), objective("l1")
    errors = both.measure(found, wanted)
    torch.testing.assert_close(errors, (squares.measure(found, wanted).sqrt() * l1.measure(found, wanted)).sqrt())
    assert float(both.together(errors)) == pytest.approx(float(errors.mean()))
    for name, sentence in (("rmse+frechet-pixels", "Only errors of seeds"), ("rmse+", "no objective ''"), ("rmse+beauty", "'beauty'")):
        with pytest.raises(CampaignError, match=sentence):
            objective(name)
    outcome = small(tmp_path / "both", objective="rmse+seed-rmse", budget={"trials": 16, "known": 16, "generation": 8, "finalists": 2})
    assert outcome.objective == "rmse+seed-rmse"
    assert outcome.found.aim.value == pytest.approx(outcome.baseline.aim.value * outcome.found.aim_ratio.value)
