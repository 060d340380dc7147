"""Parallel directions: the loop of EPD on plain tensors, what one direction is, and which evaluations may be asked together."""

from collections.abc import Callable

import msgspec
import pytest
import torch
from oracle import CASES, Case, anisotropic
from test_solver_laws import assert_same_sampler
from torch import Tensor

from solvers import (
    PRESETS,
    At,
    Evaluation,
    Row,
    ScheduleError,
    SolverSchedule,
    Step,
    Tableau,
    compile,
    initial,
    preset,
    probe,
    process,
    sample,
)
from teacher.denoiser import guided, wrap

F64 = torch.float64
SIGMAS = [80.0, 14.5, 3.35, 0.9, 0.2, 0.01]


def epd_loop(places: Tensor, directions: Tensor, clocks: Tensor, weights: Tensor, first: str) -> Callable[..., Tensor]:
    """The sampler of EPD: all of [steps, K]; `first` says what stands for the very first direction."""

    def run(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        t, one = torch.tensor(SIGMAS, dtype=F64), torch.ones((), dtype=F64)
        for i in range(len(SIGMAS) - 1):
            d = (x - denoiser(x, At(t[i], one, t[i]))) / t[i] if i or first == "network" else x / (1 + t[i] ** 2).sqrt()
            moved = x
            for k in range(places.shape[1]):
                middle = t[i + 1] ** places[i, k] * t[i] ** (1 - places[i, k])
                inside = x + (middle - t[i]) * d
                slope = (inside - denoiser(inside, At(clocks[i, k] * middle, one, middle))) / middle
                moved = moved + weights[i, k] * directions[i, k] * (t[i + 1] - t[i]) * slope
            x = moved
        return x

    return run


@pytest.mark.parametrize("first", ["network", "unit-eps"])
@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_parallel_directions_are_the_loop_of_epd(points: int, first: str):
    generator = torch.Generator().manual_seed(points)
    places, directions, clocks, weights = torch.rand(4, 5, points, generator=generator, dtype=F64) * 0.8 + 0.1
    directions, clocks = directions + 0.5, clocks + 0.5
    given = {
        f"{name}{k + 1}": value[:, k]
        for name, value in zip(("at", "direction", "clock", "weight"), (places, directions, clocks, weights), strict=True)
        for k in range(points)
    }
    schedule = preset("epd", SIGMAS, process("ve"), points=points, answer=first)
    theirs = probe(epd_loop(places, directions, clocks, weights / weights.sum(1, keepdim=True), first))
    learnt = compile(schedule, numbers=given)
    steps = [msgspec.structs.replace(s, numbers={name: float(v[i]) for name, v in given.items()}) for i, s in enumerate(schedule.steps)]
    table = compile(SolverSchedule(schedule.process, schedule.start, tuple(steps)))
    for ours in (learnt, table):
        assert_same_sampler(ours, theirs, 1e-10)
        labels = [float(e.label) for e in ours.evals]
        assert labels == pytest.approx([float(e.label) for e in theirs.evals], rel=1e-12)
    assert table.nfe == 5 * (points + 1) - (first != "network")


@pytest.mark.parametrize("domain", ["lambda", "rho", "t"])
@pytest.mark.parametrize("space", ["x0", "eps", "flow"])
def test_directions_in_every_space_and_domain_keep_a_point_mass_and_stay_finite(space: str, domain: str, case: Case):
    data, times = anisotropic(3), case.grid(12, clean=False)
    x = data.spread(case.process, times[0]) * torch.tensor([[1.0, -0.5, 0.2]], dtype=F64)
    steps = tuple(Step(to=t, method="parallel", space=space, domain=domain, order=2, numbers={"at1": 0.3, "at2": 0.7}) for t in times[1:])
    table = compile(SolverSchedule(case.process, times[0], steps))
    point = torch.full((1, 3), 0.7, dtype=F64)
    on_the_line = case.process.alpha(times[0]) * point + case.process.sigma(times[0]) * x
    end = sample(lambda y, at: point, on_the_line, table)
    torch.testing.assert_close(end, case.process.alpha(times[-1]) * point + case.process.sigma(times[-1]) * x, rtol=1e-10, atol=1e-10)
    assert sample(data, x, table).isfinite().all()


def test_one_direction_halfway_in_rho_is_the_midpoint_rule():
    p, times = process("ve"), SIGMAS
    steps = tuple(Step(to=t, method="parallel", space="eps", domain="rho") for t in times[1:])
    midpoint = tuple(Step(to=t, method="midpoint", space="eps", domain="rho", moment="bh2") for t in times[1:])
    assert_same_sampler(compile(SolverSchedule(p, times[0], steps)), compile(SolverSchedule(p, times[0], midpoint)), 1e-12)


def test_all_numbers_of_a_step_are_learnable():
    schedule = preset("epd", [10.0, 3.0, 1.0, 0.3], process("ve"))
    at, clock, weight = (torch.tensor(v, dtype=F64, requires_grad=True) for v in ([0.3, 0.4, 0.5], [0.9, 1.0, 1.1], [1.0, 2.0, 0.5]))

    def numbers(at: Tensor, clock: Tensor, weight: Tensor) -> Tensor:
        table = compile(schedule, numbers={"at1": at, "clock2": clock, "weight1": weight, "direction2": clock})
        return torch.cat([table.dense().B.flatten(), torch.stack([torch.as_tensor(e.label) for e in table.evals])])

    assert torch.autograd.gradcheck(numbers, (at, clock, weight))


# ---------------------------------------------------------------------------------------------------------------- groups


def test_the_directions_of_a_step_are_a_group():
    p = process("ve")
    assert compile(preset("epd", SIGMAS, p, points=3)).groups == tuple(
        g for i in range(5) for g in ((4 * i,), tuple(range(4 * i + 1, 4 * i + 4)))
    )
    free = compile(preset("epd", SIGMAS, p, answer="unit-eps")).groups
    assert free[0] == (0, 1)
    assert len(free) == 9
    for name in ("ddim", "unipc-3", "heun", "ghvb", "bdia"):
        table = compile(preset(name, SIGMAS, p))
        assert table.groups == tuple((k,) for k in range(table.nfe))


@pytest.mark.parametrize("name", PRESETS)
def test_groups_hold_every_evaluation_once_and_none_reads_its_own_group(name: str):
    if PRESETS[name].processes and "ve" not in PRESETS[name].processes:
        pytest.skip("not defined on ve")
    table = compile(preset(name, SIGMAS, process("ve")))
    assert [k for group in table.groups for k in group] == list(range(table.nfe))
    dense = table.dense()
    asked = [r for r, row in enumerate(table.rows) if row.evaluation]
    for group in table.groups:
        for k in group:
            assert not any(dense.B[asked[k], j] for j in group)


def test_a_register_that_reads_an_answer_waits_for_it_where_it_stands():
    at = Evaluation(1.0, 1.0, 1.0)
    x0, r, q, a = Row("x0", 1.0, {"xT": 1.0}, at), Row("r", 1.0, {"D0": 1.0}), Row("q", 1.0, {"xT": 2.0}), Row("a", 1.0, {"q": 1.0}, at)
    end = (Row("b", 1.0, {"r": 1.0, "D1": 1.0}, at), Row("end", 0.0, {"D2": 1.0}))
    assert Tableau((x0, q, a, r, *end)).groups == ((0, 1), (2,))
    assert Tableau((x0, r, q, a, *end)).groups == ((0,), (1,), (2,))


def test_strange_directions_are_refused_in_a_sentence():
    p = CASES["ve"].process
    for numbers, message in (({"at1": 1.0}, "inside"), ({"weight1": 0.0}, "sum to 0"), ({"at5": 0.5}, "has no number at5")):
        with pytest.raises(ScheduleError, match=message):
            compile(SolverSchedule(p, 3.0, (Step(to=1.0, method="parallel", numbers=numbers),)))
    with pytest.raises(ScheduleError, match="1 to 4"):
        preset("epd", SIGMAS, p, points=5)


# ------------------------------------------------------------------------------------------- a group in one call


def counted(denoiser: Callable[..., Tensor], sizes: list[int]) -> Callable[..., Tensor]:
    def ask(x: Tensor, at: At, **knobs) -> Tensor:
        sizes.append(len(x))
        return denoiser(x, at, **knobs)

    return ask


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("answer", ["network", "unit-eps"])
@pytest.mark.parametrize("points", [2, 3])
def test_a_group_is_one_call_of_the_network_and_the_same_sample(points: int, answer: str, dtype: torch.dtype, case: Case):
    data, sizes, seen = anisotropic(3), list[int](), list[list[str]]()
    table = compile(preset("epd", case.grid(4, clean=True), case.process, points=points, answer=answer))
    x = initial([1, 2], (3,), table, dtype)
    ends = []
    for ask in ("one", "group"):
        sizes.clear()
        seen.append([])
        ends.append(sample(counted(data, sizes), x, table, ask=ask, callback=lambda row, x, d: seen[-1].append(row.slot)))
        assert sum(sizes) == 2 * table.nfe
    assert len(sizes) == len(table.groups) < table.nfe
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=8 * torch.finfo(dtype).eps * float(x.abs().max()))
    assert seen[0] == seen[1] == [row.slot for row in table.rows]


