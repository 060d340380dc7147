"""DPM-Solver-v3: against its formulas in noise prediction written out a second time, its identities, and exact Gaussians."""

import math
from pathlib import Path

import pytest
import torch
from commands import run
from oracle import CASES, Gaussian, anisotropic, mixture
from test_solver_laws import graded, smooth_grid
from torch import Tensor

from solvers import At, ScheduleError, compile, load, preset, probe, sample
from solvers.dpm_solver_v3 import Statistics, dpm_solver_v3, plain
from solvers.process import Process
from teacher import models
from teacher import statistics as measured
from teacher.trajectories import targets

F64 = torch.float64
VP = CASES["vp-linear"].process


def knots(process: Process, start: float, end: float, count: int) -> Tensor:
    return torch.linspace(float(process.lambda_of(start)), float(process.lambda_of(end)), count + 1, dtype=F64)


def smooth(lambdas: Tensor, dim: int) -> Statistics:
    """Any smooth l, s, b that differ in every element."""
    u, phase = lambdas[:, None] / 4, torch.arange(dim, dtype=F64)
    return Statistics(lambdas, 0.5 + 0.4 * (u + phase).sin(), 0.3 * (u - phase).cos(), 0.2 * (2 * u + phase).sin())


def running(x: Tensor, y: Tensor) -> Tensor:
    parts = (x[1:] - x[:-1])[:, None] * (y[1:] + y[:-1]) / 2
    return torch.cat([torch.zeros_like(y[:1]), parts.cumsum(0)])


def v3(model, process: Process, statistics: Statistics, index: list[int], x: Tensor, order: int, p_pseudo, corrector: str) -> Tensor:
    """Zheng et al. 2023, algorithms 1 and 2, with eps, absolute integrals, and grid points that are knots of the statistics."""
    lam, l, s, b = statistics.lambdas, statistics.l, statistics.s, statistics.b  # noqa: E741 (the letters of the paper)
    L, S = running(lam, l), running(lam, s)
    In, Bc = running(lam, (L + S).exp()), running(lam, (-S).exp() * b)
    C = running(lam, (L + S).exp() * Bc)
    times = [float(process.time_of(lam[i])) for i in index]
    alpha, sigma = process.alpha(torch.tensor(times, dtype=F64)), process.sigma(torch.tensor(times, dtype=F64))

    def update(x: Tensor, j: int, t: int, nodes: list[int], f: dict[int, Tensor], pseudo) -> Tensor:
        a, z = index[j], index[t]
        g = [(S[a] - S[index[n]]).exp() * f[n] - S[a].exp() * (Bc[index[n]] - Bc[a]) for n in nodes]
        new = alpha[t] / alpha[j] * (L[a] - L[z]).exp() * x - alpha[t] * (-L[z] - S[a]).exp() * (In[z] - In[a]) * g[0]
        new = new - alpha[t] * (-L[z]).exp() * (C[z] - C[a] - Bc[a] * (In[z] - In[a]))
        places, count = [lam[index[n]] for n in nodes], len(nodes) - 1
        derivatives = []
        if pseudo:
            table = list(g)
            for k in range(1, count + 1):
                table = [(table[m] - table[m + 1]) / (places[m] - places[m + k]) for m in range(count + 1 - k)]
                derivatives.append(table[0] * math.factorial(k))
        elif count:
            powers = torch.stack([torch.stack([(p - places[0]) ** k for k in range(1, count + 1)]) for p in places[1:]])
            solved = torch.linalg.solve(powers, torch.stack([(v - g[0]).flatten() for v in g[1:]]))
            derivatives = [solved[k].reshape(x.shape) * math.factorial(k + 1) for k in range(count)]
        for k in range(1, count + 1):
            part = slice(a, z + 1)
            weight = ((L + S)[part] - (L + S)[a]).exp() * ((lam[part] - lam[a]) ** k / math.factorial(k))[:, None]
            new = new - alpha[t] * (L[a] - L[z]).exp() * running(lam[part], weight)[-1] * derivatives[k - 1]
        return new

    f: dict[int, Tensor] = {}
    before, steps = 0, len(index) - 1
    corrected = x
    for i in range(steps):
        data = model(x, At(*(torch.tensor(float(v), dtype=F64) for v in (times[i], alpha[i], sigma[i]))))
        eps = (x - alpha[i] * data) / sigma[i]
        f[i] = (sigma[i] * eps - l[index[i]] * x) / alpha[i]
        count = before + (corrector == "pseudo")
        if corrector != "none" and count > 1:
            x = update(corrected, i - 1, i, [i - 1, i, *range(i - 2, i - count, -1)], f, corrector == "pseudo")
        corrected = x
        before = min(order, i + 1, steps - i)
        x = update(x, i, i + 1, list(range(i, i - before, -1)), f, p_pseudo)
    return x


