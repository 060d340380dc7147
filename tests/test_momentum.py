"""Momentum: its loops written out on plain tensors, what it is without momentum, and why it is there."""

import math
from collections.abc import Callable

import msgspec
import pytest
import torch
from oracle import CASES
from test_solver_laws import assert_same_sampler
from torch import Tensor

from solvers import At, ScheduleError, SolverSchedule, compile, preset, probe

F64 = torch.float64
GRIDS = {
    "vp-linear": [0.95, 0.8, 0.62, 0.5, 0.33, 0.2, 0.1, 0.03],
    "ve": [14.6, 7.0, 3.1, 1.7, 0.9, 0.41, 0.11],
    "flow": [0.9, 0.6, 0.5, 0.2, 0.1],
}
ADAMS = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]


def mixer(points: int, b: float) -> list[float]:
    """The coefficients of the authors' table, before division by beta."""
    return [
        [b],
        [(2 + b) / 2, -(2 - b) / 2],
        [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
        [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24],
    ][points - 1]


def weighted(coefficients: list[float], newest_last: list[Tensor]) -> Tensor:
    return sum(c * f for c, f in zip(coefficients, reversed(newest_last), strict=True))


def momentum_loop(kind: str, order: float, family: str) -> Callable[..., Tensor]:
    """A sampler on x / alpha and rho with eps, as its authors' schedulers keep it: a list of slopes, and one velocity."""
    p, times = CASES[family].process, GRIDS[family]
    points = math.ceil(order)
    beta = order - points + 1
    alpha, sigma = p.alpha(torch.tensor(times, dtype=F64)), p.sigma(torch.tensor(times, dtype=F64))

    def run(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        velocity = None
        for i in range(len(times) - 1):
            slope = (x - alpha[i] * denoiser(x, At(torch.tensor(times[i], dtype=F64), alpha[i], sigma[i]))) / sigma[i]
            velocity = slope if velocity is None else velocity
            if kind == "ghvb":
                velocity = (1 - beta) * velocity + beta * slope
                kept = [*kept, velocity][-points:]
                update = weighted(mixer(len(kept), beta), kept) / beta
            else:
                kept = [*kept, slope][-points:]
                mean = weighted(ADAMS[len(kept) - 1], kept)
                velocity = (1 - beta) * velocity + beta * mean
                update = velocity if kind == "hb" else (1 - beta) * velocity + beta * mean
            x = alpha[i + 1] * (x / alpha[i] + (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]) * update)
        return x

    return run


@pytest.mark.parametrize("family", GRIDS)
@pytest.mark.parametrize("order", [0.8, 1.8, 2, 2.5, 3.25, 4])
@pytest.mark.parametrize("kind", ["ghvb", "hb", "nesterov"])
def test_momentum_is_the_loop_of_its_authors(kind: str, order: float, family: str):
    table = compile(preset(kind, GRIDS[family], CASES[family].process, order=order))
    assert_same_sampler(table, probe(momentum_loop(kind, order, family)), 1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["ghvb", "hb", "nesterov"])
def test_without_a_fraction_momentum_is_ipndm(kind: str, order: int):
    for family, times in GRIDS.items():
        p = CASES[family].process
        assert_same_sampler(compile(preset(kind, times, p, order=order)), compile(preset("ipndm", times, p, order=order)), 1e-11)


@pytest.mark.parametrize("points", [1, 2, 3, 4])
def test_generalised_heavy_ball_has_the_order_of_its_points_on_a_uniform_history(points: int):
    # v = beta f / (1 - (1 - beta) S) with S the shift back: the sum m_j S^j must integrate exp over a step to h^points
    beta, errors = 0.7, []
    for h in (0.1, 0.05):
        back = torch.exp(torch.tensor(-h, dtype=F64))
        found = sum(m * back**j for j, m in enumerate(mixer(points, beta))) / (1 - (1 - beta) * back)
        errors.append(abs(float(found - torch.expm1(torch.tensor(h, dtype=F64)) / h)))
    assert math.log2(errors[0] / errors[1]) >= points - 0.2


@pytest.mark.parametrize("kind", ["hb", "nesterov"])
def test_momentum_runs_in_every_space_and_domain(kind: str):
    p, times = CASES["vp-linear"].process, GRIDS["vp-linear"]
    for space in ("x0", "eps", "flow"):
        for domain in ("lambda", "rho", "t", "index"):
            schedule = preset(kind, times, p, order=3, space=space)
            steps = tuple(msgspec.structs.replace(step, domain=domain) for step in schedule.steps)
            plain = tuple(msgspec.structs.replace(step, method="multistep", numbers={}) for step in steps)
            assert_same_sampler(compile(SolverSchedule(p, times[0], steps)), compile(SolverSchedule(p, times[0], plain)), 1e-11)


@pytest.mark.parametrize("kind", ["ghvb", "hb", "nesterov"])
def test_a_table_is_differentiable_in_the_momentum_of_each_step(kind: str):
    p, times = CASES["ve"].process, [10.0, 4.0, 1.5, 0.6, 0.2]
    schedule = preset(kind, times, p, order=2.5)
    beta = torch.tensor([0.5, 0.6, 0.7, 0.8], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: compile(schedule, numbers={"beta": b}).dense().B, beta)
    same = compile(schedule, numbers={"beta": torch.full((4,), 0.5)})
    torch.testing.assert_close(same.dense().B, compile(schedule).dense().B, rtol=1e-13, atol=1e-13)


def test_strange_momentum_is_refused_in_a_sentence():
    p, times = CASES["ve"].process, GRIDS["ve"]
    with pytest.raises(ScheduleError, match="lies in"):
        preset("ghvb", times, p, order=4.5)
    with pytest.raises(ScheduleError, match="beta lies between"):
        compile(preset("hb", times, p, order=2.001))
    schedule = preset("ghvb", times, p)
    with pytest.raises(ScheduleError, match="domain 'index'"):
        compile(SolverSchedule(p, times[0], tuple(msgspec.structs.replace(step, domain="rho") for step in schedule.steps)))
    with pytest.raises(ScheduleError, match="'beta'"):
        compile(preset("ddim", times, p), numbers={"beta": torch.ones(6)})
