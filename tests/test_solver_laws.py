"""Laws that hold for every sampler, run over the registry: a new method is tested by being registered.

Nothing here compares with numbers that this code once produced. The references are exact solutions, algebra, and formulas
of the papers written out a second time.
"""

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable

import msgspec
import pytest
import torch
from oracle import CASES, PLAIN, Case, Gaussian, PointMass, anisotropic, initial, sample
from torch import Tensor

import solvers
import solvers.prediction as prediction
from solvers import (
    DISTINCT,
    PRESETS,
    Row,
    ScheduleError,
    SolverSchedule,
    State,
    Step,
    Tableau,
    advance,
    begin,
    compile,
    draw,
    lambdas,
    preset,
    preset_for_nfe,
    probe,
    process,
    sigmas,
)
from solvers.base_process import name_of

SMOOTH = {"vp-linear": (0.9, 0.1), "ve": (10.0, 0.2), "flow": (0.9, 0.1)}  # where a step stays well below the length of the problem
every_preset = pytest.mark.parametrize("name", DISTINCT)
F64 = torch.float64


def float64(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=F64)


def defined_on(name: str, family: str) -> None:
    if PRESETS[name].processes and family not in PRESETS[name].processes:
        pytest.skip(f"not defined on {family}")


def tables_of(case: Case, name: str, steps: int, clean: bool) -> Tableau:
    defined_on(name, name_of(case.process))
    return compile(preset(name, case.grid(steps, clean), case.process))


def assert_same_sampler(one: Tableau, other: Tableau, bound: float = 1e-12) -> None:
    """Equal closed forms and evaluations: the same sampler, however its rows are written."""
    ours, theirs = one.dense().at(one.visible), other.dense().at(other.visible)
    for mine, yours in zip(ours[:3], theirs[:3], strict=True):  # what mu weighs follows from these
        torch.testing.assert_close(mine, yours, rtol=bound, atol=bound)
    for e, f in zip(one.evals, other.evals, strict=True):
        torch.testing.assert_close(float64([e.alpha, e.sigma]), float64([f.alpha, f.sigma]), rtol=bound, atol=bound)


# ---------------------------------------------------------------------------------------------------------------- order


def smooth_grid(name: str, steps: int, rough: bool) -> list[float]:
    """Times that are a smooth function of their number; rough: of steps that alternate 1:3."""
    start, end = SMOOTH.get(name, (0.9, 0.1))
    widths = torch.ones(steps, dtype=F64)
    if rough:
        widths[1::2] = 3
    u = torch.cat([torch.zeros(1, dtype=F64), widths.cumsum(0) / widths.sum()])
    power = {"vp-linear": 2, "ve": 7}.get(name, 1)
    inner = (start ** (1 / power) + u * (end ** (1 / power) - start ** (1 / power))) ** power
    return [start, *inner[1:-1].tolist(), end]


def graded(times: list[float], halvings: int) -> list[float]:
    """The first interval halved again and again towards the start, so that a first-order start does not cap the order."""
    first = times[0] - times[1]
    return [times[0], *(times[0] - first / 2**k for k in range(halvings, 0, -1)), *times[1:]]


def error_of(name: str, schedule: SolverSchedule, data: Gaussian) -> float:
    """Distance from the exact end of a trajectory, in units of the state; for a stochastic sampler, of the mean and the deviation."""
    p, table = CASES[name].process, compile(schedule)
    start, end = schedule.times[0], schedule.times[-1]
    if table.noises:
        variance = propagated_variance(table, data, data.spread(p, start) ** 2)[-1]
        silent = [torch.zeros(1, data.mean.numel(), dtype=F64)] * len(table.noises)
        mean = sample(data, p.alpha(start) * data.mean[None], table, noise=silent)
        return float((variance.sqrt() - data.spread(p, end)).norm() + (mean - p.alpha(end) * data.mean).norm())
    x = torch.linspace(1.3, -0.9, data.mean.numel(), dtype=F64)[None] * data.spread(p, start)
    return float((sample(data, x, table) - data.solution(p, x, start, end)).norm())


def error_at(name: str, steps_of, count: int, rough: bool, start=graded) -> float:
    return error_of(name, steps_of(start(smooth_grid(name, count, rough), math.ceil(math.log2(count)) + 3)), anisotropic())


def slope(name: str, steps_of, counts: tuple[int, int], rough: bool, start=graded) -> float:
    few, many = (error_at(name, steps_of, count, rough, start) for count in counts)
    return math.log(few / many) / math.log(counts[1] / counts[0])


def order_of(name: str, family: str, rough: bool) -> float:
    """The slope of a preset, on finer grids where it is not yet the declared one: some orders show late."""
    declared, measured = PRESETS[name].rough_order if rough else PRESETS[name].order, 0.0
    counts = (64, 128, 256, 512) if declared < 4 else (128, 256, 512, 1024)
    errors = (error_at(family, lambda times: preset(name, times, CASES[family].process), count, rough) for count in counts)
    for few, many in itertools.pairwise(errors):
        measured = math.log2(few / many)
        if measured >= declared - 0.2:
            break
    return measured


@pytest.mark.parametrize("rough", [False, True], ids=["smooth", "rough"])
@pytest.mark.parametrize("family", SMOOTH)
@every_preset
def test_every_preset_converges_at_its_declared_order(name: str, family: str, rough: bool):
    defined_on(name, family)
    assert order_of(name, family, rough) >= (PRESETS[name].rough_order if rough else PRESETS[name].order) - 0.2


@pytest.mark.parametrize("family", SMOOTH)
@pytest.mark.parametrize(("name", "order"), [("unipc-2", 3), ("unipc-3", 4)])
def test_unipc_without_its_lower_order_tail_gains_one_order_by_its_corrector(name: str, order: int, family: str):
    measured = slope(family, lambda times: preset(name, times, CASES[family].process, tail="full"), (96, 192), False)
    assert measured >= order - 0.2


@pytest.mark.parametrize("family", ["ve", "vp-linear"])
def test_ipndm_is_of_order_four_where_rho_falls_uniformly_and_its_history_is_exact(family: str):
    p, data, errors = CASES[family].process, anisotropic(), []
    start, end = (float(p.sigma_of(t)) for t in {"ve": (4.0, 0.5), "vp-linear": (0.6, 0.2)}[family])
    for count in (160, 320):
        times = [float(t) for t in p.time_of_sigma(torch.linspace(start, end, count + 1, dtype=F64))]
        x = torch.linspace(1.3, -0.9, 12, dtype=F64)[None] * data.spread(p, times[0])
        asked = itertools.count()

        def exact(t: float, p=p, x=x, first=times[0]) -> Tensor:
            return data.solution(p, x, first, t)

        def denoiser(x: Tensor, at, times=times, asked=asked, exact=exact) -> Tensor:
            number = next(asked)
            return data(exact(times[number]) if number < 4 else x, at)

        def callback(row: Row, x: Tensor, denoised: Tensor | None, exact=exact) -> Tensor | None:
            return exact(row.time) if row.slot in ("x1", "x2", "x3") else None

        schedule = SolverSchedule(
            p, times[0], tuple(Step(to=t, space="eps", domain="index", order=min(4, i + 1)) for i, t in enumerate(times[1:]))
        )
        errors.append(float((sample(denoiser, x, compile(schedule), callback=callback) - exact(times[-1])).norm()))
    assert math.log2(errors[0] / errors[1]) >= 3.8


