"""Learning: it starts exactly at the schedule it was given, its Jacobian is exact, it helps, and a kill changes nothing."""

import dataclasses
import hashlib
import itertools
import math

import msgspec
import pytest
import torch
from oracle import EVERYWHERE
from rich.progress import Progress
from torch._C._functorch import peek_interpreter_stack

from search import baselines, emulator
from search.adam import Adam, gradient, trimmed
from search.emulated import Surrogate, surrogate
from search.errors import CampaignError
from search.fit import Fit, Point
from search.follow import followed
from search.learn import learn, lesson
from search.learner import Learner
from search.losses import LOSSES, Loss
from search.marquardt import normal_equations
from search.parametrise import CONSISTENCY, LEVELS, NESTED, Parametrisation
from search.perceptual import PerceptualError
from search.records import Known
from search.residuals import Batch, batches, jacobians, linearise
from search.space import table_distance
from search.starts import Start, distinct, of_files
from search.task import Task
from solvers import PRESETS, At, ScheduleError, Tableau, compile, preset, process, save
from solvers import load as read
from solvers.grids import named_grid
from teacher.analytic import mixture
from teacher.denoiser import Teacher
from teacher.models import digits, load
from teacher.trajectories import targets

RMSE = Loss("rmse")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def start(teacher, name="dpmpp-2m", steps=5):
    return preset(name, named_grid("karras", teacher.process, steps, teacher.start, teacher.end), teacher.process)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    teacher, root = load("gaussian"), tmp_path_factory.mktemp("cache")
    return teacher, targets(teacher, "fit", 32, root=root), targets(teacher, "select", 32, root=root)


@pytest.mark.parametrize("level", ["weights", "rows"])
def test_iteration_zero_is_the_schedule_itself_where_the_process_reverts_to_a_mean(level):
    schedule = preset("dpmpp-2m", [1.0, 0.8, 0.5, 0.2, 0.01], process("mean-reverting"))
    form = Parametrisation(schedule, level, "relaxed")
    assert form.table(form.zeros()).apart(compile(schedule)) < 1e-12  # mu is a part of it


@pytest.mark.parametrize("name", [name for name in EVERYWHERE if PRESETS[name].noise == "none"])
@pytest.mark.parametrize(("level", "consistency"), [("times+labels", "kept"), ("weights", "kept"), ("rows", "relaxed")])
def test_iteration_zero_is_the_schedule_itself(scene, name, level, consistency):
    schedule = start(scene[0], name)
    form = Parametrisation(schedule, level, consistency)
    assert table_distance(form.table(form.zeros()), compile(schedule)) < 1e-14
    assert table_distance(form(form.zeros()).settled(), compile(schedule)) < 1e-14


def test_seeds_that_fits_share_are_asked_again_where_another_schedule_has_other_knobs(scene):
    def denoiser(x, at, *, cond=None, guidance=1.0):
        return guidance * scene[0].denoiser(x, at)

    teacher = dataclasses.replace(scene[0], denoiser=denoiser)
    tables = []
    for guidance in (1.0, 3.0):
        schedule = start(teacher)
        first = msgspec.structs.replace(schedule.steps[0], knobs={"guidance": guidance})
        tables.append(compile(msgspec.structs.replace(schedule, steps=(first, *schedule.steps[1:]))))
    (shared,), (alone,) = batches(teacher, scene[1], 32), batches(teacher, scene[1], 32)
    shared.residual(tables[0], RMSE.view)
    assert torch.equal(shared.residual(tables[1], RMSE.view), alone.residual(tables[1], RMSE.view))


def test_a_place_that_is_taken_is_refused_before_anything_is_learned(scene, tmp_path):
    schedule = start(scene[0])
    path = tmp_path / "a.schedule.json"
    save(compile(schedule), path, recipe=schedule, fitted_for=scene[0].card)
    asked = {"schedule": str(path), "seeds": {"fit": 8, "select": 8, "test": 8}, "out": str(tmp_path)}
    with pytest.raises(CampaignError, match="there already"):
        learn(lesson(asked), Progress(disable=True))
    assert [file.name for file in tmp_path.iterdir()] == ["a.schedule.json"]


