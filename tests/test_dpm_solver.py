"""DPM-Solver multistep: what it equals, and what the public third order lacks."""

import pytest
import torch
from drift import drift_slope, sde
from oracle import CASES, Case
from test_solver_laws import SMOOTH, assert_same_sampler, slope

from solvers import compile, preset

F64 = torch.float64


@pytest.mark.parametrize(("one", "other", "options"), [("dpmpp-2m", "unip-2", {}), ("dpmpp-3m", "unip-3", {"moment": "heun"})])
def test_dpm_solver_is_unip_without_its_tail(one: str, other: str, options: dict, case: Case):
    times = case.grid(7, clean=False)
    theirs = preset(other, times, case.process, tail="full", **({"moment": "exact"} if options else {}))
    assert_same_sampler(compile(preset(one, times, case.process, **options)), compile(theirs))


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-3m", "dpmpp-3m-compat"])
def test_the_sde_variants_without_noise_are_the_ode_ones(name: str, case: Case):
    times = case.grid(6, clean=True)
    stochastic = {"dpmpp-2m": "dpmpp-2m-sde", "dpmpp-3m": "dpmpp-3m-sde", "dpmpp-3m-compat": "dpmpp-3m-sde-compat"}[name]
    ours = compile(preset(stochastic, times, case.process, eta=0.0, moment="midpoint"))
    assert_same_sampler(ours, compile(preset(name, times, case.process, moment="midpoint")))


def test_the_third_order_of_every_code_halves_the_second_derivative():
    p, times = CASES["vp-linear"].process, [0.95, 0.7, 0.5, 0.3]
    lam, alpha = p.lambda_of(torch.tensor(times, dtype=F64)), p.alpha(times[-1])
    h, h0, h1 = lam[3] - lam[2], lam[2] - lam[1], lam[1] - lam[0]
    exact, half = (compile(preset(name, times, p)).rows[-1].terms for name in ("dpmpp-3m", "dpmpp-3m-compat"))
    difference = [exact[f"D{k}"] - half[f"D{k}"] for k in range(3)]
    phi3 = (torch.exp(-h) - 1 + h - h**2 / 2) / (-h) ** 3
    second = torch.stack([1 / (h1 * (h0 + h1)), -1 / (h0 * h1), 1 / (h0 * (h0 + h1))]) * h**2  # h^2 f'' / 2 = sum of these D_k
    torch.testing.assert_close(torch.tensor(difference, dtype=F64), alpha * h * phi3 * second, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("family", SMOOTH)
def test_half_a_second_derivative_costs_one_order(family: str):
    def measured(third: str) -> float:
        return slope(family, lambda times: preset("dpmpp-3m", times, CASES[family].process, third=third), (128, 256), rough=False)

    assert measured("exact") >= 2.8
    assert 1.8 <= measured("half") <= 2.4


@pytest.mark.parametrize("family", SMOOTH)
def test_the_drift_of_the_sde_variants_has_their_order(family: str):
    eta = 0.5  # at 1 the data prediction of a Gaussian is constant along the drift, and every method exact

    def measured(name: str, **options: str) -> float:
        return drift_slope(lambda times: preset(name, times, CASES[family].process, eta=eta, **options), family, sde(eta), 128)

    assert measured("dpmpp-2m-sde") >= 1.8
    assert measured("dpmpp-3m-sde") >= 2.8
    assert 1.8 <= measured("dpmpp-3m-sde", third="half") <= 2.5
    assert 0.8 <= measured("dpmpp-3m-sde", third="slip") <= 1.3