def test_a_group_of_candidates_carries_their_labels_and_what_belongs_to_the_samples():
    schedule = preset("epd", SIGMAS, process("ve"))
    places = torch.tensor([[0.3, 0.4, 0.5, 0.6, 0.7], [0.5] * 5], dtype=F64)
    table = compile(schedule, numbers={"at1": places, "clock2": 2 * places})

    def network(x: Tensor, at: At, cond: Tensor, gain: float) -> Tensor:
        return gain * x / (1 + at.sigma**2)[..., None] + 0.1 * torch.sin(at.label)[..., None] * cond

    def denoiser(x: Tensor, at: At, **knobs) -> Tensor:
        assert len(knobs["cond"]) == len(x)
        return network(x, at, **knobs)

    x, words = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64), {"cond": torch.tensor([[1.0], [2.0]]), "gain": 0.9}
    one, group = (sample(denoiser, x, table, ask=ask, **words) for ask in ("one", "group"))
    torch.testing.assert_close(group, one, rtol=1e-13, atol=1e-13)


def test_rows_inside_a_group_are_complete_only_when_it_is_answered():
    at, other = Evaluation(1.0, 1.0, 1.0), Evaluation(2.0, 1.0, 3.0)
    inner = [Row("q", 1.0, {"x0": 2.0}), Row("a", 1.0, {"q": 1.0}, other)]
    table = Tableau((Row("x0", 1.0, {"xT": 1.0}, at), *inner, Row("end", 0.0, {"a": 0.5, "D0": 1.0, "D1": -2.0})))
    x, sizes = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64), list[int]()
    ends = [sample(counted(anisotropic(3), sizes), x, table, ask=ask, callback=lambda row, x, d: x + 1) for ask in ("one", "group")]
    assert sizes == [2, 2, 4]
    assert not torch.equal(*ends)  # "a" was written before the callback had replaced "q"
    silent = [sample(anisotropic(3), x, table, ask=ask) for ask in ("one", "group")]
    torch.testing.assert_close(*silent, rtol=1e-13, atol=1e-13)


