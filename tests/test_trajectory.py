"""Learning by states and by relaxed noise: the teacher's own way is the target, and one evaluation is held where that is promised."""

import dataclasses
import weakref

import msgspec
import pytest
import torch
from test_fit import RMSE, moved, start, the_jacobian_is_exact

from search.adam import Adam, gradient
from search.fit import Fit, Point
from search.learner import Learner
from search.losses import Loss
from search.marquardt import normal_equations
from search.parametrise import Parametrisation
from search.relaxed import relaxed
from search.residuals import batches
from search.task import Task
from search.trajectory import trajectory_batches
from solvers import compile
from teacher.models import digits, load
from teacher.trajectories import targets


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    teacher, root = load("gaussian"), tmp_path_factory.mktemp("cache")
    return teacher, targets(teacher, "fit", 32, root=root), targets(teacher, "select", 32, root=root)


@pytest.mark.parametrize("name", ["unipc-2", "heun"])
def test_the_trajectory_of_a_fine_sampler_is_the_teachers_and_its_jacobian_is_exact(scene, name):
    teacher, goal, _ = scene
    goal = dataclasses.replace(goal, noise=goal.noise[:8].double(), images=goal.images[:8].double(), seeds=goal.seeds[:8])
    (part,) = trajectory_batches(teacher, goal, 8)
    fine, coarse = (float(part.residual(compile(start(teacher, name, steps)), RMSE.view).square().mean().sqrt()) for steps in (64, 4))
    assert fine < 2e-3 < 0.1 * coarse
    form = Parametrisation(start(teacher, name, 4), "weights", "relaxed")
    assert part.residual(form(form.zeros()), RMSE.view).shape == (8, (compile(form.schedule).nfe + 1) * goal.images[0].numel())
    the_jacobian_is_exact(part, form, 1e-6, 1e-4, 1e-6)


def test_a_greedy_gradient_lets_no_state_pay_for_an_earlier_mistake(scene):
    teacher, goal, _ = scene
    goal = dataclasses.replace(goal, noise=goal.noise.double(), images=goal.images.double())
    form = Parametrisation(start(teacher, "dpmpp-2m", 4), "rows", "relaxed")
    task = Task(form, Loss("trajectory"), 0.1, trajectory_batches(teacher, goal, 32))
    theta = moved(form)
    whole, rows, greedy = (gradient(task, 0, theta, memory) for memory in ("full", "rows", "greedy"))
    torch.testing.assert_close(whole, rows)
    torch.testing.assert_close(whole, 2 * (normal_equations(task, theta, 0.0)[1] + task.shrink * theta), rtol=1e-6, atol=1e-9)
    last = [2 * form.inner + k for k, (row, _) in enumerate(form.deltas) if row == 4]  # they move the end, and nothing after it
    torch.testing.assert_close(greedy[last], whole[last])
    assert not torch.allclose(greedy[: 2 * form.inner], whole[: 2 * form.inner], rtol=0.1)
    for ours, theirs in zip(task.parts[0].greedy(form(theta), RMSE.view), by_state(task.parts[0], form, theta), strict=True):
        torch.testing.assert_close(ours.detach(), theirs)


@pytest.mark.parametrize(("name", "steps", "level"), [("ddim", 1, "weights"), ("dpmpp-2m", 5, "compensation"), ("epd", 3, "parallel")])
def test_what_moves_nothing_before_a_state_has_no_greedy_gradient_there(scene, name, steps, level):
    teacher, goal, _ = scene
    form = Parametrisation(start(teacher, name, steps), level, "relaxed")
    task = Task(form, Loss("trajectory"), 0.0, trajectory_batches(teacher, goal, 32))
    slope = gradient(task, 0, form.zeros(), "greedy")
    assert bool(slope.isfinite().all())
    assert float(slope.norm()) > 0


def held(work) -> int:
    """The most numbers that graphs hold at once while it runs; what a checkpoint computes again is not seen."""
    held, most, alive = 0, 0, weakref.WeakSet()

    def pack(tensor):
        nonlocal held, most
        kept = Kept(tensor.detach())
        alive.add(kept)
        most = max(most, sum(k.tensor.numel() for k in alive))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        work()
    return most


