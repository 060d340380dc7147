"""ER-SDE-Solvers: the published formulas, their order, and the limit without noise."""

import pytest
import torch
from drift import drift_slope, er
from oracle import CASES, Case
from test_solver_laws import SMOOTH, assert_same_sampler
from torch import Tensor

from solvers import SolverSchedule, Step, compile, preset

F64 = torch.float64


def q(rho: Tensor) -> Tensor:
    """Cui et al. 2023, the function that ComfyUI has."""
    return rho * (torch.exp(rho**0.3) + 10)


def simpson(function, low: Tensor, high: Tensor) -> Tensor:
    u = torch.linspace(0, 1, 2001, dtype=F64)
    weight = torch.full((2001,), 2.0, dtype=F64)
    weight[1::2], weight[0], weight[-1] = 4, 1, 1
    return (high - low) * (weight * function(low + (high - low) * u)).sum() / 6000


@pytest.mark.parametrize("family", ["ve", "vp-linear"])
def test_the_rows_are_the_published_formulas(family: str):
    p, times = CASES[family].process, {"ve": [9.0, 5.0, 3.5, 1.2, 0.5], "vp-linear": [0.9, 0.7, 0.55, 0.3, 0.1]}[family]
    t = torch.tensor(times, dtype=F64)
    alpha, sigma = p.alpha(t), p.sigma(t)
    rho = sigma / alpha
    rows = {row.slot: row.terms for row in compile(preset("er-sde-3", times, p)).rows}
    for i in range(2, 4):
        low, high, a = rho[i + 1], rho[i], alpha[i + 1]
        r, dt = q(low) / q(high), low - high
        first = a * (dt + q(low) * simpson(lambda u: 1 / q(u), low, high))
        second = a * (dt**2 / 2 + q(low) * simpson(lambda u, high=high: (u - high) / q(u), low, high))
        one, two = 1 / (rho[i] - rho[i - 1]), 2 / (rho[i] - rho[i - 2])  # D' = one (D_i - D_{i-1}), D'' = two (D'_i - D'_{i-1})
        older = 1 / (rho[i - 1] - rho[i - 2])
        expected = {
            f"x{i}": a / alpha[i] * r,
            f"D{i}": a * (1 - r) + first * one + second * two * one,
            f"D{i - 1}": -first * one - second * two * (one + older),
            f"D{i - 2}": second * two * older,
            f"z{i}": a * (low**2 - high**2 * r**2).sqrt(),
        }
        assert set(rows[f"x{i + 1}"]) == set(expected)
        for slot, weight in rows[f"x{i + 1}"].items():
            assert weight == pytest.approx(float(expected[slot]), rel=1e-9, abs=1e-12)


def test_without_noise_it_is_adams_of_the_data_prediction_in_rho(case: Case):
    times = case.grid(6, clean=False)
    ours = compile(preset("er-sde-3", times, case.process, eta=0.0, moment="exact"))
    adams = tuple(Step(to=t, domain="rho", order=min(3, i + 1)) for i, t in enumerate(times[1:]))
    assert_same_sampler(ours, compile(SolverSchedule(case.process, times[0], adams)))


@pytest.mark.parametrize("family", SMOOTH)
def test_the_drift_of_the_third_is_of_order_three_when_its_derivatives_are_exact(family: str):
    def measured(name: str, **options: str) -> float:
        return drift_slope(lambda times: preset(name, times, CASES[family].process, **options), family, er, 128)

    assert measured("er-sde-1") >= 0.8
    assert measured("er-sde-2") >= 1.8
    assert 1.8 <= measured("er-sde-3") <= 2.5
    assert measured("er-sde-3", moment="exact") >= 2.8