@pytest.mark.parametrize("corrector", ["none", "exact", "pseudo"])
@pytest.mark.parametrize("derivatives", ["exact", "pseudo"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_rows_are_the_formulas_of_the_paper(order: int, derivatives: str, corrector: str):
    lambdas = knots(VP, 0.9, 0.05, 300)
    statistics, index = smooth(lambdas, 4), [0, 40, 70, 130, 180, 260, 300]
    times = [float(VP.time_of(lambdas[i])) for i in index]
    table = dpm_solver_v3(times, VP, statistics, order, derivatives, corrector)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    theirs = v3(mixture(), VP, statistics, index, x, order, derivatives == "pseudo", corrector)
    assert (sample(mixture(), x, table) - theirs).abs().max() < 1e-11
    assert table.nfe == 6


@pytest.mark.parametrize("family", ["vp-linear", "ve", "flow"])
@pytest.mark.parametrize(("order", "name"), [(1, "ddim"), (2, "res-2m"), (3, "res-3m")])
def test_with_plain_statistics_it_is_exponential_adams_up_to_the_trapezoid(order: int, name: str, family: str):
    p, (start, end) = CASES[family].process, {"vp-linear": (0.9, 0.1), "ve": (10.0, 0.2), "flow": (0.9, 0.1)}[family]
    lambdas = knots(p, start, end, 6)
    times = [start, *(float(p.time_of(v)) for v in lambdas[1:-1] + 0.1), end]
    exact = compile(preset(name, times, p)).dense()
    errors = []
    for count in (200, 400):
        table = dpm_solver_v3(times, p, plain(knots(p, start, end, count), (2,)), order, tail="full")
        shown = [i for i, row in enumerate(table.rows) if row.evaluation or row is table.rows[-1]]
        dense = table.dense()
        assert (dense.a[shown] - exact.a[:, None]).abs().max() < 1e-12
        errors.append(float((dense.B[shown] - exact.B[..., None]).abs().max()))
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] > 3.5  # second order in the knots


@pytest.mark.parametrize("family", ["vp-linear", "ve", "flow"])
@pytest.mark.parametrize(
    ("order", "corrector", "expected"), [(1, "none", 1), (2, "none", 2), (3, "none", 3), (2, "pseudo", 2), (3, "exact", 3)]
)
def test_it_converges_at_its_order_whatever_the_statistics(order: int, corrector: str, expected: int, family: str):
    assert slope(family, order, corrector) >= expected - 0.2


def slope(family: str, order: int, corrector: str) -> float:
    """Of the error on a Gaussian with statistics that are not its own."""
    p, data, errors = CASES[family].process, anisotropic(4), []
    for count in (32, 64) if corrector == "none" else (128, 256):  # errors of the corrected cross zero before
        times = graded(smooth_grid(family, count, rough=False), 10)
        table = dpm_solver_v3(times, p, smooth(knots(p, times[0], times[-1], 8000), 4), order, corrector=corrector, tail="full")
        x = torch.linspace(1.3, -0.9, 4, dtype=F64)[None] * data.spread(p, times[0])
        errors.append(float((sample(data, x, table) - data.solution(p, x, times[0], times[-1])).norm()))
    return math.log2(errors[0] / errors[1])


def gaussian_statistics(data: Gaussian, p: Process, lambdas: Tensor) -> Statistics:
    """l = sigma^2 / (alpha^2 c^2 + sigma^2); f = -l m does not depend on x, so s = 0 and b = -m dl/dlambda."""
    ratio = torch.exp(2 * lambdas)[:, None] * data.scale**2
    l = 1 / (1 + ratio)  # noqa: E741
    return Statistics(lambdas, l, torch.zeros_like(l), data.mean * 2 * ratio * l**2)


@pytest.mark.parametrize("family", ["vp-linear", "ve", "flow"])
def test_with_the_statistics_of_a_gaussian_one_evaluation_solves_it(family: str):
    p, data, errors = CASES[family].process, anisotropic(4), []
    start, end = {"vp-linear": (0.9, 0.1), "ve": (10.0, 0.2), "flow": (0.9, 0.1)}[family]
    x = torch.linspace(1.3, -0.9, 4, dtype=F64)[None] * data.spread(p, start)
    for count in (300, 600):
        table = dpm_solver_v3([start, end], p, gaussian_statistics(data, p, knots(p, start, end, count)), 1)
        errors.append(float((sample(data, x, table) - data.solution(p, x, start, end)).norm()))
    assert errors[1] < 1e-3 * float(data.solution(p, x, start, end).norm())
    assert errors[0] / errors[1] > 3.5


def test_the_clean_end_is_of_first_order_and_a_row_is_what_sampling_reads():
    statistics = smooth(knots(VP, 1.0, 0.1, 100), 3)
    table = dpm_solver_v3([1.0, 0.6, 0.3, 0.15, 0.0], VP, statistics, 3, corrector="exact", tail="full")
    dense = table.dense()
    assert dense.B[-1, -1].tolist() == [1.0] * 3
    assert not dense.a[-1].any()
    assert not dense.B[-1, :-1].any()
    x, answers = torch.ones(1, 3, dtype=F64), torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    seen, asked = [], iter(answers)
    sample(lambda x, at: (seen.append(x), next(asked))[1], x, table)
    shown = [i for i, row in enumerate(table.rows) if row.evaluation]
    for state, i in zip(seen, shown, strict=True):
        expected = dense.a[i] * x + dense.bias[i] + sum(b * d for b, d in zip(dense.B[i], answers, strict=True))
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-12)
    with pytest.raises(ScheduleError, match="does not fit"):
        probe(lambda denoiser, x: sample(denoiser, x, table))


