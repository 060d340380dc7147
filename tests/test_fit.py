"""Learning: it starts exactly at the schedule it was given, its Jacobian is exact, and it helps."""

import itertools

import pytest
import torch
from oracle import EVERYWHERE

from search.errors import CampaignError
from search.fit import Learner, Parametrisation, fit, normal_equations, residual_function, rmse_of
from solvers import compile, preset
from solvers.grids import named_grid
from teacher.models import digits, load
from teacher.trajectories import targets


def start(teacher, name="dpmpp-2m", steps=5):
    return preset(name, named_grid("karras", teacher.process, steps, teacher.start, teacher.end), teacher.process)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    teacher, root = load("gaussian"), tmp_path_factory.mktemp("cache")
    return teacher, targets(teacher, "fit", 32, root=root), targets(teacher, "select", 32, root=root)


@pytest.mark.parametrize("name", EVERYWHERE)
@pytest.mark.parametrize("level", ["times", "times+labels"])
def test_iteration_zero_is_the_schedule_itself(scene, name, level):
    teacher, _, _ = scene
    schedule = start(teacher, name)
    form = Parametrisation(schedule, level)
    zero = torch.zeros(form.count, dtype=torch.float64)
    ours, theirs = compile(form.apply(zero)).dense(), compile(schedule).dense()
    torch.testing.assert_close(ours.B, theirs.B, rtol=1e-9, atol=1e-10)
    times, labels = form(zero)
    torch.testing.assert_close(compile(schedule, times, labels).dense().B, theirs.B, rtol=1e-9, atol=1e-10)


def test_the_jacobian_is_that_of_finite_differences_through_the_whole_sampler(scene):
    teacher, goal, _ = scene
    form = Parametrisation(start(teacher, "unipc-2"), "times+labels")
    residual = residual_function(teacher, form, goal.noise.double(), goal.images.double(), None)
    theta = 0.1 * torch.randn(form.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for direction in torch.eye(form.count, dtype=torch.float64):
        _, slope = torch.func.jvp(residual, (theta,), (direction,))
        h = 1e-5
        difference = (residual(theta + h * direction) - residual(theta - h * direction)) / (2 * h)
        torch.testing.assert_close(slope, difference, rtol=1e-5, atol=1e-7)


def test_streaming_over_batches_changes_nothing_but_rounding(scene):
    teacher, goal, _ = scene
    form = Parametrisation(start(teacher), "times")
    theta = torch.zeros(form.count, dtype=torch.float64)
    whole, split = (normal_equations(teacher, form, theta, goal, batch) for batch in (32, 7))
    torch.testing.assert_close(whole[0], split[0], rtol=1e-4, atol=1e-9)
    assert whole[2] == pytest.approx(split[2], rel=1e-5)


@pytest.mark.parametrize("level", ["times", "times+labels"])
def test_learning_lowers_the_error_on_seeds_it_did_not_see(scene, level):
    teacher, fit_on, select_on = scene
    path = list(fit(teacher, start(teacher), fit_on, select_on, Learner(level=level, iterations=6)))
    assert all(after.fit < before.fit for before, after in itertools.pairwise(path))
    assert min(state.select for state in path) < 0.8 * path[0].select


def test_learning_runs_forward_mode_through_the_real_network(tmp_path):
    teacher = digits()
    goal = targets(teacher, "fit", 2, tolerance=0.05, root=tmp_path)
    form = Parametrisation(start(teacher, steps=3), "times+labels")
    squares, slope, error = normal_equations(teacher, form, torch.zeros(form.count, dtype=torch.float64), goal, 2)
    assert bool(torch.isfinite(squares).all())
    assert bool(torch.isfinite(slope).all())
    assert error == pytest.approx(rmse_of(teacher, form.schedule, goal, 2), rel=1e-4)


def test_an_unknown_level_names_the_known_ones(scene):
    with pytest.raises(CampaignError, match="times, times\\+labels"):
        Parametrisation(start(scene[0]), "everything")