SPACES, DOMAINS = ("x0", "eps", "flow"), ("lambda", "rho", "t")
LOCAL = {"vp-linear": (0.4, 0.1), "vp-cosine": (0.5, 0.15), "ve": (1.5, 0.4), "flow": (0.5, 0.12)}  # centre, and a length of the problem


def local_errors(family: str, order: int, step: dict, corrector: int = 0) -> dict[str, Tensor]:
    """Errors of ONE step of width h and h/2 (a batch of two) from an exact state and an exact history on a rough grid.

    Keys: "x" is the step itself, "c" what the corrector makes of it. A method of order p errs by h^(p + 1) in one step.
    """
    p, data, (centre, length) = CASES[family].process, anisotropic(), LOCAL[family]
    widths = float64([0.0, 1.0, 3.0, 2.0, 1.5, 1.0])[: order + 2].cumsum(0)
    times = centre - length * float64([2.0**-5, 2.0**-6])[:, None] * (widths - widths[order - 1])
    steps = [Step(to=float(t), order=min(order, i + 1), corrector=corrector * (i + 1 == order), **step) for i, t in enumerate(times[0, 1:])]
    middle = torch.linspace(1.3, -0.9, 12, dtype=F64) * data.spread(p, centre)

    def exact(t: Tensor) -> Tensor:
        return data.solution(p, middle, centre, t[:, None])

    found, asked = {}, itertools.count()

    def denoiser(x: Tensor, at) -> Tensor:
        number = next(asked)
        return data(exact(times[:, number]) if number < order else x, at)

    def callback(row: Row, x: Tensor, denoised: Tensor | None) -> Tensor | None:
        if row.slot in (f"x{order}", f"c{order}"):
            found[row.slot[0]] = (x - exact(row.time)).norm(dim=1)
        return exact(row.time) if re.fullmatch(r"x\d+", row.slot) and int(row.slot[1:]) < order else None

    sample(denoiser, exact(times[:, 0]), compile(SolverSchedule(p, float(times[0, 0]), tuple(steps)), times=times), callback=callback)
    return found


def local_slope(errors: Tensor) -> float:
    return float((errors[0] / errors[1]).log2())


@pytest.mark.parametrize("family", LOCAL)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("space", SPACES)
def test_a_step_has_its_order_in_every_space_and_domain_and_the_corrector_adds_one(space: str, domain: str, order: int, family: str):
    errors = local_errors(family, order, {"space": space, "domain": domain}, corrector=order)
    assert local_slope(errors["x"]) >= order + 1 - 0.2
    assert local_slope(errors["c"]) >= order + 2 - 0.2


@pytest.mark.parametrize("family", LOCAL)
@pytest.mark.parametrize("moment", ["bh1", "bh2"])
@pytest.mark.parametrize("space", ["x0", "eps"])
def test_the_two_point_formulas_of_unipc_keep_order_two(space: str, moment: str, family: str):
    errors = local_errors(family, 2, {"space": space, "moment": moment}, corrector=1)
    assert local_slope(errors["x"]) >= 3 - 0.2


@pytest.mark.parametrize("family", LOCAL)
@pytest.mark.parametrize("method", ["heun", "midpoint"])
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("space", SPACES)
def test_two_stages_give_order_two_in_every_space_and_domain(space: str, domain: str, method: str, family: str):
    errors = local_errors(family, 1, {"space": space, "domain": domain, "method": method})
    assert local_slope(errors["x"]) >= 3 - 0.2


# ----------------------------------------------------------------------------------------------------------- point mass


def point_mass_defect(table: Tableau, p, start: float) -> float:
    """How far states and evaluations are from alpha x0 + sigma z when every answer is x0, relative to their largest coefficient.

    With noise the second is the whole deviation, transported and injected. Registers of eps and flow hold what they say;
    those of other names are a method's own affair.
    """
    dense, worst = table.dense(), 0.0
    for row, a, b, g in zip(table.rows, dense.a, dense.B, dense.G, strict=True):
        kind = re.sub(r"\d+$", "", row.slot)
        if row.evaluation is None and kind not in ("x", "c", "eps", "flow"):
            continue
        data, noise = {"eps": (0.0, 1.0), "flow": (-1.0, 1.0)}.get(kind) or (float(p.alpha(row.time)), float(p.sigma(row.time)))
        size = max(1.0, float(a.abs()), *b.abs().tolist())
        transported = float(a * p.sigma(start))
        deviation = math.copysign(math.hypot(transported, *g.tolist()), transported) if g.any() else transported
        worst = max(worst, abs(float(a * p.alpha(start) + b.sum()) - data) / size, abs(deviation - noise) / size)
    return worst


def keeps_a_point_mass(name: str, case: Case, clean: bool, counts: Iterable[int]) -> bool:
    return all(point_mass_defect(tables_of(case, name, steps, clean), case.process, case.start) < 1e-12 for steps in counts)


@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
@every_preset
def test_every_preset_keeps_a_point_mass_from_one_step_to_ten(name: str, case: Case, clean: bool):
    if not PRESETS[name].point_mass:
        pytest.skip("declared not to keep a point mass")
    assert keeps_a_point_mass(name, case, clean, (1, 2, 3, 4, 5, 7, 10))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("domain", [*DOMAINS, "index"])
@pytest.mark.parametrize("method", ["multistep", "heun", "midpoint"])
def test_every_word_of_a_step_keeps_a_point_mass(space: str, domain: str, method: str, case: Case):
    for clean, corrector in itertools.product((False, True), (0, 3)):
        if method != "multistep" and corrector:
            continue
        times = case.grid(5, clean)
        steps = [
            Step(to=t, method=method, space=space, domain=domain, order=min(4, i + 1), corrector=min(corrector, i + 1))
            for i, t in enumerate(times[1:])
        ]
        assert point_mass_defect(compile(SolverSchedule(case.process, times[0], tuple(steps))), case.process, case.start) < 1e-12


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("domain", ["rho", "t"])
@pytest.mark.parametrize("method", ["multistep", "midpoint"])
def test_the_ends_are_the_limits_of_times_close_to_them(space: str, domain: str, method: str, case: Case):
    p, times = case.process, case.grid(5, clean=True)

    def table(start: float, end: float) -> Tableau:
        inner = [start, *times[1:-1], end]
        steps = tuple(Step(to=t, space=space, domain=domain, method=method, order=min(3, i + 1)) for i, t in enumerate(inner[1:]))
        return compile(SolverSchedule(p, start, steps))

    def distance(one: Tableau, other: Tableau) -> float:
        ours, theirs = one.dense().at(one.visible), other.dense().at(other.visible)
        assert one.nfe == other.nfe
        return max(float((x - y).abs().max()) for x, y in ((ours.a, theirs.a), (ours.B, theirs.B)))

    exact = table(times[0], times[-1])
    if p.t_clean == 0:  # vp-discrete jumps to its clean end
        near, nearer = (distance(exact, table(times[0], float(p.time_of_sigma(sigma)))) for sigma in (1e-6, 1e-8))
        assert nearer < 1e-4
        assert nearer < 0.1 * near
    if p.alpha(times[0]) == 0 and space != "eps" and (method, domain) != ("midpoint", "rho"):  # these have no limit
        near, nearer = (distance(exact, table(1 - gap, times[-1])) for gap in (1e-5, 1e-7))
        assert nearer < 1e-4
        assert nearer < 0.1 * near