@pytest.mark.parametrize("name", ["dpmpp-2m", "heun"])
def test_rows_without_steps_are_learned_from_where_they_can_be_written_as_steps(scene, name, tmp_path):
    table, path, words = compile(start(scene[0], name)), tmp_path / "a.schedule.json", (None, True, Learner())
    save(table, path, process=scene[0].process)
    if name == "heun":
        with pytest.raises(CampaignError, match=r"a\.schedule\.json carries rows but no steps .* twice at one noise level"):
            of_files([str(path)], scene[0], *words)
    else:
        (found,) = of_files([str(path)], scene[0], *words)
        assert table_distance(compile(found.schedule), table) < 1e-12


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc-3", "deis-tab2", "dc-solver"])
def test_compensation_starts_at_the_schedule_and_its_recipe_is_its_table(scene, name):
    schedule = start(scene[0], name)
    form = Parametrisation(schedule, "compensation")
    assert form.count == 3
    assert table_distance(form.table(form.zeros()), compile(schedule)) < 1e-14
    assert table_distance(form(moved(form)).settled(), compile(form.recipe(moved(form)))) < 1e-14


def suited(teacher, level):
    """A schedule that the level can move."""
    return start(teacher, "epd", 3) if level == "parallel" else start(teacher)


@pytest.mark.parametrize("name", ["epd", "amed"])
@pytest.mark.parametrize("end", ["noisy", "clean"])
def test_parallel_evaluations_move_inside_their_steps_and_the_times_stay(scene, name, end):
    teacher = scene[0]
    times = named_grid("karras", teacher.process, 4, teacher.start, teacher.end)
    schedule = preset(name, [*times[:-1], 0.0] if end == "clean" else times, teacher.process)
    form = Parametrisation(schedule, "parallel")
    steps = 3 if end == "clean" else 4  # to sigma = 0 a step is of first order
    assert form.count == steps * (7 if name == "epd" else 3)
    assert table_distance(form.table(form.zeros()), compile(schedule)) < 1e-14
    found = form.recipe(moved(form, 2.0))
    assert found.times == schedule.times
    assert all(0 < value < 1 for step in found.steps for number, value in step.numbers.items() if number.startswith("at"))
    assert table_distance(form(moved(form)).settled(), compile(form.recipe(moved(form)))) < 1e-12


def as_it_is(schedule):
    return schedule


def guessing(schedule):
    """The same with a first answer that is guessed: the first state that is evaluated moves then too."""
    first = msgspec.structs.replace(schedule.steps[0], answer="unit-eps")
    return msgspec.structs.replace(schedule, steps=(first, *schedule.steps[1:]))


@pytest.mark.parametrize("level", [*NESTED, "compensation"])
def test_a_guessed_first_answer_is_kept_and_the_noise_starts_where_it_did(scene, level, tmp_path):
    schedule = guessing(start(scene[0], "unipc-2"))
    form = Parametrisation(schedule, level, "relaxed")
    assert table_distance(form(form.zeros()).settled(), compile(schedule)) < 1e-14
    table = form.table(moved(form))
    save(table, tmp_path / "a.schedule.json", process=schedule.process)
    for one in (table, read(tmp_path / "a.schedule.json").tableau):
        assert one.initial_sigma == compile(schedule).initial_sigma
        assert one.nfe == 4