class Kept:
    """A tensor that can be counted while somebody holds it."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_a_greedy_gradient_and_a_relaxed_teacher_hold_one_evaluation_however_many_there_are(tmp_path):
    teacher = digits()
    goal = targets(teacher, "fit", 2, tolerance=0.05, root=tmp_path)
    (whole,) = trajectory_batches(teacher, goal, 2)

    def of(steps, memory):
        form = Parametrisation(start(teacher, "dpmpp-2m", steps), "weights", "relaxed")
        task = Task(form, Loss("trajectory"), 0.0, [whole])
        if memory == "relaxed":
            return held(lambda: relaxed(whole, form.table(form.zeros()), RMSE.view, 0.01))
        return held(lambda: gradient(task, 0, form.zeros(), memory))

    one = of(2, "full")  # the first answer is fixed
    assert of(5, "full") > 2 * one
    assert of(5, "greedy") < 1.1 * one
    assert of(5, "rows") < 0.1 * one
    assert of(5, "relaxed") < 0.1 * one


def by_state(part, form, theta):
    """The residual of every state, and of the end."""
    return part.residual(form.table(theta), RMSE.view).unflatten(1, (-1, part.wanted[0].numel())).unbind(1)


@pytest.mark.parametrize("memory", ["full", "greedy"])
def test_learning_by_the_trajectory_lowers_it_on_seeds_it_did_not_see(scene, memory):
    teacher, fit_on, select_on = scene
    how = Learner(level="weights", objective="trajectory", iterations=20, optimiser="adam", adam=Adam(memory=memory), shrink=(1e-4,))
    *_, last = Fit(teacher, start(teacher), fit_on, select_on, how).run()
    assert min(entry.select for entry in last.curve) < 0.8 * last.curve[0].select


def test_fits_that_learn_states_are_chosen_by_their_ends_and_share_what_they_know(scene):
    teacher, fit_on, select_on = scene
    learner = Learner(level="times", objective="trajectory", iterations=2)
    fit = Fit(teacher, start(teacher), fit_on, select_on, learner)
    *_, last = fit.run()
    for best, table in ((last.curve[0].select ** 2, compile(fit.schedule)), (last.best, fit.table(last))):
        assert best == pytest.approx(float(fit.costs(batches(teacher, select_on, 16), table, RMSE).mean()))
    assert Fit(teacher, start(teacher, "ddim"), fit_on, select_on, learner, beside=fit).fit_on is fit.fit_on


def test_relaxed_noise_stays_in_its_ball_and_ends_nearer_to_the_teacher(scene):
    teacher, goal, _ = scene
    (part,), table = batches(teacher, goal, 32), compile(start(teacher, "ddim", 4))
    before = part.residual(table, RMSE.view).norm(dim=1)
    last = before
    for radius in (1e-3, 1e-2, 1.0):
        there = relaxed(part, table, RMSE.view, radius)
        assert bool(((there.noise - part.noise).norm(dim=1) <= 1.0001 * radius * part.noise.norm(dim=1)).all())
        after = there.residual(table, RMSE.view).norm(dim=1)
        assert bool((after < last).all())
        last = after
    nowhere = relaxed(part, table, RMSE.view, 0.0).noise
    assert torch.equal(nowhere, part.noise)


def test_a_fit_with_a_relaxed_teacher_is_chosen_on_true_noise(scene):
    teacher, fit_on, select_on = scene
    fit = Fit(teacher, start(teacher), fit_on, select_on, Learner(level="times", optimiser="lm", relax=0.01, iterations=4))
    points = list(fit.run())
    last = points[-1]
    *_, again = Fit(teacher, start(teacher), fit_on, select_on, fit.learner).run(
        msgspec.json.decode(msgspec.json.encode(points[2]), type=Point)
    )
    assert again == last
    for point in points[1:3]:
        true = fit.costs(batches(teacher, fit_on, 16), fit.form(0).table(torch.tensor(point.theta, dtype=torch.float64)), RMSE)
        assert point.curve[-1].fit == pytest.approx(float(true.mean().sqrt()))  # not that of the noise it was moved to
    assert last.best < last.curve[0].select ** 2
    table = fit.table(last)
    assert float(fit.costs(batches(teacher, select_on, 16), table, RMSE).mean()) == pytest.approx(last.best)
