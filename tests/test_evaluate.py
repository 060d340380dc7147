"""Batched evaluation against one candidate at a time, and the statistics on top of it."""

from dataclasses import replace

import pytest
import torch
from test_space import random_points

from search.evaluate import Evaluator
from search.objective import objective, root_mean, squared
from search.race import Race, clearly_worse, hopeless
from search.space import Space
from search.statistics import interval, ratio
from solvers import SolverSchedule, Step, compile, initial, preset, sample
from solvers.grids import named_grid
from teacher.models import load
from teacher.trajectories import targets


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    teacher = load("gaussian")
    return teacher, targets(teacher, "fit", 12, root=tmp_path_factory.mktemp("cache"))


def test_many_candidates_at_once_score_as_one_at_a_time(scene):
    teacher, goal = scene
    space = Space(teacher.process, teacher.start, teacher.end, 4)
    tables = [compile(space.decode(params)) for params in random_points(space, 9)]
    evaluator = Evaluator(teacher, goal, chunk=50)
    together = evaluator.errors(tables)
    for table, row in zip(tables, together, strict=True):
        alone = squared(sample(teacher.denoiser, goal.noise, table), goal.images)
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-9)
    assert evaluator.cost.logical == 9 * 4 * 12
    at_start = sum(table.rows[0].evaluation is not None for table in tables)
    assert 1 < at_start < 9  # the others guess their first answer, each going its own way
    assert evaluator.cost.physical == (9 * 4 - (at_start - 1)) * 12  # the evaluation at x_T once for all


@pytest.mark.parametrize("workers", [1, 3])
def test_no_call_of_the_network_is_larger_than_a_chunk_and_no_worker_is_left_without(scene, workers):
    teacher, goal = scene
    sizes = []

    def denoiser(x, at, **options):
        sizes.append(len(x))
        return teacher.denoiser(x, at, **options)

    times = named_grid("karras", teacher.process, 2, teacher.start, teacher.end)
    tables = [compile(preset(name, times, teacher.process)) for name in ("ddim", "dpmpp-2m")]
    whole = Evaluator(teacher, goal, chunk=1000).errors(tables)
    parts = Evaluator(replace(teacher, denoiser=denoiser), goal, chunk=5, workers=workers).errors(tables)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-9)
    assert max(sizes) <= 5 < len(goal.seeds)
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) % workers == 0


def test_candidates_that_begin_alike_share_their_evaluations_until_they_part(scene):
    teacher, goal = scene
    times = named_grid("karras", teacher.process, 5, teacher.start, teacher.end)
    whole = preset("dpmpp-2m", times, teacher.process)
    late = SolverSchedule(whole.process, whole.start, (*whole.steps[:3], Step(to=times[4]), whole.steps[4]))
    early = SolverSchedule(whole.process, whole.start, (Step(to=times[1] * 1.1), *whole.steps[1:]))
    tables = [compile(schedule) for schedule in (whole, late, early, whole)]
    evaluator = Evaluator(teacher, goal)
    together = evaluator.errors(tables)
    alone = torch.cat([Evaluator(teacher, goal).errors([table]) for table in tables])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-9)
    assert evaluator.cost.logical == 4 * 5 * 12
    assert evaluator.cost.physical == (1 + 2 + 2 + 2 + 3) * 12  # early parts after the first, late before the last


def test_candidates_may_carry_knobs_of_their_own(scene):
    teacher, goal = scene
    seen = []

    def denoiser(x, at, cond=None, strength=1.0, **knobs):
        seen.append(strength)
        return strength * teacher.denoiser(x, at, cond=cond, **knobs)

    told = replace(teacher, denoiser=denoiser)
    times = named_grid("karras", teacher.process, 3, teacher.start, teacher.end)

    def table(strength: float):
        steps = (Step(to=times[1]), Step(to=times[2], knobs={"strength": strength}), Step(to=times[3]))
        return compile(SolverSchedule(teacher.process, times[0], steps))

    one, other = Evaluator(told, goal).errors([table(1.0), table(0.5)])
    assert sorted(set(seen)) == [0.5, 1.0]
    torch.testing.assert_close(one, Evaluator(told, goal).errors([table(1.0)])[0])
    torch.testing.assert_close(other, Evaluator(told, goal).errors([table(0.5)])[0])


def test_candidates_of_different_budgets_can_be_scored_together(scene):
    teacher, goal = scene
    tables = [
        compile(preset("ddim", named_grid("karras", teacher.process, n, teacher.start, teacher.end), teacher.process)) for n in (3, 5, 3)
    ]
    found = Evaluator(teacher, goal).errors(tables)
    assert torch.equal(found[0], found[2])
    assert float(found[1].mean()) < float(found[0].mean())