def test_evaluations_of_several_knobs_are_not_asked_together():
    evaluations = [Evaluation(1.0, 1.0, 1.0, {"guidance": g}) for g in (1.0, 1.0, 2.0)]
    rows = [Row(f"x{k}", 1.0, {"xT": 1.0}, e) for k, e in enumerate(evaluations)]
    table, sizes = Tableau((*rows, Row("end", 0.0, {"D0": 1.0, "D1": 1.0, "D2": 1.0}))), list[tuple[int, float]]()
    assert table.groups == ((0, 1, 2),)

    def denoiser(x: Tensor, at: At, guidance: float) -> Tensor:
        sizes.append((len(x), guidance))
        return x

    sample(denoiser, torch.ones(2, 3), table, ask="group")
    assert sizes == [(4, 1.0), (2, 2.0)]


def test_a_teacher_takes_a_group_with_its_labels_and_conditions():
    drawn = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 3, generator=drawn, dtype=F64)

    def network(x: Tensor, label: Tensor, label_of: Tensor) -> Tensor:
        return x @ weights * torch.cos(label)[:, None] + label_of[:, None]

    teacher = guided(wrap(network, process("ve"), "eps", "sigma", pass_cond="label_of"), null=0)
    table, x, sizes = compile(preset("epd", SIGMAS[2:], process("ve"))), torch.randn(2, 3, generator=drawn, dtype=F64), list[int]()
    cond, guidance = torch.tensor([1.0, 2.0], dtype=F64), 1.5
    one, group = (sample(counted(teacher, sizes), x, table, ask=ask, cond=cond, guidance=guidance) for ask in ("one", "group"))
    torch.testing.assert_close(group, one, rtol=1e-12, atol=1e-12)
    assert sizes == [2] * table.nfe + [2, 4] * 3


def test_an_unknown_way_to_ask_is_answered_with_the_known_ones():
    with pytest.raises(ScheduleError, match="one by one or by the group"):
        sample(anisotropic(3), torch.ones(1, 3), compile(preset("epd", SIGMAS, process("ve"))), ask="all")


def test_a_row_that_needs_an_answer_ends_its_group_also_where_the_next_question_does_not_read_it():
    def asked(sigma: float) -> Evaluation:
        return Evaluation(sigma, 1.0, sigma)

    rows = (
        Row("x0", 1.0, {"xT": 1.0}, asked(1.0)),
        Row("eps0", 1.0, {"x0": 1.0, "D0": -1.0}),
        Row("s", 0.5, {"xT": 0.5}, asked(0.5)),
        Row("x1", 0.0, {"eps0": 0.5, "D1": 0.5}),
    )
    x = torch.linspace(-1, 1, 6, dtype=F64).reshape(2, 3)
    one, group = (sample(anisotropic(3), x, Tableau(rows), ask=ask) for ask in ("one", "group"))
    torch.testing.assert_close(one, group, rtol=1e-12, atol=1e-12)


def test_a_callback_may_change_an_answer_in_place_also_where_a_gradient_flows():
    x = torch.ones(2, 3, dtype=F64, requires_grad=True)

    def halve(row: Row, state: Tensor, answer: Tensor | None) -> None:
        if answer is not None:
            answer.mul_(0.5)

    table = compile(preset("euler", SIGMAS, process("ve")))
    found = sample(lambda x, at: x / (1 + at.sigma**2), x, table, callback=halve)
    wanted = sample(lambda x, at: 0.5 * x / (1 + at.sigma**2), x, table)
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.grad(found.sum(), x)[0].abs().sum() > 0
