"""Steps with coefficients of their own: they hold what any deterministic table says, and say the same on every process."""

import dataclasses

import msgspec
import pytest
import torch
from oracle import CASES, EVERYWHERE
from test_solver_laws import assert_same_sampler

from search.moves import transplanted
from search.parametrise import Parametrisation
from solvers import DISTINCT, ScheduleError, SolverSchedule, Step, compile, preset, save
from solvers.commands.check import check
from solvers.commands.interpolate import interpolated
from solvers.dpm_solver_v3 import dpm_solver_v3, plain
from solvers.weighted import weighted

TWICE_AT_A_LEVEL = {"heun", "exp-heun", "exp-heun-mean", "rho-heun", "rho-kutta", "rho-rk4", "pndm", "res-3s", "res-3s-compat"}
SINGLE = [name for name in EVERYWHERE if DISTINCT[name].noise == "none" and name not in TWICE_AT_A_LEVEL]


def schedule_of(case: str, name: str, clean: bool = False, **words: object) -> SolverSchedule:
    return preset(name, CASES[case].grid(6, clean), CASES[case].process, **words)


def learned(schedule: SolverSchedule, level: str = "rows") -> tuple[Parametrisation, torch.Tensor]:
    """Its table with every number moved."""
    form = Parametrisation(schedule, level, "relaxed")
    return form, torch.randn(form.count, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 20


@pytest.mark.parametrize("answer", ["network", "unit-eps", "zero-x0"])
@pytest.mark.parametrize("clean", [False, True], ids=["noisy", "clean"])
@pytest.mark.parametrize("case", CASES)
def test_without_numbers_they_are_the_first_order_step(case, clean, answer):
    first, *rest = schedule_of(case, "ddim", clean).steps
    euler = SolverSchedule(CASES[case].process, CASES[case].start, (msgspec.structs.replace(first, answer=answer), *rest))
    bare = tuple(Step(to=step.to, method="weights", answer=step.answer) for step in euler.steps)
    assert_same_sampler(compile(SolverSchedule(euler.process, euler.start, bare)), compile(euler), 1e-12)


@pytest.mark.parametrize(("case", "clean"), [("vp-linear", True), ("ve", False), ("flow", True), ("mean-reverting", False)])
@pytest.mark.parametrize("name", SINGLE)
def test_every_sampler_that_asks_once_at_a_noise_level_can_be_written_as_them(case, name, clean):
    table = compile(schedule_of(case, name, clean))
    if clean and table.dense().a[-1].abs() > 1e-10:  # it leaves some of its noise in the sample, which steps to sigma = 0 cannot
        with pytest.raises(ScheduleError, match="cannot sample as these rows do"):
            weighted(table, CASES[case].process)
        return
    assert_same_sampler(compile(weighted(table, CASES[case].process)), table, 1e-10)


@pytest.mark.parametrize("name", sorted(TWICE_AT_A_LEVEL))
def test_what_asks_twice_at_a_noise_level_is_refused(name):
    with pytest.raises(ScheduleError, match="twice at one noise level"):
        weighted(compile(schedule_of("ve", name)), CASES["ve"].process)


def test_what_they_cannot_say_is_refused_by_name():
    where, table = CASES["ve"].process, compile(schedule_of("ve", "dpmpp-2m"))
    elements = dpm_solver_v3([80.0, 1.0, 0.1], where, plain(torch.tensor([-5.0, 5.0]).double(), (2,)))
    first, *rest = table.rows
    elsewhere = dataclasses.replace(first, evaluation=dataclasses.replace(first.evaluation, sigma=1.1 * first.evaluation.sigma))
    for rows, sentence in (
        (compile(schedule_of("ve", "dpmpp-2m-sde")), "have noise"),
        (elements, "have coefficients of kind 'tensor'"),
        (compile(preset("ddim", CASES["ve"].grid(70, False), where)), "make 70 steps; those of method weights weigh 64"),
        (dataclasses.replace(table, rows=(elsewhere, *rest)), "ask at other alphas and sigmas"),
    ):
        with pytest.raises(ScheduleError, match=sentence):
            weighted(rows, where)


@pytest.mark.parametrize("answer", ["network", "unit-eps"])
@pytest.mark.parametrize("name", ["dpmpp-2m", "deis-tab3", "dpm-solver-2s"])
@pytest.mark.parametrize("case", CASES)
def test_a_learned_table_is_saved_with_steps_that_compile_to_it_and_learning_goes_on_from_them(case, name, answer, tmp_path):
    schedule = schedule_of(case, name)
    first, *rest = schedule.steps
    form, theta = learned(msgspec.structs.replace(schedule, steps=(msgspec.structs.replace(first, answer=answer), *rest)))
    table, process = form.table(theta), CASES[case].process
    recipe = weighted(table, process)
    file = save(table, tmp_path / "a.schedule.json", recipe=recipe)
    assert any("its recipe compiles to its rows" in line for line in check(file))
    again, moved = learned(recipe)
    assert_same_sampler(again.table(again.zeros()), table, 1e-10)
    assert_same_sampler(compile(weighted(again.table(moved), process)), again.table(moved), 1e-10)


@pytest.mark.parametrize("case", ["vp-linear", "flow"])
def test_they_say_the_same_on_another_process(case):
    own, ve = CASES[case].process, CASES["ve"].process
    grid = torch.linspace(0.9 * CASES[case].start, CASES[case].end, 6).tolist()
    form, theta = learned(preset("dpmpp-2m", grid, own))
    schedule = weighted(form.table(theta), own)
    there = transplanted(schedule, ve, *(float(ve.time_of(own.lambda_of(t))) for t in (grid[0], grid[-1])))
    a, b = (compile(s).dense() for s in (schedule, there))
    alphas = torch.tensor([float(own.alpha(t)) for t in schedule.times], dtype=torch.float64)
    torch.testing.assert_close(b.a, a.a * alphas[0] / alphas, rtol=1e-9, atol=1e-12)  # states of ve are those of the other by alpha
    torch.testing.assert_close(b.B, a.B / alphas[:, None], rtol=1e-9, atol=1e-12)


def test_they_go_along_when_times_move_and_are_differentiable():
    form, theta = learned(schedule_of("ve", "dpmpp-2m"))
    schedule = weighted(form.table(theta), CASES["ve"].process)
    numbers = {name: torch.tensor([step.numbers.get(name, 0.0) for step in schedule.steps]).double() for name in ("state", "weight0")}
    times = torch.tensor(schedule.times, dtype=torch.float64)

    def end(inner: torch.Tensor, state: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        table = compile(schedule, torch.cat([times[:1], inner, times[-1:]]), numbers={"state": state, "weight0": weight}).dense()
        return torch.cat([table.a, table.B.flatten()])

    given = [one.clone().requires_grad_() for one in (times[1:-1], numbers["state"], numbers["weight0"])]
    assert torch.autograd.gradcheck(end, given)


def test_an_answer_that_is_not_there_cannot_be_weighed():
    step = Step(to=1.0, method="weights", numbers={"weight1": -0.5})
    with pytest.raises(ScheduleError, match="Step 0 weighs the answer of 1 steps before, but there are only 1 answers"):
        compile(SolverSchedule(CASES["ve"].process, 80.0, (step,)))


def test_they_are_not_interpolated_to_another_budget():
    schedule = weighted(compile(schedule_of("ve", "dpmpp-2m")), CASES["ve"].process)
    with pytest.raises(ScheduleError, match="mean nothing at another"):
        interpolated(schedule, 4)