def test_the_teachers_own_images_have_no_error_but_its_tolerance(scene):
    teacher, goal = scene
    assert goal.error < 1e-3
    fine = compile(preset("unipc-3", named_grid("karras", teacher.process, 200, teacher.start, teacher.end), teacher.process, tail="full"))
    assert float(root_mean(Evaluator(teacher, goal).errors([fine])[0])) < 1e-3


def test_samples_start_from_noise_of_the_teachers_scale(scene):
    teacher, goal = scene
    table = compile(preset("ddim", [teacher.start, teacher.end], teacher.process))
    assert torch.equal(goal.noise, initial(goal.seeds, teacher.shape, table))


def test_a_bootstrap_interval_holds_the_true_mean_about_95_times_in_100():
    generator = torch.Generator().manual_seed(3)
    hits = 0
    for _ in range(200):
        found = interval(torch.randn(60, generator=generator, dtype=torch.float64) + 2, lambda e: e.mean(-1))
        hits += found.low <= 2 <= found.high
    assert 180 <= hits <= 198


def test_a_paired_ratio_is_far_narrower_than_an_unpaired_one():
    generator = torch.Generator().manual_seed(4)
    hard = torch.rand(100, generator=generator, dtype=torch.float64) ** 4  # a few seeds carry the error
    paired = ratio(0.5 * hard, hard, root_mean)
    alone = interval(hard, root_mean)
    assert paired.low == pytest.approx(0.5**0.5)
    assert paired.high == pytest.approx(0.5**0.5)
    assert (alone.high - alone.low) / alone.value > 0.2


def test_an_unknown_objective_names_the_known_ones():
    from search.errors import CampaignError

    with pytest.raises(CampaignError, match="rmse, l1, lpips-alex"):
        objective("fid")


def test_a_race_without_an_incumbent_is_the_whole_evaluation(scene):
    teacher, goal = scene
    space, rmse = Space(teacher.process, teacher.start, teacher.end, 4), objective("rmse")
    tables = [compile(space.decode(params)) for params in random_points(space, 5)]
    raced = Race(Evaluator(teacher, goal), rmse).run(tables, None)
    whole = rmse.together(Evaluator(teacher, goal).errors(tables))
    assert [r.seeds for r in raced] == [12] * 5
    assert [r.value for r in raced] == pytest.approx(whole.tolist(), rel=1e-5)


def test_a_race_goes_on_with_what_is_worse_on_most_seeds_and_better_in_the_objective():
    ordinary, wild, rmse = torch.full((122,), 0.02, dtype=torch.float64), torch.full((6,), 0.5, dtype=torch.float64), objective("rmse")
    reference = torch.cat([ordinary, wild]).square()
    steadier = torch.cat([2 * ordinary, 0.84 * wild]).square()
    assert clearly_worse(steadier, reference, 0.05 / 7)
    assert not hopeless(steadier, reference, 0.05 / 7, rmse)
    assert hopeless(torch.cat([2 * ordinary, wild]).square(), reference, 0.05 / 7, rmse)


def test_one_seed_shows_nothing_to_be_worse():
    assert not clearly_worse(torch.tensor([4.0]), torch.tensor([1.0]), 0.05)


def test_a_race_stops_what_is_clearly_worse_and_lets_the_better_and_the_same_finish(scene):
    teacher, goal = scene

    def table(steps):
        grid = named_grid("karras", teacher.process, steps, teacher.start, teacher.end)
        return compile(preset("dpmpp-2m", grid, teacher.process))

    race = Race(Evaluator(teacher, goal), objective("rmse"))
    (incumbent,) = race.run([table(6)], None)
    worse, same, better = race.run([table(3), table(6), table(12)], incumbent.errors)
    assert same.value == pytest.approx(incumbent.value, rel=1e-5)
    assert worse.seeds < 12
    assert (same.seeds, better.seeds) == (12, 12)
    assert better.value < same.value < worse.value


def test_a_race_stops_an_equal_candidate_no_more_often_than_its_stated_risk():
    generator, stopped, rounds = torch.Generator().manual_seed(5), 0, 400
    for _ in range(rounds):
        mine, other = (torch.randn(48, generator=generator, dtype=torch.float64).exp() for _ in range(2))
        stopped += any(clearly_worse(mine[:n], other, 0.05 / 3) for n in (16, 32, 48))
    assert stopped / rounds <= 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5