def test_the_last_step_to_a_clean_end_is_of_first_order_in_lambda(case: Case):
    times = case.grid(5, clean=True)
    for space, method in itertools.product(SPACES, ("multistep", "heun")):
        steps = tuple(Step(to=t, space=space, method=method, order=min(3, i + 1)) for i, t in enumerate(times[1:]))
        dense = compile(SolverSchedule(case.process, times[0], steps)).dense()
        torch.testing.assert_close(dense.B[-1, -1], torch.ones((), dtype=F64), rtol=1e-12, atol=0)
        assert max(float(dense.a[-1].abs()), float(dense.B[-1, :-1].abs().max())) < 1e-11


@every_preset
def test_a_clean_end_is_the_point_itself_when_all_data_is_one_point(name: str, case: Case):
    if not PRESETS[name].point_mass:
        pytest.skip("declared not to keep a point mass")
    point = torch.linspace(-1, 1, 6, dtype=F64)
    x = case.process.alpha(case.start) * point + case.process.sigma(case.start) * torch.linspace(2, -2, 6, dtype=F64)
    out = sample(PointMass(point), x[None], tables_of(case, name, 7, clean=True), noise=[5])
    torch.testing.assert_close(out[0], point, rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------------- probe


@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
@every_preset
def test_probing_sample_reads_back_the_closed_form(name: str, case: Case, clean: bool):
    table = tables_of(case, name, 6, clean)
    seen = probe(lambda denoiser, x, xi=None: solvers.sample(denoiser, x, table, xi, mu=0 * x), noises=len(table.noises))
    assert_same_sampler(table, seen)
    assert [(e.label, e.alpha, e.sigma) for e in seen.evals] == [(e.label, e.alpha, e.sigma) for e in table.evals]


@pytest.mark.parametrize("noise", ["sde", "er", "ancestral"])
def test_probing_reads_back_the_noise_columns_too(noise: str, case: Case):
    times = case.grid(5, clean=False)
    steps = tuple(Step(to=t, order=min(2, i + 1), eta=0.6, noise=noise) for i, t in enumerate(times[1:]))
    table = compile(SolverSchedule(case.process, times[0], steps))
    seen = probe(lambda denoiser, x, xi: solvers.sample(denoiser, x, table, xi, mu=0 * x), noises=5)
    assert table.dense().G.abs().max() > 0.01
    assert_same_sampler(table, seen)


@pytest.mark.parametrize("most", [1, 10, 64, 100])
def test_probe_lets_a_sampler_ask_so_often_and_no_more(most: int):
    def asking(count: int) -> Callable[..., Tensor]:
        return lambda denoiser, x: functools.reduce(lambda state, _: denoiser(state, 1.0), range(count), x)

    assert probe(asking(most), max_nfe=most).nfe == most
    with pytest.raises(ScheduleError, match=f"more than {most} times"):
        probe(asking(most + 1), max_nfe=most)


def test_probe_refuses_a_sampler_that_draws_noise_of_its_own():
    with pytest.raises(ScheduleError, match="noise of its own"):
        probe(lambda denoiser, x: denoiser(x + torch.randn_like(x), 1.0))


def test_numbers_that_a_method_does_not_read_from_outside_are_refused():
    case = CASES["ve"]
    schedule = preset("dpm-solver-2s", case.grid(3, clean=False), case.process)
    with pytest.raises(ScheduleError, match="c2"):
        compile(schedule, numbers={"c2": torch.full((len(schedule.steps),), 0.4, dtype=F64)})


# ------------------------------------------------------------------------------------------- processes and predictions


def spread_times(case: Case, count: int = 41) -> Tensor:
    """Times from the late end to the start, none of them an end of the process; for vp-discrete mostly fractions."""
    return torch.linspace(case.end, case.start, count + 2, dtype=F64)[1:-1]


def test_time_of_inverts_lambda_of_and_time_of_sigma_inverts_sigma_of(case: Case):
    t = spread_times(case)
    p = case.process
    torch.testing.assert_close(p.time_of(p.lambda_of(t)), t, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(p.time_of_sigma(p.sigma_of(t)), t, rtol=1e-10, atol=1e-12)
    shaped = t[:40].reshape(2, 4, 5)
    assert torch.equal(p.time_of(p.lambda_of(shaped)).reshape(-1), p.time_of(p.lambda_of(t))[:40])


def test_lambda_is_the_log_of_alpha_over_sigma_and_falls_with_time(case: Case):
    t, p = spread_times(case), case.process
    torch.testing.assert_close(p.lambda_of(t), (p.alpha(t) / p.sigma(t)).log(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(p.log_alpha(t).exp(), p.alpha(t), rtol=1e-13, atol=0)
    assert (p.lambda_of(t).diff() < 0).all()
    assert p.sigma(p.t_clean) == 0
    assert p.alpha(p.t_clean) == 1
    assert p.lambda_of(p.t_clean) == math.inf


@pytest.mark.parametrize("name", ["vp-linear", "vp-cosine", "vp-discrete"])
def test_variance_preserving_processes_preserve_variance(name: str):
    t = spread_times(CASES[name])
    p = CASES[name].process
    torch.testing.assert_close(p.alpha(t) ** 2 + p.sigma(t) ** 2, torch.ones_like(t), rtol=1e-13, atol=0)


def test_vp_linear_integrates_its_beta():
    p = process("vp-linear", beta_min=0.3, beta_max=12.0)
    for t in (0.1, 0.5, 1.0):
        u = (torch.arange(2000, dtype=F64) + 0.5) / 2000 * t  # midpoint rule, exact for a linear beta
        integral = (0.3 + (12.0 - 0.3) * u).mean() * t
        torch.testing.assert_close(p.alpha(t), torch.exp(-integral / 2), rtol=1e-12, atol=0)


def test_vp_cosine_is_the_squared_cosine_of_its_paper():
    t = spread_times(CASES["vp-cosine"])

    def f(u: Tensor) -> Tensor:
        return ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2

    torch.testing.assert_close(process("vp-cosine").alpha(t) ** 2, f(t) / f(torch.zeros_like(t)), rtol=1e-12, atol=0)


def test_vp_discrete_has_its_table_at_whole_indices_and_the_geometric_mean_of_rho_halfway():
    table, p = CASES["vp-discrete"].process.alphas_cumprod, CASES["vp-discrete"].process
    index = torch.tensor([0, 1, 17, 500, 998, 999])
    torch.testing.assert_close(p.alpha(index) ** 2, torch.tensor(table, dtype=F64)[index], rtol=1e-13, atol=0)
    rho = p.sigma(float64([400.0, 400.5, 401.0])) / p.alpha(float64([400.0, 400.5, 401.0]))
    torch.testing.assert_close(rho[1], (rho[0] * rho[2]).sqrt(), rtol=1e-13, atol=0)
    torch.testing.assert_close(p.time_of(p.lambda_of(index)), index.double(), rtol=0, atol=1e-9)


def test_sigma_zero_is_a_legal_end_of_every_way_to_write_a_grid(case: Case):
    p = case.process
    high = float(p.sigma_of(spread_times(case)[20]))
    for grid in (sigmas([high, high / 2, 0.0]), lambdas([-1.0, 0.5, math.inf])):
        assert preset("ddim", grid, p).times[-1] == p.t_clean


def test_processes_are_differentiable_in_time_and_in_lambda(case: Case):
    t = spread_times(case, 5).requires_grad_()
    p = case.process
    for function in (p.alpha, p.sigma, p.lambda_of, p.log_alpha):
        assert torch.autograd.gradcheck(function, (t,))
    assert torch.autograd.gradcheck(p.time_of, (p.lambda_of(t).detach().requires_grad_(),))


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_what_a_network_predicts_and_the_data_prediction_convert_into_each_other(kind: str, case: Case):
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 41, 6, generator=generator, dtype=F64)
    alpha, sigma = (f(spread_times(case))[:, None] for f in (case.process.alpha, case.process.sigma))
    x = alpha * x0 + sigma * eps
    f = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "flow": eps - x0}[kind]
    size = 1 / float(alpha.min()) if kind == "eps" else 1.0  # eps says little about x0 where alpha is small
    torch.testing.assert_close(prediction.to_denoised(kind, f, x, alpha, sigma), x0, rtol=0, atol=1e-12 * size)
    answer = torch.randn(x.shape, generator=generator, dtype=F64)
    there = prediction.from_denoised(kind, answer, x, alpha, sigma)
    torch.testing.assert_close(prediction.to_denoised(kind, there, x, alpha, sigma), answer, rtol=1e-11, atol=1e-11)


# -------------------------------------------------------------------------------------------------------- differentiable


def numbers_of(table: Tableau) -> Tensor:
    """Everything a table says, as one vector [..., numbers]."""
    dense = table.dense()
    said = [torch.as_tensor(v, dtype=F64) for e in table.evals for v in (e.label, e.alpha, e.sigma)]
    columns = [*dense.a, *dense.B.flatten(0, 1), *dense.G.flatten(0, 1), *dense.M, *said]
    return torch.stack(torch.broadcast_tensors(*columns), -1)


INNER = {"vp-linear": [0.9, 0.6, 0.4, 0.25, 0.1], "ve": [10.0, 4.0, 1.5, 0.6, 0.2]}


@pytest.mark.parametrize("family", INNER)
@every_preset
def test_compile_is_differentiable_in_times_and_labels(name: str, family: str):
    defined_on(name, family)
    times = float64(INNER[family]).requires_grad_()
    labels = (times.detach()[:-1] * 0.97).requires_grad_()
    schedule = preset(name, INNER[family], CASES[family].process)
    assert torch.autograd.gradcheck(lambda t, s: numbers_of(compile(schedule, times=t, labels=s)), (times, labels), fast_mode=True)


@every_preset
def test_a_batch_of_times_compiles_to_the_tables_of_each(name: str, case: Case):
    defined_on(name, name_of(case.process))
    inner = torch.tensor([[0.8, 0.5, 0.2], [0.7, 0.6, 0.3], [0.9, 0.4, 0.05]], dtype=F64)
    for clean in (False, True):
        end = case.process.t_clean if clean else case.end
        times = torch.cat([torch.full((3, 1), case.start), end + (case.start - end) * inner, torch.full((3, 1), end)], 1).double()
        labels = times[:, :-1] * 0.99
        schedule = preset(name, times[0].tolist(), case.process)
        batched = numbers_of(compile(schedule, times=times, labels=labels))
        apart = torch.stack([numbers_of(compile(schedule, times=t, labels=s)) for t, s in zip(times, labels, strict=True)])
        mapped = torch.func.vmap(lambda t, s, schedule=schedule: numbers_of(compile(schedule, times=t, labels=s)))(times, labels)
        moved = tuple(msgspec.structs.replace(step, to=t) for step, t in zip(schedule.steps, times[1, 1:].tolist(), strict=True))
        plain = numbers_of(compile(SolverSchedule(case.process, float(times[1, 0]), moved)))
        torch.testing.assert_close(batched, apart, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mapped, apart, rtol=1e-12, atol=1e-12)
        rows = plain.numel() - 3 * compile(schedule).nfe  # all but the evaluations, whose labels differ
        assert plain.numel() == apart[1].numel()
        torch.testing.assert_close(plain[:rows], apart[1, :rows], rtol=1e-12, atol=1e-12)


def stick_breaking(case: Case, gaps: Tensor) -> Tensor:
    """Times from the start to the clean end with the given gaps: how a learner writes them, so both ends carry a gradient."""
    ends = torch.cat([torch.zeros(1, dtype=F64), gaps.softmax(0).cumsum(0)])
    return case.start + (case.process.t_clean - case.start) * ends / ends[-1]


@pytest.mark.parametrize(("name", "eta"), [*((name, 0.0) for name in DISTINCT), ("ddim", 1.0)])
def test_both_kinds_of_gradient_survive_a_clean_end(name: str, case: Case, eta: float):
    defined_on(name, name_of(case.process))
    gaps = float64([0.3, 0.1, -0.2, 0.2]).requires_grad_()
    times = [*stick_breaking(case, gaps.detach())[:-1].tolist(), case.process.t_clean]
    schedule = preset(name, times, case.process, **({"eta": eta} if eta else {}))

    def function(gaps: Tensor) -> Tensor:
        dense = compile(schedule, times=stick_breaking(case, gaps)).dense()
        weight = torch.linspace(-1, 1, dense.B.numel(), dtype=F64)
        return (dense.B.flatten() * weight).sum() + (dense.a**2).sum() + (dense.G**2).sum()

    tangent, width = float64([1.0, 0.0, -0.5, 2.0]), 1e-5
    (backward,) = torch.autograd.grad(function(gaps), gaps)
    _, forward = torch.func.jvp(function, (gaps.detach(),), (tangent,))
    numeric = (function(gaps.detach() + width * tangent) - function(gaps.detach() - width * tangent)) / (2 * width)
    torch.testing.assert_close(forward, numeric, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close((backward * tangent).sum(), forward, rtol=1e-9, atol=1e-10)


def test_a_gradient_flows_through_sample_to_times_and_labels():
    p, data = CASES["vp-linear"].process, anisotropic(3)
    times = float64(INNER["vp-linear"]).requires_grad_()
    labels = times.detach()[:-1].clone().requires_grad_()
    schedule = preset("unipc-3", INNER["vp-linear"], p)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)

    def told(x: Tensor, at) -> Tensor:
        return data(x, at) + 0.1 * torch.sin(at.label * x)

    assert torch.autograd.gradcheck(lambda t, s: sample(told, x, compile(schedule, times=t, labels=s)), (times, labels), fast_mode=True)


def test_one_start_may_be_mapped_over_many_networks():
    data, table = anisotropic(3), compile(preset("unipc-3", INNER["ve"], CASES["ve"].process))
    x, gains = initial([1], (3,), table, dtype=F64), float64([0.5, 1.0, 1.5])
    together = torch.func.vmap(lambda gain: sample(lambda x, at: gain * data(x, at), x, table), randomness="error")(gains)
    apart = torch.stack([sample(lambda x, at, gain=gain: gain * data(x, at), x, table) for gain in gains])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


def test_a_batch_of_candidates_samples_as_each_alone():
    p, data = CASES["flow"].process, anisotropic(3)
    times = torch.tensor([[1.0, 0.7, 0.5, 0.2, 0.0], [1.0, 0.8, 0.3, 0.1, 0.0]], dtype=F64)
    schedule = preset("dpmpp-2m", times[0].tolist(), p)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    together = sample(data, x, compile(schedule, times=times))
    for k in range(2):
        alone = sample(data, x[k : k + 1], compile(preset("dpmpp-2m", times[k].tolist(), p)))
        torch.testing.assert_close(together[k], alone[0], rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------------------------- SDE rows


def noisy_schedule(case: Case, eta: float, noise: str, order: int, steps: int, clean: bool = False) -> SolverSchedule:
    times = case.grid(steps, clean)
    return SolverSchedule(
        case.process, times[0], tuple(Step(to=t, order=min(order, i + 1), eta=eta, noise=noise) for i, t in enumerate(times[1:]))
    )


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("noise", ["sde", "er", "ancestral"])
@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_stochastic_rows_carry_exactly_the_variance_of_a_point_mass(eta: float, noise: str, order: int, case: Case):
    for clean in (False, True):
        table = compile(noisy_schedule(case, eta, noise, order, 6, clean))
        dense, p = table.dense(), case.process
        for row, a, b, g in zip(table.rows, dense.a, dense.B, dense.G, strict=True):
            size = max(1.0, float(a.abs()), *b.abs().tolist())
            sigma2 = float(p.sigma(row.time)) ** 2
            assert abs(float((a * p.sigma(case.start)) ** 2 + (g**2).sum()) - sigma2) <= 1e-12 * max(1.0, sigma2)
            assert abs(float(a * p.alpha(case.start) + b.sum() - p.alpha(row.time))) <= 1e-12 * size


@pytest.mark.parametrize("eta", [1.5, 4.0])
@pytest.mark.parametrize("noise", ["sde", "ancestral"])
def test_more_noise_than_there_is_room_for_is_capped_not_added(noise: str, eta: float):
    p = process("ve")
    steps = tuple(Step(to=t, eta=eta, noise=noise) for t in (5.0, 3.0, 1.0))
    dense = compile(SolverSchedule(p, 10.0, steps)).dense()
    variance = dense.a**2 * 100 + (dense.G**2).sum(1)
    torch.testing.assert_close(variance, float64([100.0, 25.0, 9.0, 1.0]), rtol=1e-12, atol=0)


def test_the_two_kinds_of_noise_agree_at_eta_zero_and_one_and_nowhere_between(case: Case):
    tables = {
        (eta, noise): compile(noisy_schedule(case, eta, noise, 1, 5))
        for eta, noise in itertools.product((0.0, 0.5, 1.0), ("sde", "ancestral"))
    }
    assert_same_sampler(tables[0.0, "sde"], tables[0.0, "ancestral"])
    assert_same_sampler(tables[1.0, "sde"], tables[1.0, "ancestral"])
    difference = tables[0.5, "sde"].dense().G - tables[0.5, "ancestral"].dense().G
    assert difference.abs().max() > 1e-3


def test_ddim_eta_is_the_formula_of_its_paper():
    p, eta = CASES["vp-discrete"].process, 0.7
    times = [999.0, 700.0, 333.0, 0.0]
    abar = p.alpha(float64(times)) ** 2
    table = compile(preset("ddim", times, p, eta=eta))
    for i in range(3):
        now, then = abar[i], abar[i + 1]
        c = eta * ((1 - then) / (1 - now)).sqrt() * (1 - now / then).sqrt()  # Song et al. 2021, eq. 16
        keep = ((1 - then - c**2) / (1 - now)).sqrt()  # eq. 12 with eps = (x - sqrt(abar) D) / sqrt(1 - abar)
        terms = table.rows[i + 1].terms
        torch.testing.assert_close(
            float64([terms[f"x{i}"], terms[f"D{i}"], terms[f"z{i}"]]),
            torch.stack([keep, then.sqrt() - now.sqrt() * keep, c]),
            rtol=1e-12,
            atol=0,
        )


def propagated_variance(table: Tableau, data: Gaussian, start_variance: Tensor) -> Tensor:
    """Variance [rows, dim] of every row on Gaussian data: each is a linear form of x_T and the noises, row by row."""
    names = ["xT", *table.noises]
    forms = {slot: torch.zeros(len(names), data.scale.numel(), dtype=F64) for slot in (*names, "mu", "one")}
    for k, slot in enumerate(names):
        forms[slot][k] = 1
    answers = itertools.count()
    for row in table.rows:
        forms[row.slot] = sum(c * forms[slot] for slot, c in row.terms.items())
        if row.evaluation:  # D - E[D] = gain (x - E[x])
            forms[f"D{next(answers)}"] = data.gain(row.evaluation.at.alpha, row.evaluation.at.sigma) * forms[row.slot]
    scale = torch.ones(len(names), data.scale.numel(), dtype=F64)
    scale[0] = start_variance
    return torch.stack([(forms[row.slot] ** 2 * scale).sum(0) for row in table.rows])


@pytest.mark.parametrize("family", SMOOTH)
@pytest.mark.parametrize(("noise", "order"), [("sde", 1), ("sde", 2), ("er", 2), ("ancestral", 1), ("ancestral", 2)])
def test_sampled_variance_is_the_variance_of_the_rows(noise: str, order: int, family: str):
    p, data, count = CASES[family].process, anisotropic(4), 40_000
    start, end = SMOOTH[family]
    case = Case(p, start, end)
    table = compile(noisy_schedule(case, 0.8, noise, order, 5))
    seen: dict[str, Tensor] = {}

    def watch(row: Row, x: Tensor, denoised: Tensor | None) -> None:
        seen[row.slot] = x.var(0)

    generator = torch.Generator().manual_seed(11)
    xi = [torch.randn(count, 4, generator=generator, dtype=F64) for _ in table.noises]
    x = p.alpha(start) * data.mean + data.spread(p, start) * torch.randn(count, 4, generator=generator, dtype=F64)
    sample(data, x, table, noise=xi, callback=watch)
    expected = propagated_variance(table, data, data.spread(p, start) ** 2)
    measured = torch.stack([seen[row.slot] for row in table.rows])
    assert ((measured / expected - 1).abs() < 4 * math.sqrt(2 / (count - 1))).all()


STOCHASTIC = [(name, {}) for name, known in DISTINCT.items() if known.noise != "none"]
STOCHASTIC += [("ddim", {"eta": 0.7}), ("dpm-fast", {"eta": 0.5}), ("sa-solver", {"window": "whole", "tau": 0.8})]


@pytest.mark.parametrize(
    ("name", "options", "family"), [(name, words, family) for name, words in STOCHASTIC for family in PRESETS[name].processes or SMOOTH]
)
def test_every_stochastic_preset_samples_the_marginal_of_a_gaussian(name: str, options: dict, family: str):
    """Mean and variance of what is drawn, within their own four sigmas of those of the rows and, where it converges, of the data."""
    p, data, count = CASES[family].process, anisotropic(4), 4000
    times = smooth_grid(family, 48 if PRESETS[name].order > 1 else 192, rough=False)
    table = compile(preset(name, times, p, **options))
    generator = torch.Generator().manual_seed(11)
    xi = [torch.randn(count, 4, generator=generator, dtype=F64) for _ in table.noises]
    start = data.spread(p, times[0])
    x = sample(data, p.alpha(times[0]) * data.mean + start * torch.randn(count, 4, generator=generator, dtype=F64), table, noise=xi)
    own, true = propagated_variance(table, data, start**2)[-1], data.spread(p, times[-1]) ** 2
    for variance in (own, true) if PRESETS[name].order else (own,):
        assert ((x.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / (count - 1))).all()
        assert ((x.mean(0) - p.alpha(times[-1]) * data.mean).abs() < 4 * (variance / count).sqrt()).all() or not PRESETS[name].order


@pytest.mark.parametrize("family", SMOOTH)
@pytest.mark.parametrize("noise", ["sde", "ancestral"])
def test_the_variance_of_stochastic_rows_converges_to_that_of_the_data(noise: str, family: str):
    p, data = CASES[family].process, anisotropic()
    errors = []
    for count in (64, 128):
        times = smooth_grid(family, count, rough=False)
        table = compile(SolverSchedule(p, times[0], tuple(Step(to=t, eta=1.0, noise=noise) for t in times[1:])))
        found = propagated_variance(table, data, data.spread(p, times[0]) ** 2)[-1]
        errors.append(float((found - data.spread(p, times[-1]) ** 2).norm()))
    assert math.log2(errors[0] / errors[1]) >= 0.8


# ------------------------------------------------------------------------------------------------------ known identities


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("domain", [*DOMAINS, "index"])
def test_first_order_is_ddim_in_every_space_and_domain(space: str, domain: str, case: Case):
    for clean in (False, True):
        times = case.grid(6, clean)
        steps = tuple(Step(to=t, space=space, domain=domain) for t in times[1:])
        table = compile(SolverSchedule(case.process, times[0], steps))
        dense, ddim = table.dense(), compile(preset("ddim", times, case.process)).dense()
        size = max(1.0, float(dense.B.abs().max()))
        rows = list(table.visible)
        assert (dense.a[rows] - ddim.a).abs().max() <= 1e-12 * size
        assert (dense.B[rows] - ddim.B).abs().max() <= 1e-12 * size


@pytest.mark.parametrize("family", ["ve", "flow"])
def test_ddim_is_euler_in_sigma_on_ve_and_in_t_on_flow(family: str):
    case, data = CASES[family], anisotropic(3)
    times = case.grid(5, clean=True)
    x = torch.linspace(-2, 2, 3, dtype=F64)[None] * case.start
    euler = x
    for s, t in itertools.pairwise(times):
        alpha, sigma = float64([1.0 if family == "ve" else 1 - s])[0], float64([s])[0]
        denoised = data(euler, type(compile(preset("ddim", times, case.process)).evals[0].at)(sigma, alpha, sigma))
        velocity = (euler - denoised) / s  # dx/dsigma on VE, eps - x0 on flow
        euler = euler + (t - s) * velocity
    for name in ("ddim", "euler"):
        torch.testing.assert_close(sample(data, x, compile(preset(name, times, case.process))), euler, rtol=1e-12, atol=1e-12)


def test_dpmpp_2m_is_the_formula_of_its_paper(case: Case):
    times = [t for t in case.grid(8, clean=False) if case.process.alpha(t) > 0]
    table = compile(preset("dpmpp-2m", times, case.process))
    lam, alpha, sigma = (f(float64(times)) for f in (case.process.lambda_of, case.process.alpha, case.process.sigma))
    for i in range(len(times) - 1):
        h, keep = lam[i + 1] - lam[i], sigma[i + 1] / sigma[i]
        gain = -alpha[i + 1] * torch.expm1(-h)
        half = 1 / (2 * (lam[i] - lam[i - 1]) / h) if i else torch.zeros((), dtype=F64)  # Lu et al. 2022, algorithm 2
        expected = {f"x{i}": keep, f"D{i}": gain * (1 + half), f"D{i - 1}": -gain * half}
        terms = table.rows[i + 1].terms
        for slot, value in terms.items():
            torch.testing.assert_close(torch.tensor(value, dtype=F64), expected[slot], rtol=1e-11, atol=1e-13)
        assert len(terms) == (3 if i else 2)


def unipc_weights(order: int, lam: Tensor, i: int, kind: str, corrector: bool) -> Tensor:
    """UniPC's weights of D_k - D_i (k = i-1, ..., then the new one) from its linear system, Zhao et al. 2023, theorem 3.1 and app. A."""
    h = lam[i + 1] - lam[i]
    hh = -h
    b_h = hh if kind == "bh1" else torch.expm1(hh)
    rks = [(lam[i - k] - lam[i]) / h for k in range(1, order)] + ([torch.ones((), dtype=F64)] if corrector else [])
    if not rks:
        return torch.zeros(0, dtype=F64)
    if (not corrector and order == 2) or (corrector and order == 1):
        rho = float64([0.5])
    else:
        phi, factorial, rhs = torch.expm1(hh) / hh - 1, 1, []
        for k in range(1, len(rks) + 1):
            factorial *= k
            rhs.append(phi / hh * math.factorial(k) * hh / b_h)
            phi = phi / hh - 1 / math.factorial(k + 1)
        powers = torch.stack([torch.stack(rks) ** (k - 1) for k in range(1, len(rks) + 1)])
        rho = torch.linalg.solve(powers, torch.stack(rhs))
    return -b_h * rho / torch.stack(rks)


@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc_solves_the_linear_systems_of_its_paper(order: int, kind: str):
    p, times = CASES["vp-linear"].process, [0.95, 0.7, 0.52, 0.4, 0.26, 0.15, 0.1]
    lam, alpha, sigma = (f(float64(times)) for f in (p.lambda_of, p.alpha, p.sigma))
    table = compile(preset(f"unipc-{order}", times, p, moment=kind))
    rows = {row.slot: row.terms for row in table.rows}
    count = len(times) - 1
    for i in range(count):
        p_i = min(order, i + 1, count - i)
        for slot, corrector in ((f"x{i + 1}", False), (f"c{i + 1}", True)):
            if slot not in rows:
                assert i + 1 == count
                continue
            names = [f"D{i - k}" for k in range(1, p_i)] + ([f"D{i + 1}"] if corrector else [])
            weights = alpha[i + 1] * unipc_weights(p_i, lam, i, kind, corrector)
            expected = dict(zip(names, weights, strict=True))
            expected[f"D{i}"] = -alpha[i + 1] * torch.expm1(lam[i] - lam[i + 1]) - weights.sum()
            expected[f"c{i}" if i else "x0"] = sigma[i + 1] / sigma[i]
            assert set(rows[slot]) == set(expected)
            for name, value in rows[slot].items():
                torch.testing.assert_close(torch.tensor(value, dtype=F64), expected[name], rtol=1e-9, atol=1e-11)


def test_ipndm_has_the_constant_adams_bashforth_weights(case: Case):
    classical = [[1], [3, -1], [23, -16, 5], [55, -59, 37, -9]]
    divisors = [1, 2, 12, 24]
    times = [t for t in case.grid(6, clean=False) if case.process.alpha(t) > 0]
    p = case.process
    table = compile(preset("ipndm", times, p))
    for i in range(len(times) - 1):
        row = next(row for row in table.rows if row.slot == f"x{i + 1}")
        gain = float(p.sigma(times[i + 1]) - p.alpha(times[i + 1]) * p.sigma(times[i]) / p.alpha(times[i]))
        order = min(i, 3)
        for k in range(order + 1):
            expected = gain * classical[order][k] / divisors[order]
            if f"eps{i - k}" in row.terms:
                assert row.terms[f"eps{i - k}"] == pytest.approx(expected, rel=1e-11)
            else:  # an output that no later step reads is spelled out: eps = (x - alpha D) / sigma
                assert row.terms[f"D{i - k}"] == pytest.approx(-expected * float(p.alpha(times[i - k]) / p.sigma(times[i - k])), rel=1e-11)


def test_relaxation_scales_what_a_step_adds_to_the_first_order_step(case: Case):
    times = case.grid(4, clean=False)

    def table(order: int, relax: float) -> Tensor:
        steps = tuple(Step(to=t, order=min(order, i + 1), relax=relax, domain="t") for i, t in enumerate(times[1:]))
        rows = compile(SolverSchedule(case.process, times[0], steps)).rows
        return float64([rows[3].terms.get(slot, 0.0) for slot in ("x2", "D2", "D1", "D0")])

    first, full, half = table(1, 1.0), table(3, 1.0), table(3, 0.5)
    assert (full - first).abs().max() > 1e-6
    torch.testing.assert_close(half - first, (full - first) / 2, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- finite, NFE


def assert_finite(name: str, case: Case, clean: bool, counts: Iterable[int]) -> None:
    for steps in counts:
        table = tables_of(case, name, steps, clean)
        assert table.nfe == PRESETS[name].nfe(steps, clean)
        assert all(isinstance(c, float) for row in table.rows for c in row.terms.values())
        out = sample(anisotropic(3), initial([1, 2], (3,), table, dtype=F64), table, noise=[1, 2])
        assert out.dtype == F64
        assert out.isfinite().all()


@every_preset
def test_every_preset_stays_finite_from_one_evaluation_to_fifty(name: str, case: Case):
    """All step counts up to twenty and every fifth beyond, dealt out over the processes and their two ends; one and two on each."""
    counts, first = (*range(1, 21), *range(25, 51, 5)), 2 * list(CASES.values()).index(case)
    for clean in (False, True):
        assert_finite(name, case, clean, sorted({1, 2, *counts[first + clean :: 2 * len(PLAIN)]}))


@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
@every_preset
def test_a_preset_spends_exactly_the_evaluations_it_is_given(name: str, case: Case, clean: bool):
    defined_on(name, name_of(case.process))
    end = case.process.t_clean if clean else case.end
    for family, nfe in itertools.product(("karras", "uniform", "polynomial"), (1, 3, 10)):
        if any(PRESETS[name].nfe(steps, clean) == nfe for steps in range(1, nfe + 1)):
            schedule = preset_for_nfe(name, nfe, family, case.process, case.start, end)
            assert (schedule.times[0], schedule.times[-1]) == (case.start, end)
            assert compile(schedule).nfe == nfe
        else:
            with pytest.raises(ScheduleError, match="exactly"):
                preset_for_nfe(name, nfe, family, case.process, case.start, end)


# ------------------------------------------------------------------------------------------------------------- executor


def test_noise_by_seed_by_name_and_in_order_is_the_same_noise():
    case, data = CASES["ve"], anisotropic(3)
    table = compile(preset("ddim", [10.0, 3.0, 1.0, 0.1], case.process, eta=0.5))
    x, seeds = initial([5, 6], (3,), table), [5, 6]
    named = {name: draw(seeds, (3,), name) for name in table.noises}
    by_seed = sample(data, x, table, noise=seeds)
    assert torch.equal(by_seed, sample(data, x, table, noise=named))
    assert torch.equal(by_seed, sample(data, x, table, noise=list(named.values())))
    assert not torch.equal(by_seed, sample(data, x, table, noise=[5, 7]))
    assert len({tuple(z.flatten().tolist()) for z in named.values()} | {tuple(x.flatten().tolist())}) == 4


def test_noise_is_bitwise_independent_of_the_batch_and_standard_normal():
    whole = draw([3, 1, 4, 1], (2, 5), "z0")
    assert torch.equal(whole, torch.cat([draw([s], (2, 5), "z0") for s in (3, 1, 4, 1)]))
    assert torch.equal(whole[1], whole[3])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, draw([3, 1, 4, 1], (2, 5), "z1"))
    assert draw([], (2, 5), "z0").shape == (0, 2, 5)
    many = draw(range(200), (500,), "z0", dtype=F64)
    assert abs(float(many.mean())) < 4 / math.sqrt(100_000)
    assert abs(float(many.var()) - 1) < 4 * math.sqrt(2 / 100_000)
    assert abs(float((many[1:] * many[:-1]).mean())) < 4 / math.sqrt(99_500)


def test_initial_noise_has_the_sigma_of_the_first_evaluation(case: Case):
    table = tables_of(case, "ddim", 4, clean=False)
    torch.testing.assert_close(initial([9], (50,), table), draw([9], (50,), "xT") * float(case.process.sigma(case.start)))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_samples_of_a_batch_are_those_of_its_parts(case: Case, eta: float):
    data, seeds = anisotropic(7), [11, 22, 33, 44]
    table = compile(
        preset("ddim", case.grid(6, clean=True), case.process, eta=eta) if eta else preset("unipc-3", case.grid(6, True), case.process)
    )
    x = initial(seeds, (7,), table)
    whole = sample(data, x, table, noise=seeds)
    for parts in ([0, 1, 2, 3], [0, 2]):
        bounds = [*parts, 4]
        split = torch.cat([sample(data, x[i:j], table, noise=seeds[i:j]) for i, j in itertools.pairwise(bounds)])
        torch.testing.assert_close(split, whole, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_preset
def test_half_precision_is_float32_arithmetic_around_a_half_precision_network(name: str, case: Case, dtype: torch.dtype):
    data, table = anisotropic(5), tables_of(case, name, 6, clean=True)
    x = initial([1, 2], (5,), table).to(dtype)
    asked = []

    def network(x: Tensor, at) -> Tensor:
        asked.append(x.dtype)
        return data(x.float(), at).to(dtype)

    half = sample(network, x, table, noise=[1, 2])
    full = sample(lambda x, at: network(x.to(dtype), at).float(), x.float(), table, noise=[1, 2])
    assert half.dtype == dtype
    assert set(asked) == {dtype}
    assert torch.equal(half, full.to(dtype))


@every_preset
def test_float32_and_float64_agree_within_the_rounding_of_the_rows(name: str, case: Case):
    data, table = anisotropic(5), tables_of(case, name, 8, clean=True)
    x = initial([1, 2], (5,), table, dtype=F64)
    exact = sample(data, x, table, noise=[1, 2])
    single = sample(data, x.float(), table, noise=[1, 2])
    dense = table.dense()
    size = float(dense.a.abs().max() * x.abs().max() + dense.B.abs().sum(1).max() * 4)  # |D| < 4 for this data
    size += 4 * float(dense.G.abs().sum(1).max())
    assert single.dtype == torch.float32
    assert (single - exact).abs().max() <= 8 * torch.finfo(torch.float32).eps * size


def live_slots(table: Tableau) -> int:
    state, request = advance(begin(table, torch.ones(1, 2), noise=[1], mu=torch.zeros(2)))
    peak = len(state.slots)
    while request is not None:
        state, request = advance(state, request.x * 0.5)
        peak = max(peak, len(state.slots))
    return peak


@every_preset
def test_memory_does_not_grow_with_the_number_of_steps(name: str, case: Case):
    assert len({live_slots(tables_of(case, name, steps, clean=False)) for steps in (8, 16, 48)}) == 1


def test_memory_is_that_of_the_method():
    case = CASES["vp-linear"]
    assert live_slots(tables_of(case, "ddim", 20, clean=False)) == 1  # the state, between two requests
    assert live_slots(tables_of(case, "dpmpp-2m", 20, clean=False)) <= 2  # and one old answer
    assert live_slots(tables_of(case, "ipndm", 20, clean=False)) <= 4  # and three old outputs


def test_an_answer_that_no_row_reads_is_not_kept():
    evaluation = compile(preset("ddim", [10.0, 1.0], process("ve"))).rows[0].evaluation
    rows = [Row("x0", 1.0, {"xT": 1.0}, evaluation)]
    rows += [Row(f"x{k}", 1.0, {f"x{k - 1}": 1.0}, evaluation) for k in range(1, 20)]
    assert live_slots(Tableau(tuple(rows))) == 1


@every_preset
def test_every_row_is_asked_or_read_later(name: str, case: Case):
    table = tables_of(case, name, 8, clean=False)
    read = {slot for row in table.rows for slot in row.terms}
    assert all(row.evaluation or row.slot in read for row in table.rows[:-1])
    assert {f"D{k}" for k in range(table.nfe)} <= read
    assert all(c != 0 for row in table.rows for c in row.terms.values())


def run_on(state: State, request, denoiser) -> Tensor:
    while request is not None:
        state, request = advance(state, denoiser(request.x, request.at, **request.knobs))
    return state.x


def test_a_state_can_be_forked_and_stays_what_it_was():
    case, data, other = CASES["flow"], anisotropic(3), Gaussian(torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64))
    table = compile(preset("unipc-3", case.grid(6, clean=True), case.process))
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    state, request = advance(begin(table, x))
    for _ in range(3):
        state, request = advance(state, data(request.x, request.at))
    before = {name: value.clone() for name, value in state.slots.items()}
    first, second, again = (run_on(state, request, d) for d in (data, other, data))
    assert {name: value.tolist() for name, value in state.slots.items()} == {name: value.tolist() for name, value in before.items()}
    assert torch.equal(first, again)
    assert torch.equal(first, sample(data, x, table))
    asked = itertools.count()
    assert torch.equal(second, sample(lambda x, at: (data if next(asked) < 3 else other)(x, at), x, table))
    assert not torch.equal(first, second)


def test_the_callback_sees_every_row_and_may_replace_its_state():
    case, data = CASES["ve"], anisotropic(3)
    table = compile(preset("unipc-2", [10.0, 4.0, 1.0, 0.2], case.process))
    x = torch.ones(1, 3, dtype=F64)
    seen = []

    def look(row: Row, x: Tensor, denoised: Tensor | None) -> None:
        seen.append((row.slot, denoised is None))

    plain = sample(data, x, table, callback=look)
    assert seen == [(row.slot, row.evaluation is None) for row in table.rows]
    assert torch.equal(plain, sample(data, x, table))
    last = table.rows[-1].slot
    assert torch.equal(
        sample(data, x, table, callback=lambda row, x, d: x * 0 + 5 if row.slot == last else None), torch.full((1, 3), 5.0, dtype=F64)
    )
    # replacing a state is the same as starting the later rows from the replaced one
    moved = sample(data, x, table, callback=lambda row, x, d: x + 1 if row.slot == "c1" else None)
    weight = float(table.rows[[row.slot for row in table.rows].index("x2")].terms["c1"])
    seen_at_x2 = []
    for shift in (0, 1):
        sample(
            data,
            x,
            table,
            callback=lambda row, x, d, shift=shift: seen_at_x2.append(x) if row.slot == "x2" else (x + shift if row.slot == "c1" else None),
        )
    torch.testing.assert_close(seen_at_x2[1] - seen_at_x2[0], torch.full((1, 3), weight, dtype=F64))
    assert not torch.equal(moved, plain)


def test_labels_and_knobs_reach_the_network_while_alpha_and_sigma_stay_the_states():
    p = CASES["vp-linear"].process
    steps = (Step(to=0.5, label=0.8, knobs={"guidance": 3.0}), Step(to=0.2, knobs={"skip": 0.5}))
    asked = []

    def network(x: Tensor, at, **knobs: float) -> Tensor:
        asked.append((float(at.label), float(at.alpha), float(at.sigma), knobs))
        return x

    sample(network, torch.ones(1, 1), compile(SolverSchedule(p, 0.9, steps)), guidance=1.0, other=2.0)
    here = [(float(p.alpha(t)), float(p.sigma(t))) for t in (0.9, 0.5)]
    assert asked == [(0.8, *here[0], {"guidance": 3.0, "other": 2.0}), (0.5, *here[1], {"guidance": 1.0, "other": 2.0, "skip": 0.5})]


def test_the_input_is_left_alone_and_an_empty_batch_is_legal():
    table = tables_of(CASES["ve"], "dpmpp-2m", 4, clean=True)
    x = torch.ones(2, 3)
    sample(lambda x, at: x * 0.5, x, table)
    assert torch.equal(x, torch.ones(2, 3))
    assert sample(lambda x, at: x * 0.5, torch.ones(0, 3), table).shape == (0, 3)