def moved(form, scale=0.1):
    return scale * torch.randn(form.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("consistency", CONSISTENCY)
def test_levels_are_nested_so_that_zeros_change_nothing(scene, consistency):
    forms = [Parametrisation(start(scene[0], "unipc-2"), level, consistency) for level in NESTED]
    counts = [form.count for form in forms]
    assert counts == sorted(set(counts))
    for less, more in itertools.pairwise(forms):
        theta = moved(less)
        padded = torch.cat([theta, torch.zeros(more.count - less.count, dtype=torch.float64)])
        assert table_distance(less(theta).settled(), more(padded).settled()) < 1e-12


@pytest.mark.parametrize("name", ["dpmpp-2m", "ipndm", "heun"])
def test_kept_consistency_solves_a_point_mass_exactly_wherever_theta_is(scene, name):
    teacher = scene[0]
    form = Parametrisation(start(teacher, name, 4), "rows", "kept")
    table, process = form.table(moved(form)), teacher.process
    x0, noise = torch.randn(2, 7, dtype=torch.float64)
    dense, first = table.dense(), table.evals[0]
    x = first.alpha * x0 + first.sigma * noise
    for a, b, t in zip(dense.a, dense.B, table.times, strict=True):
        torch.testing.assert_close(a * x + b.sum() * x0, process.alpha(t) * x0 + process.sigma(t) * noise, rtol=1e-12, atol=1e-12)


def test_the_rows_level_reaches_every_table_over_the_full_history(scene):
    """Relaxed, the derivative of the dense table in theta has full rank: nothing that GS or BNS can express is left out."""
    form = Parametrisation(start(scene[0], "ddim", 4), "rows", "relaxed")
    nfe = 4

    def flat(theta):
        dense = form(theta).dense()
        return torch.cat([dense.a[1:], *(dense.B[r, :r] for r in range(1, nfe + 1))])

    jacobian = torch.func.jacfwd(flat)(moved(form))
    assert int(torch.linalg.matrix_rank(jacobian)) == nfe + nfe * (nfe + 1) // 2


def the_jacobian_is_exact(part, form, h, rtol, atol):
    """Forward mode against finite differences of width h, away from the start."""
    theta = moved(form)
    ((value, jacobian),) = jacobians([part], form, theta, RMSE.view, 0.0)
    torch.testing.assert_close(value, part.residual(form(theta), RMSE.view))
    for direction, column in zip(torch.eye(form.count, dtype=torch.float64), jacobian, strict=True):
        ends = [part.residual(form(theta + sign * h * direction), RMSE.view) for sign in (1, -1)]
        torch.testing.assert_close(column, (ends[0] - ends[1]) / (2 * h), rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("name", "change", "level", "consistency"),
    [
        ("unipc-2", as_it_is, "rows", "relaxed"),
        ("heun", as_it_is, "weights", "kept"),
        ("dpmpp-2m", guessing, "rows", "relaxed"),
        ("unipc-2", as_it_is, "compensation", "kept"),
        ("epd", as_it_is, "parallel", "kept"),
    ],
)
def test_the_jacobian_is_that_of_finite_differences_through_the_whole_sampler(scene, name, change, level, consistency):
    teacher, goal, _ = scene
    form = Parametrisation(change(start(teacher, name, 4)), level, consistency)
    part = Batch(teacher, goal.noise[:8].double(), goal.images[:8].double(), None)
    the_jacobian_is_exact(part, form, 1e-5, 1e-5, 1e-7)


def test_a_parameter_costs_evaluations_only_after_the_row_it_moves(scene):
    teacher, goal, _ = scene
    form = Parametrisation(start(teacher, "ddim", 4), "rows", "kept")
    numbers, tangents = linearise(form, moved(form))
    asked = []

    class Counting:
        knobs = ()

        def denoiser(self, x, at: At, **_):
            asked.append(at)
            return teacher.denoiser(x, at)

    part = Batch(Counting(), goal.noise[:2], goal.images[:2], None)  # pyright: ignore[reportArgumentType]
    last = tangents[[k for k, (row, _) in enumerate(form.deltas, 2 * form.inner) if row == 4]]
    part.jacobian(numbers, last, RMSE.view)
    assert len(last) == 3
    assert len(asked) == 4


def test_streaming_over_batches_changes_nothing_but_rounding(scene):
    teacher, goal, _ = scene
    found = []
    for size in (32, 7):
        form = Parametrisation(start(teacher), "rows")
        found.append(normal_equations(Task(form, Loss("trimmed"), 0.0, batches(teacher, goal, size)), moved(form), 0.0))
    for whole, split in zip(*found, strict=True):
        torch.testing.assert_close(whole, split, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", ["l1", "huber", "trimmed"])
def test_the_weights_of_a_robust_loss_give_its_gradient(scene, objective):
    teacher, goal, _ = scene
    goal = dataclasses.replace(goal, noise=goal.noise.double(), images=goal.images.double())
    fit = Fit(teacher, start(teacher), goal, goal, Learner(level="weights", objective=objective))
    form, loss = fit.form(0), Loss(objective, fit.begin().delta / 3)
    theta, h = moved(form, 0.03), 1e-5
    slope = normal_equations(Task(form, loss, 0.0, fit.fit_on), theta)[1]

    def value(at):
        return loss.together(fit.costs(fit.fit_on, form.table(at), loss))

    for direction, ours in zip(torch.eye(form.count, dtype=torch.float64), slope, strict=True):
        theirs = (value(theta + h * direction) - value(theta - h * direction)) / (2 * h)
        assert float(2 * ours) == pytest.approx(theirs, rel=1e-2, abs=1e-4 * value(theta))


@pytest.mark.parametrize(("name", "level"), [("unipc-2", "rows"), ("epd", "parallel"), ("dc-solver", "compensation")])
def test_the_reverse_gradient_is_the_forward_one_with_and_without_what_was_computed_kept(scene, name, level):
    teacher, goal, _ = scene
    goal = dataclasses.replace(goal, noise=goal.noise.double(), images=goal.images.double())
    form = Parametrisation(start(teacher, name, 4), level, "relaxed")
    task = Task(form, RMSE, 0.1, batches(teacher, goal, 32))
    theta = moved(form)
    forward = 2 * (normal_equations(task, theta, 0.0)[1] + task.shrink * theta)
    for memory in ("full", "rows"):
        torch.testing.assert_close(gradient(task, 0, theta, memory), forward, rtol=1e-6, atol=1e-9)


def test_levels_may_be_passed_through_on_the_way_in_their_order(scene):
    teacher, fit_on, select_on = scene
    learner = Learner(through=("times", "weights"), iterations=2, shrink=(1e-3,))
    *_, last = Fit(teacher, start(teacher), fit_on, select_on, learner).run()
    assert [stage.level for stage in learner.stages(without="emulated")] == ["times", "weights", "rows"]
    assert [entry.stage for entry in last.curve] == [0, 0, 0, 1, 1, 2, 2]
    for through, level in ((("weights", "times"), "rows"), (("rows",), "weights"), (("times",), "parallel"), (("beauty",), "rows")):
        with pytest.raises(CampaignError, match="in the order times, times\\+labels"):
            Learner(through=through, level=level)


def test_adam_lowers_the_error_pass_by_pass_and_goes_on_where_it_was_stopped(scene):
    teacher, fit_on, select_on = scene
    learner = Learner(level="weights", optimiser="adam", iterations=12, shrink=(1e-4,))
    points = list(Fit(teacher, start(teacher), fit_on, select_on, learner).run())
    assert points[-1].best < 0.7 * points[0].best
    written = msgspec.json.decode(msgspec.json.encode(points[6]), type=Point)
    *_, last = Fit(teacher, start(teacher), fit_on, select_on, learner).run(written)
    assert last == points[-1]


@pytest.mark.parametrize("level", LEVELS)
def test_learning_lowers_the_error_on_seeds_it_did_not_see(scene, level):
    teacher, fit_on, select_on = scene
    *_, last = Fit(teacher, suited(teacher, level), fit_on, select_on, Learner(level=level, iterations=4)).run()
    assert min(entry.select for entry in last.curve) < 0.8 * last.curve[0].select


def test_what_is_kept_is_what_was_best_on_select_and_scores_so_again(scene):
    teacher, fit_on, select_on = scene
    fit = Fit(teacher, start(teacher), fit_on, select_on, Learner(iterations=3))
    *_, last = fit.run()
    again = RMSE.together(fit.costs(batches(teacher, select_on, 16), fit.table(last), RMSE))
    assert last.best == pytest.approx(again, rel=1e-4)
    assert RMSE.shown(last.best) == pytest.approx(min(entry.select for entry in last.curve))


def surrogates(scene, tmp_path, *starts):
    """One surrogate after the other that knows nothing of the one before."""
    teacher, fit_on, _ = scene
    while True:
        yield Surrogate(teacher, fit_on, starts, root=tmp_path)


@pytest.mark.parametrize("optimiser", ["lm", "emulated+lm"])
def test_a_fit_taken_up_anywhere_ends_at_the_same_bits(scene, tmp_path, optimiser):
    teacher, fit_on, select_on = scene
    learner, schedule = Learner(iterations=2, shrink=(1e-3,), optimiser=optimiser), start(teacher)
    anew = surrogates(scene, tmp_path, schedule)
    points = list(Fit(teacher, schedule, fit_on, select_on, learner, next(anew)).run())
    for point in points[:: max(1, len(points) // 3)]:
        written = msgspec.json.decode(msgspec.json.encode(point), type=Point)
        *_, last = Fit(teacher, schedule, fit_on, select_on, learner, next(anew)).run(written)
        assert last == points[-1]


@pytest.mark.parametrize("level", ["rows", "times+labels"])
def test_on_an_emulator_a_fit_never_asks_the_network_for_a_derivative(scene, tmp_path, level):
    teacher, fit_on, select_on = scene
    asked, schedule = [], start(teacher)

    def watched(x, at, **knobs):
        asked.append(peek_interpreter_stack())  # the transforms of torch.func that look on
        return teacher.denoiser(x, at, **knobs)

    seen, ends = dataclasses.replace(teacher, denoiser=watched), []
    for optimiser in ("lm", "emulated"):
        asked.clear()
        learner = Learner(level=level, shrink=(1e-3,), iterations=4, optimiser=optimiser)
        shared = Surrogate(seen, fit_on, [schedule], root=tmp_path) if optimiser == "emulated" else None
        first, *_, last = Fit(seen, schedule, fit_on, select_on, learner, shared).run()
        ends.append(last.best / first.best)
        assert any(asked) == (optimiser == "lm")
    assert ends[1] < max(0.01, 1.1 * ends[0])


def test_what_a_table_costs_on_the_emulator_is_what_the_network_says_of_a_table_it_has_answered(scene, tmp_path):
    teacher, schedule = scene[0], start(scene[0])
    surrogate, form = next(surrogates(scene, tmp_path, schedule)), Parametrisation(start(scene[0]), "rows", "relaxed")
    tables = [form.table(moved(form, scale)) for scale in (0.0, 0.02, 0.05)]
    parts = surrogate.batches(tables)
    for table in tables:
        foreseen = torch.cat([RMSE.costs(part.residual(table, RMSE.view)) for part in parts])
        torch.testing.assert_close(foreseen, surrogate.costs(table, RMSE), rtol=0.1, atol=1e-6)
        torch.testing.assert_close(
            surrogate.costs(table, RMSE), torch.cat([RMSE.costs(b.residual(table, RMSE.view)) for b in batches(teacher, scene[1], 7)])
        )


@pytest.mark.parametrize(
    ("name", "word", "ends"), [("unipc-2", "vp-linear", (1.0, 1e-3)), ("epd", "ve", (80.0, 0.0)), ("usf", "flow", (1.0, 0.0))]
)
def test_the_derivative_of_an_emulator_is_the_one_that_torch_carries_through_it(tmp_path, name, word, ends: tuple[float, float]):
    points, options = torch.randn(5, 16, generator=seeded(0)), {"beta_min": 0.1, "beta_max": 20.0} if word == "vp-linear" else {}
    teacher = Teacher("points", mixture(points, 0.1), process(word, **options), *ends, (16,), hashlib.sha256(word.encode()).hexdigest())
    schedule, goal = start(teacher, name), targets(teacher, "fit", 8, root=tmp_path)
    form = Parametrisation(schedule, "rows", "relaxed")
    (part,) = Surrogate(teacher, goal, [schedule], root=tmp_path).batches([form.table(moved(form, 0.02))])
    numbers, tangents = linearise(form, moved(form, 0.01))

    def ended(vector):
        told = emulator.form([Tableau(numbers.fill(vector))], teacher.process, part.given)
        return part.ways.scaled(torch.cat([each.ends(told)[0] for each in part.emulator.parts]))

    residual, columns = part.jacobian(numbers, tangents, RMSE.view)
    torch.testing.assert_close(residual, part.residual(form.table(moved(form, 0.01)), RMSE.view), rtol=1e-4, atol=1e-5)
    true = torch.func.vmap(lambda tangent: torch.func.jvp(ended, (numbers.vector,), (tangent,))[1])(tangents)
    torch.testing.assert_close(columns, true, rtol=1e-3, atol=1e-4 * float(columns.abs().max()))


def test_an_emulator_is_refused_what_it_does_not_know(scene, tmp_path, monkeypatch):
    teacher, fit_on, select_on = scene
    with pytest.raises(CampaignError, match="knows rmse, huber, trimmed, not l1"):
        Learner(optimiser="emulated", objective="l1")
    schedule, quiet = start(teacher), Progress(disable=True)
    assert surrogate(Learner(objective="l1"), teacher, fit_on, [schedule], quiet) is None
    assert surrogate(Learner(optimiser="lm"), teacher, fit_on, [schedule], quiet) is None
    monkeypatch.setattr("search.paths.LARGEST", 10)
    assert surrogate(Learner(), teacher, fit_on, [schedule], quiet) is None
    assert {stage.optimiser for stage in Fit(teacher, schedule, fit_on, select_on, Learner()).stages} == {"lm"}
    with pytest.raises(CampaignError, match="too many pixels for an emulator"):
        Learner(optimiser="emulated").require(teacher, 32)


class Killed(Exception):
    """At a moment of our choosing."""


def test_of_several_fits_the_best_two_go_on_from_the_emulator_one_does_without_it_and_a_kill_changes_nothing(scene, tmp_path, monkeypatch):
    teacher, fit_on, select_on = scene
    monkeypatch.setattr("search.emulated.SEEDS", 20)  # of 32
    starts, writes, last = [start(teacher, name) for name in ("ddim", "dpmpp-2m", "unipc-2")], itertools.count(1), math.inf
    learner = Learner(level="times", objective="huber", iterations=2, shrink=(1e-3,))
    anew = surrogates(scene, tmp_path, *starts)

    def follow(path):
        shared = next(anew)
        fits = [Fit(teacher, schedule, fit_on, select_on, learner, shared) for schedule in starts]
        fits.append(Fit(teacher, starts[1], fit_on, select_on, learner, beside=fits[0]))
        return followed(fits, path, "question", Progress(disable=True))

    def write(path, data):
        if next(writes) > last:
            raise Killed
        path.write_bytes(data)

    monkeypatch.setattr("search.follow.write_atomically", write)
    whole = follow(tmp_path / "whole")
    went_on = [k for k, point in enumerate(whole) if point.done]
    best = sorted(range(3), key=lambda k: min(e.select for e in whole[k].curve if e.stage == 0))[:2]
    assert went_on == [*sorted(best), 3]
    alone = Fit(teacher, starts[1], fit_on, select_on, msgspec.structs.replace(learner, optimiser="lm"))
    assert list(alone.run(alone.begin(whole[0].delta)))[-1] == whole[3]
    for last in range(2, next(writes), 6):
        writes = itertools.count(1)
        with pytest.raises(Killed):
            follow(tmp_path / f"killed after {last}")
        writes = itertools.count(-math.inf)
        assert follow(tmp_path / f"killed after {last}") == whole


def test_an_emulator_tells_tables_apart_that_differ_in_what_is_handed_to_the_network_alone(tmp_path):
    teacher = load("digits", guidance=2.0)
    goal = targets(teacher, "fit", 2, tolerance=0.05, root=tmp_path)
    plain = start(teacher, steps=3)
    told = msgspec.structs.replace(plain, steps=tuple(msgspec.structs.replace(step, knobs={"guidance": 1.3}) for step in plain.steps))
    shared = Surrogate(teacher, goal, [plain, told], root=tmp_path)
    for schedule in (plain, told):
        table = compile(schedule)
        true = torch.cat([RMSE.costs(part.residual(table, RMSE.view)) for part in batches(teacher, goal, 2)])
        torch.testing.assert_close(shared.costs(table, RMSE), true, rtol=1e-3, atol=1e-8)


def test_known_solvers_with_a_guessed_first_answer_spend_the_same_evaluations(scene):
    scored = [Known(name, {}, "uniform", {}, 4, fit=0.1) for name in ("dpmpp-2m", "heun", "ddim", "unipc-3", "unipc-2")]
    found = baselines.guessed(scene[0], [*scored, msgspec.structs.replace(scored[0], answer="unit-eps")], 4)
    assert [item.name for item in found] == [f"{name} with AFS on uniform" for name in ("dpmpp-2m", "ddim", "unipc-3")]
    assert {compile(baselines.schedule(item, scene[0])).nfe for item in found} == {4}


def test_solvers_that_spend_a_budget_only_without_their_first_answer_are_candidates(scene):
    found = {item.solver for item in baselines.candidates(scene[0], 5, 10) if item.answer == "unit-eps"}
    assert {"heun", "dpmpp-2s", "epd"} <= found
    assert {item.solver for item in baselines.candidates(scene[0], 5, 10) if item.answer == "network"} & found == set()


def test_one_step_can_be_learned_where_rows_need_not_stay_consistent(scene):
    one = start(scene[0], "ddim", 1)
    assert Learner(level="rows").suits(one)
    assert not Learner(level="rows", consistency="kept").suits(one)
    assert not Learner(level="compensation").suits(one)


def test_starts_that_sample_alike_count_once(scene):
    found = [Start(start(scene[0], name), name, name) for name in ("unipc-3", "dc-solver", "dpmpp-2m")]
    assert [one.name for one in distinct(found)] == ["unipc-3", "dpmpp-2m"]


def test_a_file_of_another_budget_is_interpolated(scene, tmp_path):
    teacher, schedule = scene[0], start(scene[0], "heun", 2)
    path = tmp_path / "a.schedule.json"
    save(compile(schedule), path, recipe=schedule)
    same, other = (of_files([str(path)], teacher, nfe, False, Learner())[0] for nfe in (None, 6))
    assert same.schedule == schedule
    assert compile(other.schedule).nfe == 6
    assert "from NFE 4" in other.origin
    with pytest.raises(ScheduleError, match="exactly 5"):
        of_files([str(path)], teacher, 5, False, Learner())


def test_stronger_shrinkage_stays_nearer_to_the_start(scene):
    teacher, fit_on, select_on = scene
    lengths = []
    for shrink in (1e-1, 1e-3):
        fit = Fit(teacher, start(teacher), fit_on, select_on, Learner(level="times", shrink=(shrink,), gain=1e-4, patience=20))
        *_, last = fit.run()
        lengths.append(torch.tensor(last.theta).norm())
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize("objective", ["rmse", "lpips-alex"])
def test_learning_runs_forward_and_reverse_through_the_real_networks(tmp_path, objective):
    teacher = digits()
    goal = targets(teacher, "fit", 2, tolerance=0.05, root=tmp_path)
    fit = Fit(teacher, start(teacher, steps=3), goal, goal, Learner(level="rows", objective=objective))
    form, loss = fit.form(0), Loss(objective)
    task = Task(form, loss, 0.0, fit.fit_on)
    try:
        squares, slope, costs = normal_equations(task, form.zeros(), 0.0)
    except PerceptualError as error:
        pytest.skip(str(error))
    reverse = gradient(task, 0, form.zeros(), "rows")
    torch.testing.assert_close(reverse, 2 * slope, rtol=1e-2, atol=1e-3 * float(slope.abs().max()))
    assert bool(torch.isfinite(squares).all())
    assert bool(torch.isfinite(slope).all())
    torch.testing.assert_close(costs, fit.costs(fit.fit_on, compile(fit.schedule), loss), rtol=1e-4, atol=1e-8)


def test_what_cannot_be_learned_is_refused_in_one_sentence(scene):
    teacher, fit_on, select_on = scene
    schedule = start(teacher)
    with pytest.raises(CampaignError, match="times, times\\+labels"):
        Parametrisation(schedule, "everything")
    with pytest.raises(CampaignError, match="kept, relaxed"):
        Parametrisation(schedule, "rows", "bent")
    with pytest.raises(ScheduleError, match="three multistep steps"):
        Parametrisation(start(teacher, "heun"), "compensation")
    with pytest.raises(ScheduleError, match="no parallel evaluations"):
        Parametrisation(schedule, "parallel")
    for asked in ({"optimiser": "adam"}, {"objective": "trajectory", "optimiser": "lm"}):
        with pytest.raises(CampaignError, match="Only Adam learns greedily"):
            Learner(adam=Adam(memory="greedy"), **asked)
    with pytest.raises(CampaignError, match="its own noise"):
        Learner(optimiser="emulated", relax=0.1)
    with pytest.raises(CampaignError, match="too large to be held"):
        Learner(objective="trajectory").require(teacher, 10**7)
    with pytest.raises(CampaignError, match=", ".join(LOSSES)):
        Fit(teacher, schedule, fit_on, select_on, Learner(objective="beauty"))
    noisy = msgspec.structs.replace(schedule, steps=(msgspec.structs.replace(schedule.steps[0], eta=1.0), *schedule.steps[1:]))
    with pytest.raises(ScheduleError, match="injects noise"):
        Parametrisation(noisy, "rows")


@pytest.mark.parametrize("objective", ["rmse", "trimmed"])
def test_the_gradients_of_batches_have_that_of_all_seeds_as_their_mean(scene, objective):
    teacher, goal, _ = scene
    noise, images = (pictures.repeat(2, 1).double() for pictures in (goal.noise, goal.images))
    images[32:] += 0.1
    goal = dataclasses.replace(goal, seeds=goal.seeds * 2, noise=noise, images=images)
    form, slopes = Parametrisation(start(teacher), "rows", "relaxed"), []
    for size in (64, 16):  # the worst 3 % of 16 are none
        task = Task(form, Loss(objective), 0.0, batches(teacher, goal, size))
        theta = moved(form)
        shares = trimmed(task, theta)
        assert objective == "rmse" or bool((torch.cat([*shares]) == 0).any())
        slopes.append(torch.stack([gradient(task, k, theta, shares=shares[k]) for k in range(len(task.parts))]).mean(0))
    torch.testing.assert_close(*slopes, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained table that is sampled to clean data, which lies apart from its last noise."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    where, points = process("vp-discrete", alphas_cumprod=torch.cumprod(1 - betas, 0)), torch.randn(5, 16, generator=seeded(0))
    teacher = Teacher("points", mixture(points, 0.1), where, 999.0, -1.0, (16,), hashlib.sha256(b"points").hexdigest())
    root = tmp_path_factory.mktemp("cache")
    return teacher, targets(teacher, "fit", 16, root=root), targets(teacher, "select", 16, root=root)


@pytest.mark.parametrize("optimiser", ["lm", "emulated+lm", "adam"])
def test_a_sampler_that_jumps_from_the_last_trained_noise_to_clean_data_is_learned(trained, optimiser, tmp_path):
    teacher, fit_on, select_on = trained
    schedule, learner = start(teacher, "unipc-2", 6), Learner(iterations=3, optimiser=optimiser, shrink=(1e-3,))
    assert schedule.times[-2:] == (0.0, -1.0)
    shared = Surrogate(teacher, fit_on, [schedule], root=tmp_path) if "emulated" in optimiser else None
    point = list(Fit(teacher, schedule, fit_on, select_on, learner, shared).run())[-1]
    assert point.curve[-1].fit < point.curve[0].fit
    form = Parametrisation(schedule, "rows", "relaxed")
    for k in range(8):
        times, labels = form.times_and_labels(torch.randn(form.count, generator=seeded(k), dtype=torch.float64))
        assert all(0 <= t <= 999 for t in (*times[:-1].tolist(), *labels.tolist()))


def test_every_parameter_moves_a_sampler_that_ends_on_clean_data(scene):
    teacher, goal, _ = scene
    schedule = preset("unipc-2", named_grid("karras", teacher.process, 5, teacher.start, 0.0), teacher.process)
    form = Parametrisation(schedule, "rows", "relaxed")
    ((_, jacobian),) = jacobians(batches(teacher, goal, len(goal.seeds)), form, form.zeros(), RMSE.view, 0.0)
    assert bool((jacobian.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize("name", ["lcm", "tcd", "heun-churn"])
def test_samplers_that_read_noise_are_not_learned_whatever_makes_them_read_it(scene, name):
    schedule = start(scene[0], name)
    assert compile(schedule).noises
    assert not Learner().suits(schedule)


def test_where_a_fit_begins_every_seed_is_asked_once_for_every_evaluation(scene):
    teacher, fit_on, select_on = scene
    asked = 0

    def denoiser(x, at, **knobs):
        nonlocal asked
        asked += len(x)
        return teacher.denoiser(x, at, **knobs)

    counted = dataclasses.replace(teacher, denoiser=denoiser)
    fits = [Fit(counted, start(teacher), fit_on, select_on, Learner(objective="huber"))]
    fits.append(Fit(counted, start(teacher, "unipc-2"), fit_on, select_on, Learner(objective="huber"), beside=fits[0]))
    for fit, evaluations in zip(fits, (5, 4), strict=True):  # they share what is answered at x_T
        before = asked
        fit.begin()
        assert asked - before == 64 * evaluations


def test_a_file_between_other_ends_is_moved_to_those_of_the_model(scene, tmp_path):
    teacher, path = scene[0], tmp_path / "vp.schedule.json"
    where = process("vp-linear")
    other = preset("dpmpp-2m", named_grid("log-snr", where, 6, 1.0, 1e-3), where)
    save(compile(other), path, recipe=other)
    (found,) = of_files([str(path)], teacher, None, True, Learner())
    assert (found.schedule.process, found.schedule.start, found.schedule.times[-1]) == (teacher.process, teacher.start, teacher.end)
    assert compile(found.schedule).nfe == 6
    assert "moved to the model's ends" in found.origin


def test_train_refuses_before_it_asks_the_network(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("search.learn.targets", lambda *_: pytest.fail("the teacher was solved first"))
    path, one = tmp_path / "five.schedule.json", tmp_path / "one.schedule.json"
    for file, steps in ((path, 5), (one, 1)):
        schedule = start(scene[0], "ddim", steps)
        save(compile(schedule), file, recipe=schedule)

    def refused(sentence, **words):
        with pytest.raises((CampaignError, ScheduleError), match=sentence):
            learn(lesson({"schedule": str(path), "model": {"name": "gaussian"}} | words), Progress(disable=True))

    refused("nothing that level 'times' moves", schedule=str(one), learner={"level": "times"})
    refused("no parallel evaluations", learner={"level": "parallel"})
    refused("there already", out=str(one))
    refused("cannot be written", out="/proc/nowhere/out.schedule.json")


def test_as_few_known_solvers_are_tuned_as_were_asked_for():
    asked = lesson({"model": {"name": "gaussian"}, "nfe": 4, "known": 20}).tuning
    assert max(asked.budget.known, asked.share) == 20


def test_of_seeds_that_cost_the_same_no_more_are_trimmed_than_the_worst():
    for costs in (torch.ones(100), torch.arange(100.0), torch.tensor([0.0] * 90 + [5.0] * 10)):
        shares = Loss("trimmed").shares(costs)
        assert int((shares == 0).sum()) == 3
        assert float(shares.sum()) == pytest.approx(100)
        assert Loss("rmse").shares(costs).tolist() == [1.0] * 100