def test_what_it_cannot_do_is_one_sentence():
    lambdas = knots(VP, 0.9, 0.1, 10)
    statistics, bad = plain(lambdas, (2,)), torch.full((11, 2), math.nan)
    for words in ({"order": 4}, {"derivatives": "best"}, {"corrector": "unic"}, {"tail": "short"}):
        with pytest.raises(ScheduleError, match="There is no"):
            dpm_solver_v3([0.9, 0.5, 0.1], VP, statistics, **words)
    with pytest.raises(ScheduleError, match="lies outside"):
        dpm_solver_v3([1.0, 0.5, 0.1], VP, statistics)
    for values in ((lambdas.flip(0), bad, bad, bad), (lambdas, bad[:5], bad, bad), (lambdas, bad, bad, bad)):
        with pytest.raises(ScheduleError, match="Statistics"):
            Statistics(*values)


# ----------------------------------------------------------------------------------------------------- measured statistics


def test_measured_statistics_of_a_gaussian_are_the_exact_ones(tmp_path: Path):
    teacher = models.load("gaussian")
    goal = targets(teacher, "fit", 32, root=tmp_path)
    found = measured.statistics(teacher, goal, knots=60, root=tmp_path)
    data = Gaussian(torch.zeros(16, dtype=F64), 1 / torch.arange(1, 17, dtype=F64))
    exact = gaussian_statistics(data, teacher.process, found.lambdas)
    inner = slice(1, -1)  # the two ends are measured a little inside
    assert (found.l - exact.l)[inner].abs().max() < 1e-3
    files = list(tmp_path.glob("*.safetensors"))
    again = measured.statistics(teacher, goal, knots=60, root=tmp_path)
    assert torch.equal(again.b, found.b)
    assert sorted(tmp_path.glob("*.safetensors")) == sorted(files)


def test_measured_statistics_make_a_mixture_easier_than_plain_ones(tmp_path: Path):
    teacher = models.load("mixture")
    start, end = 0.9, 0.05
    found = measured.statistics(teacher, targets(teacher, "fit", 64, 1e-2, tmp_path), knots=80, root=tmp_path)
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(8), dtype=F64)
    low, high = (float(teacher.process.lambda_of(t)) for t in (start, end))
    grid = [float(teacher.process.time_of(v)) for v in torch.linspace(low, high, 401, dtype=F64)]
    exact = sample(teacher.denoiser, x, compile(preset("unipc-3", grid, teacher.process)))
    errors = []
    for statistics in (found, plain(found.lambdas, (16,))):
        table = dpm_solver_v3([start, *grid[80:400:80], end], teacher.process, statistics, 1)
        errors.append(float((sample(teacher.denoiser, x, table) - exact).square().mean().sqrt()))
    assert errors[0] < errors[1]


def test_the_command_measures_statistics_and_writes_a_schedule_that_samples(tmp_path: Path):
    words = ("-m", "teacher.statistics", "gaussian", "--knots", 60, "--samples", 8)
    done = run(*words, "--nfe", 2, "--order", 1, "--to", tmp_path / "x.schedule.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[0]).exists()
    file, teacher = load(tmp_path / "x.schedule.json"), models.load("gaussian")
    file.require(teacher.card)
    table = file.tableau
    assert table.nfe == 2
    data = Gaussian(torch.zeros(16, dtype=F64), 1 / torch.arange(1, 17, dtype=F64))
    x = 80 * torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact = data.solution(teacher.process, x, teacher.start, teacher.end)
    plainly = dpm_solver_v3(table.times[::2], teacher.process, plain(knots(teacher.process, 80.0, 0.02, 80), (16,)), 1)
    ours, theirs = (float((sample(teacher.denoiser, x, t) - exact).norm()) for t in (table, plainly))
    assert ours < 0.05 * theirs  # what the statistics know is what two evaluations need
    for wrong, said in (
        ((*words, "--nfe", 2), "go together"),
        ((*words, "--nfe", 2, "--order", 4, "--to", "y.json"), "invalid choice: 4"),
        ((*words, "--nfe", 0, "--to", "y.json"), "error: A grid has a whole number of steps"),
    ):
        failed = run(*wrong, cwd=tmp_path)
        assert failed.returncode
        assert said in failed.stderr
    assert not (tmp_path / "y.json").exists()
