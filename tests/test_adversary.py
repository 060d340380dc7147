"""Learning against an opponent: it learns to tell samples from the teacher's, its term is in the gradient, and a kill changes nothing."""

import msgspec
import pytest
import torch
from test_fit import RMSE, start

from search.adam import Adam, Mover, Play, gradient
from search.adversary import Adversary, Opponent
from search.errors import CampaignError
from search.fit import Fit, Point
from search.learner import Learner
from search.residuals import batches
from search.task import Task
from teacher.models import digits, load
from teacher.trajectories import targets


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    teacher = digits()
    return teacher, targets(teacher, "fit", 4, tolerance=0.05, root=tmp_path_factory.mktemp("cache"))


def test_an_opponent_learns_to_tell_samples_from_the_teachers_and_its_slope_is_that_of_its_loss():
    generator = torch.Generator().manual_seed(0)
    teachers = torch.randn(16, 1, 12, 12, generator=generator)
    samples = teachers + 0.5 * torch.linspace(-1, 1, 12)
    judge = Opponent(1)
    mover = Mover.read({}, "opponent", judge.start)
    before = judge.term(mover.at, samples, teachers).mean()
    for _ in range(60):
        mover = mover.step(judge.slope(mover.at, samples, teachers, 0.1), 3e-3)
    assert judge.term(mover.at, samples, teachers).mean() > before + 0.5  # what the sampler would make small
    assert (judge.says(mover.at, teachers) > judge.says(mover.at, samples)).float().mean() > 0.9

    slope, direction, h = judge.slope(mover.at, samples, teachers, 0.0), torch.randn(len(mover.at), generator=generator), 1e-4
    with torch.no_grad():
        said = [judge.says(at, samples) - judge.says(at, teachers) for at in (mover.at + h * direction, mover.at - h * direction)]
    ends = [torch.nn.functional.softplus(apart).mean() for apart in said]
    assert float(slope @ direction) == pytest.approx(float(ends[0] - ends[1]) / (2 * h), rel=0.02)


def test_a_steep_opponent_is_held_by_its_penalty():
    pictures = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))

    def steepness(penalty):
        judge = Opponent(1)
        mover = Mover.read({}, "opponent", judge.start)
        for _ in range(40):
            mover = mover.step(judge.slope(mover.at, pictures + 1, pictures, penalty), 3e-3)
        asked = pictures.clone().requires_grad_()
        return torch.autograd.grad(judge.says(mover.at, asked).sum(), asked)[0].norm()

    assert steepness(10.0) < 0.5 * steepness(0.0)


def test_the_gradient_has_the_opponents_term_beside_the_loss(scene):
    teacher, goal = scene
    fit = Fit(teacher, start(teacher, "unipc-2", 3), goal, goal, Learner(level="times", optimiser="adam"))
    form, parts = fit.form(0), batches(teacher, goal, 4)
    task, theta, h = Task(form, RMSE, 0.0, parts), form.zeros(), 1e-2
    judge = Opponent(1)
    still = Mover.read({}, "opponent", 3 * judge.start)
    own = gradient(task, 0, theta)
    play = Play(judge, still, Adversary(weight=1.0, rate=1e-12), 2.0)
    found = gradient(task, 0, theta, "full", play) - own

    def term(at):
        _, end = parts[0].traced(form.table(at), "full")
        return float(2.0 * judge.term(still.at, end, parts[0].wanted).mean().detach())

    for direction, ours in zip(torch.eye(form.count, dtype=torch.float64), found, strict=True):
        assert float(ours) == pytest.approx((term(h * direction) - term(-h * direction)) / (2 * h), rel=0.05, abs=1e-5)
    assert float(found.norm()) > 0
    assert not torch.equal(play.opponent.at, still.at)  # it moved, before the sampler did


def test_a_game_that_is_taken_up_goes_on_to_the_same_bits(scene):
    teacher, goal = scene
    how, rows = (Adam(memory=memory, adversary=Adversary(weight=0.1)) for memory in ("full", "rows"))
    learner = Learner(level="times", optimiser="adam", iterations=4, patience=9, shrink=(1e-4,), adam=how, batch=2)
    points = list(Fit(teacher, start(teacher, "unipc-2", 3), goal, goal, learner).run())
    written = msgspec.json.decode(msgspec.json.encode(points[2]), type=Point)
    *_, last = Fit(teacher, start(teacher, "unipc-2", 3), goal, goal, learner).run(written)
    assert last == points[-1]
    *_, thrifty = Fit(teacher, start(teacher, "unipc-2", 3), goal, goal, msgspec.structs.replace(learner, adam=rows)).run()
    assert thrifty.theta == pytest.approx(last.theta, rel=1e-4, abs=1e-6)
    alone = msgspec.structs.replace(learner, adam=Adam())
    *_, without = Fit(teacher, start(teacher, "unipc-2", 3), goal, goal, alone).run()
    assert without.theta != last.theta


def test_an_adversary_is_refused_where_it_cannot_play():
    how = Adam(adversary=Adversary(weight=0.1))
    with pytest.raises(CampaignError, match="Only Adam plays"):
        Learner(adam=how)
    with pytest.raises(CampaignError, match="Only Adam plays"):
        Learner(optimiser="adam", objective="trajectory", adam=msgspec.structs.replace(how, memory="greedy"))
    with pytest.raises(CampaignError, match="makes no pictures, so an adversary"):
        Learner(optimiser="adam", adam=how).require(load("gaussian"), 4)
