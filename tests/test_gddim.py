"""gDDIM: A and R against their equations, exact trajectories at any step, DEIS where operators are numbers, and its orders."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracle import CASES, Gaussian
from torch import Tensor

from solvers import (
    At,
    Evaluation,
    ScheduleError,
    Tableau,
    compile,
    gddim_bdm,
    gddim_cld,
    initial,
    load,
    named_grid,
    preset,
    process,
    sample,
    save,
)
from solvers.blurring import Blurring
from solvers.gddim import gddim
from solvers.kinds import Matrix, Operator, cosines
from solvers.langevin import Damped

F64 = torch.float64
CLD = process("critically-damped")
BETA, MASS, GAMMA = 4.0, 0.25, 0.04
DRIFT = BETA * torch.tensor([[0.0, 1 / MASS], [-1.0, -2 / MASS**0.5]], dtype=F64)
NOISE = torch.tensor([[0.0, 0.0], [0.0, 2 * 2 * MASS**0.5 * BETA]], dtype=F64)  # G G^T
ODD = process("critically-damped", beta=3.0, mass=0.6, gamma=0.3)


def at_times(*times: float) -> Tensor:
    return torch.tensor(times, dtype=F64)


def derivative(f: Callable[[Tensor], Tensor], t: float) -> tuple[Tensor, Tensor]:
    """f and df/dt at one time, of a function of times [n]."""
    value, slope = torch.func.jvp(f, (at_times(t),), (at_times(1.0),))
    return value[0], slope[0]


# ------------------------------------------------------------------------------------------------------ the linear diffusions


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize("p", [CLD, ODD], ids=["standard", "odd"])
def test_the_critically_damped_roots_obey_their_differential_equations(p, scale: float):
    drift = p.beta * torch.tensor([[0.0, 1 / p.mass], [-1.0, -2 / p.mass**0.5]], dtype=F64)
    noise = torch.tensor([[0.0, 0.0], [0.0, 4 * p.mass**0.5 * p.beta]], dtype=F64)
    damped = Damped(p.rate, p.mass, p.gamma, scale)
    for t in (1e-3, 0.01, 0.1, 0.5, 1.0):
        mean, slope = derivative(damped.mean, t)
        torch.testing.assert_close(slope, drift @ mean, rtol=1e-11, atol=1e-11)
        root, slope = derivative(damped.root, t)
        torch.testing.assert_close(slope, drift @ root + noise @ torch.linalg.inv(root).T / 2, rtol=1e-7, atol=1e-7)
        covariance, slope = derivative(lambda t: damped.root(t) @ damped.root(t).mT, t)
        torch.testing.assert_close(slope, drift @ covariance + covariance @ drift.T + noise, rtol=1e-8, atol=1e-8)
    first = damped.root(at_times(0.0))[0]
    torch.testing.assert_close(first @ first.T, torch.diag(at_times(scale**2, p.gamma * p.mass)), rtol=0, atol=1e-14)
    torch.testing.assert_close(damped.mean(at_times(0.0))[0], torch.eye(2, dtype=F64), rtol=0, atol=0)


def test_the_process_is_the_position_of_the_diffusion_and_its_time_is_the_inverse():
    for p in (CLD, ODD):
        t = torch.logspace(-5, 0, 40, dtype=F64)
        damped = Damped(p.rate, p.mass, p.gamma)
        torch.testing.assert_close(p.alpha(t), damped.mean(t)[:, 0, 0], rtol=1e-12, atol=0)
        torch.testing.assert_close(p.sigma(t), (damped.root(t) @ damped.root(t).mT)[:, 0, 0].sqrt(), rtol=1e-9, atol=0)
        torch.testing.assert_close(p.time_of(p.lambda_of(t)), t, rtol=1e-9, atol=0)
        assert p.time_of(math.inf) == 0
        assert (p.alpha(0.0), p.sigma(0.0)) == (1, 0)
        lambdas = p.lambda_of(t[10:]).requires_grad_()
        (slope,) = torch.autograd.grad(p.time_of(lambdas).sum(), lambdas)
        _, forward = torch.func.jvp(p.lambda_of, (t[10:],), (torch.ones_like(t[10:]),))
        torch.testing.assert_close(slope, 1 / forward, rtol=1e-6, atol=0)


def test_blurring_fades_frequencies_by_the_papers_formula():
    p = process("vp-cosine")
    fading = Blurring(p, (4, 6), blur=20.0, least=0.001)
    t = 0.3
    for k, m in itertools.product(range(4), range(6)):
        squares = (math.pi * k / 4) ** 2 + (math.pi * m / 6) ** 2
        blur = 20 * math.sin(math.pi / 2 * t / p.t_max) ** 2
        expected = float(p.alpha(t)) * ((1 - 0.001) * math.exp(-squares * blur**2 / 2) + 0.001)
        assert float(fading.alpha(at_times(t))[0, k, m]) == pytest.approx(expected, rel=1e-12)


# --------------------------------------------------------------------------------------- exact solutions, in cosine space and CLD


def in_cosines(answer: Callable[[Tensor, Tensor, Tensor], Tensor], fading: Blurring) -> Callable[[Tensor, At], Tensor]:
    """The denoiser of data that are described in the cosine basis: answer(u, alpha_k, sigma)."""
    basis = cosines(fading.shape[0])

    def denoiser(x: Tensor, at: At) -> Tensor:
        return answer(x @ basis.T, fading.alpha(at.label.reshape(1))[0], at.sigma) @ basis

    return denoiser


def langevin_denoiser(data: Gaussian, weights: Tensor | None = None) -> Callable[[Tensor, At], Tensor]:
    """E[(x0, 0) | u] for u [batch, 2, dim]: data a Gaussian per dimension, or, with weights, one mixture along the first of its axes."""
    plain = Damped(CLD.rate, MASS, GAMMA)

    def denoiser(u: Tensor, at: At) -> Tensor:
        t = at.label.reshape(1)
        root, towards = plain.noise(t)[0], plain.mean(t)[0, :, 0]
        noise = root @ root.T
        m, c2 = data.mean, data.scale**2
        whole = noise + c2[..., None, None] * torch.outer(towards, towards)  # [.., 2, 2] the covariance of u
        centred = (u.movedim(1, -1) if weights is None else u.movedim(1, -1)[:, None]) - m[..., None] * towards
        solved = torch.linalg.solve(whole, centred[..., None])[..., 0]
        each = m + c2 * (solved @ towards)
        if weights is not None:  # components [components, dim]
            log = -(centred * solved).sum(-1) / 2 - torch.linalg.slogdet(whole)[1] / 2
            part = (weights.log() + log.sum(-1)).softmax(-1)
            each = (part[..., None] * each).sum(1)
        return torch.stack([each, torch.zeros_like(each)], 1)

    return denoiser


def flown(denoiser: Callable[[Tensor, At], Tensor], u: Tensor, start: float, end: float, steps: int = 200) -> Tensor:
    """The probability-flow ODE du = F u - G G^T score / 2 by Runge-Kutta, uniform in the root of the time."""
    plain = Damped(CLD.rate, MASS, GAMMA)

    def slope(q: float, u: Tensor) -> Tensor:
        t = at_times(q**2)
        mean, root = plain.mean(t)[0], plain.noise(t)[0]
        data = denoiser(u, At(t[0], CLD.alpha(t[0]), CLD.sigma(t[0])))
        rest = torch.einsum("ij,bjd->bid", mean, data)
        score = -torch.einsum("ij,bjd->bid", torch.linalg.inv(root @ root.T), u - rest)
        return 2 * q * torch.einsum("ij,bjd->bid", DRIFT, u) - q * torch.einsum("ij,bjd->bid", NOISE, score)

    q = torch.linspace(start**0.5, end**0.5, steps + 1, dtype=F64).tolist()
    for a, b in itertools.pairwise(q):
        h, middle = b - a, (a + b) / 2
        one = slope(a, u)
        two = slope(middle, u + h / 2 * one)
        three = slope(middle, u + h / 2 * two)
        u = u + h / 6 * (one + 2 * two + 2 * three + slope(b, u + h * three))
    return u


def from_u(table: Tableau, u: Tensor) -> Tensor:
    """The x_T whose first state is u."""
    (first,) = table.rows[0].terms.values()
    return Matrix(torch.linalg.inv(first.values)).apply(u) if isinstance(first, Operator) else u / first


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
def test_on_a_point_mass_every_state_is_exact_whatever_the_steps(clean: bool, order: int):
    noise = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=F64)
    for family in ("vp-linear", "ve", "flow", "vp-discrete"):
        p, case = CASES[family].process, CASES[family]
        grid = case.grid(4, clean)
        fading, point = Blurring(p, (6,), 9.0), torch.linspace(-1, 1, 6, dtype=F64)

        def state(t: float, fading=fading, point=point, p=p) -> Tensor:
            return ((fading.alpha(at_times(t))[0] * (cosines(6) @ point)) + p.sigma(t) * noise) @ cosines(6)

        table = gddim_bdm(grid, p, (6,), order, blur=9.0)
        found = sample(lambda x, at, point=point: point.expand_as(x), state(grid[0]), table)
        torch.testing.assert_close(found, state(grid[-1]), rtol=0, atol=1e-10 * float(p.sigma(grid[0]) + 1))
    grid, damped = [1.0, 0.6, 0.2, 0.05, 0.0 if clean else 0.004], Damped(CLD.rate, MASS, GAMMA)
    point, noise = at_times(0.8, -0.3), torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(2), dtype=F64)

    def langevin(t: float) -> Tensor:
        mean, root = damped.mean(at_times(t))[0], damped.root(at_times(t))[0]
        return mean[:, :1] * point + torch.einsum("ij,bjd->bid", root, noise)

    table = gddim_cld(grid, CLD, order)
    found = sample(lambda u, at: torch.stack([point, 0 * point]).expand_as(u), from_u(table, langevin(1.0)), table)
    torch.testing.assert_close(found, langevin(grid[-1]), rtol=0, atol=1e-10)
    if clean:
        torch.testing.assert_close(found[:, 0], point.expand(3, 2), rtol=0, atol=1e-10)


VP = CASES["vp-linear"].process
FADING = Blurring(VP, (6,), 7.0)
SCALE, MEAN = torch.linspace(0.3, 1.5, 6, dtype=F64), torch.linspace(-1, 1, 6, dtype=F64)
BLURRED_DENOISER = in_cosines(
    lambda u, alpha, sigma: MEAN + alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2) * (u - alpha * MEAN), FADING
)


def blurred(x: Tensor, start: float, end: float) -> Tensor:
    """Where the probability-flow ODE takes x on Gaussian data of that mean and scale at every frequency."""
    a, b = (FADING.alpha(at_times(t))[0] for t in (start, end))
    spread = ((b * SCALE) ** 2 + VP.sigma(end) ** 2).sqrt() / ((a * SCALE) ** 2 + VP.sigma(start) ** 2).sqrt()
    return (b * MEAN + spread * (x @ cosines(6).T - a * MEAN)) @ cosines(6)


def test_with_the_spread_of_the_data_one_step_solves_a_gaussian():
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(3), dtype=F64)
    for order, grid in ((1, [0.9, 0.05]), (3, [0.9, 0.5, 0.4, 0.05])):
        table = gddim_bdm(grid, VP, (6,), order, blur=7.0, scale=SCALE)
        torch.testing.assert_close(sample(BLURRED_DENOISER, x, table), blurred(x, 0.9, 0.05), rtol=0, atol=1e-11)

    data = Gaussian(at_times(0.4, -0.7), at_times(0.6, 0.6))
    u = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(4), dtype=F64) / 2
    table = gddim_cld([0.9, 0.01], CLD, scale=0.6)
    exact = flown(langevin_denoiser(data), u, 0.9, 0.01)
    torch.testing.assert_close(
        sample(langevin_denoiser(data), from_u(table, u), table), exact, rtol=0, atol=1e-6
    )  # Runge-Kutta's own error


# -------------------------------------------------------------------------------------------------------- identities and orders


class Decoupled:
    """Position and velocity that know nothing of each other: A = alpha 1, R = sigma 1."""

    def __init__(self, p) -> None:
        self.p = p

    def mean(self, t: Tensor) -> Tensor:
        return self.p.alpha(t)[:, None, None] * torch.eye(2, dtype=F64)

    def root(self, t: Tensor) -> Tensor:
        return self.p.sigma(t)[:, None, None] * torch.eye(2, dtype=F64)

    noise = root

    def spread(self) -> Tensor:
        return torch.zeros(2, 2, dtype=F64)

    def operator(self, values: Tensor) -> Operator:
        return Matrix(values)

    def start(self, t: float) -> float:
        return 1.0


@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
@pytest.mark.parametrize("family", ["vp-linear", "vp-cosine", "ve", "flow"])
@pytest.mark.parametrize(("order", "name"), [(1, "ddim"), (2, "deis-tab1"), (3, "deis-tab2")])
def test_without_blur_or_coupling_it_is_ddim_and_deis(order: int, name: str, family: str, clean: bool):
    p = CASES[family].process
    start = {"vp-linear": 0.9, "vp-cosine": 0.9, "ve": 10.0, "flow": 0.9}[family]
    grid = [start, 0.7 * start, 0.4 * start, 0.2 * start, 0.0 if clean else 0.1 * start]
    plain = compile(preset(name, grid, p, **({} if order == 1 else {"tail": "full"})))
    exact = plain.dense().at(plain.visible)
    blurred, coupled = gddim_bdm(grid, p, (3,), order, "full", blur=0.0), gddim(grid, p, Decoupled(p), order, "full")
    for table, unit in ((blurred, torch.ones(3, dtype=F64)), (coupled, torch.eye(2, dtype=F64))):
        found = table.dense().at(table.visible)
        for ours, theirs in ((found.a, exact.a), (found.B, exact.B)):
            torch.testing.assert_close(ours, theirs.reshape(*theirs.shape, *[1] * unit.ndim) * unit, rtol=0, atol=1e-8)


def order_of(errors: list[float]) -> float:
    return math.log2(errors[-2] / errors[-1])


def bdm_slope(order: int, counts: tuple[int, int]) -> float:
    """Of the error on Gaussian data that are independent in cosine space, against the exact solution."""
    x, errors = torch.linspace(1.3, -0.9, 6, dtype=F64)[None] @ cosines(6), []
    for count in counts:
        grid = graded(VP, count)
        errors.append(
            float((sample(BLURRED_DENOISER, x, gddim_bdm(grid, VP, (6,), order, "full", blur=7.0)) - blurred(x, grid[0], grid[-1])).norm())
        )
    return order_of(errors)


def graded(p, count: int, start: float = 0.9, end: float = 0.1) -> list[float]:
    """Uniform, the first step halved again and again: a start of first order caps no order then."""
    grid = named_grid("uniform", p, count, start, end)
    return [start, *(start - (grid[0] - grid[1]) / 2**k for k in range(math.ceil(math.log2(count)) + 3, 0, -1)), *grid[1:]]


def cld_slope(order: int, counts: tuple[int, int]) -> float:
    """Of the error on a Gaussian mixture, against Runge-Kutta on the probability-flow ODE."""
    data = Gaussian(
        torch.tensor([[1.0, -0.5], [-0.8, 0.9], [0.2, 0.1]], dtype=F64), torch.tensor([[0.4, 0.3], [0.5, 0.6], [0.2, 0.7]], dtype=F64)
    )
    denoiser = langevin_denoiser(data, torch.tensor([0.5, 0.3, 0.2], dtype=F64))
    u = torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(6), dtype=F64) / 2
    exact, errors = flown(denoiser, u, 0.9, 0.1), []
    for count in counts:
        table = gddim_cld(graded(CLD, count), CLD, order, "full")
        errors.append(float((sample(denoiser, from_u(table, u), table) - exact).norm()))
    return order_of(errors)


SLOPES = {"blurring": (bdm_slope, (64, 128)), "critically damped": (cld_slope, (64, 128))}


@pytest.mark.parametrize(("slope", "counts"), SLOPES.values(), ids=SLOPES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_converges_at_its_order(order: int, slope: Callable[[int, tuple[int, int]], float], counts: tuple[int, int]):
    assert slope(order, counts) >= order - 0.2


def test_few_steps_of_gddim_beat_many_of_euler_on_langevin_dynamics():
    """The paper's table 2 in small: at 50 evaluations order 3 is nearer to the exact end than Euler's method at 400."""
    data = Gaussian(at_times(0.4, -0.7), at_times(0.3, 0.5))
    denoiser, plain = langevin_denoiser(data), Damped(CLD.rate, MASS, GAMMA)
    u = torch.randn(8, 2, 2, generator=torch.Generator().manual_seed(7), dtype=F64) / 2
    exact = flown(denoiser, u, 1.0, 1e-3)
    table = gddim_cld(named_grid("polynomial", CLD, 50, 1.0, 1e-3), CLD, 3)
    ours = (sample(denoiser, from_u(table, u), table) - exact).norm()
    for a, b in itertools.pairwise(named_grid("polynomial", CLD, 400, 1.0, 1e-3)):
        t = at_times(a)
        mean, root = plain.mean(t)[0], plain.noise(t)[0]
        rest = torch.einsum("ij,bjd->bid", mean, denoiser(u, At(t[0], t[0], t[0])))
        score = -torch.einsum("ij,bjd->bid", torch.linalg.inv(root @ root.T), u - rest)
        u = u + (b - a) * (torch.einsum("ij,bjd->bid", DRIFT, u) - torch.einsum("ij,bjd->bid", NOISE, score) / 2)
    assert ours < (u - exact).norm()


# -------------------------------------------------------------------------------------------------------------- how it is used


def test_first_states_have_the_covariance_of_the_diffusion():
    table = gddim_cld([1.0, 0.5, 0.0], CLD)
    seen: list[Tensor] = []
    sample(lambda u, at: (seen.append(u), 0 * u)[1], initial(range(4000), (2, 3), table, F64), table)
    covariance = torch.einsum("bid,bjd->ij", seen[0], seen[0]) / 12000
    root = Damped(CLD.rate, MASS, GAMMA).root(at_times(1.0))[0]
    expected = root @ root.T
    deviation = ((expected.diagonal()[:, None] * expected.diagonal() + expected**2) / 12000).sqrt()
    assert ((covariance - expected).abs() < 4 * deviation).all()


@pytest.mark.parametrize("kind", ["blurring", "critically damped"])
def test_it_goes_through_a_file(kind: str, tmp_path: Path):
    p = CLD if kind != "blurring" else CASES["vp-linear"].process
    table = gddim_cld([1.0, 0.4, 0.1, 0.0], p, 3) if p is CLD else gddim_bdm([0.9, 0.4, 0.1], p, (4, 5), 2)
    save(table, tmp_path / "x.schedule.json", process=p)
    file = load(tmp_path / "x.schedule.json")
    shape = (2, 4) if p is CLD else (3, 4, 5)
    x = initial(range(3), shape, file.tableau, F64)
    assert torch.equal(*(sample(lambda x, at: x.tanh(), x, t) for t in (table, file.tableau)))
    assert file.process == p


def test_what_it_cannot_do_is_one_sentence():
    p = CASES["vp-linear"].process
    for call, said in (
        (lambda: gddim_cld([0.9, 0.1], p), "needs process"),
        (lambda: gddim_cld([0.9, 0.1], CLD, 4), "order of gddim"),
        (lambda: gddim_bdm([0.9, 0.1], p, ()), "sizes of the last axes"),
        (lambda: gddim_bdm([0.9, 0.1], p, (4,), least=0.0), "0 < least"),
        (lambda: gddim_bdm([0.9, 0.1], p, (4,), scale=torch.ones(5)), "spread of the data"),
        (lambda: process("critically-damped", gamma=0.0), "0 < gamma"),
    ):
        with pytest.raises(ScheduleError, match=said):
            call()
    assert Evaluation(0.5, 1.0, 1.0).at.sigma == 1
