"""RES multistep: its moments, and the third coefficient of RES4LYF."""

import pytest
import torch
from oracle import CASES, Case
from test_solver_laws import SMOOTH, assert_same_sampler, slope

from solvers import compile, preset

F64 = torch.float64


def test_res_is_exponential_adams(case: Case):
    times = case.grid(7, clean=True)
    assert_same_sampler(compile(preset("res-2m", times, case.process)), compile(preset("dpmpp-2m", times, case.process, moment="heun")))
    assert_same_sampler(compile(preset("res-3m", times, case.process)), compile(preset("dpmpp-3m", times, case.process, moment="heun")))


def residuals(name: str) -> list[float]:
    """sum_j w_j theta_j^k / (h alpha) - k! phi_{k+1}(-h), k = 1, 2, of the last step."""
    p, times = CASES["ve"].process, [10.0, 6.0, 4.0, 2.0]
    lam = p.lambda_of(torch.tensor(times, dtype=F64))
    h, terms = lam[3] - lam[2], compile(preset(name, times, p)).rows[-1].terms
    theta = [(lam[2 - k] - lam[2]) / h for k in (1, 2)]
    phi1 = torch.expm1(-h) / -h
    phi2 = (phi1 - 1) / -h
    phi3 = (phi2 - 1 / 2) / -h
    sums = [sum(terms[f"D{2 - k}"] * theta[k - 1] ** power for k in (1, 2)) / h for power in (1, 2)]
    return [float(sums[0] - phi2), float(sums[1] - 2 * phi3)]


def test_res4lyf_meets_the_first_moment_and_misses_the_second():
    assert max(map(abs, residuals("res-3m"))) < 1e-12
    first, second = residuals("res-3m-compat")
    assert abs(first) < 1e-12
    assert abs(second) > 0.1


def test_res4lyfs_gamma_has_a_third_power_of_c3_where_its_condition_has_a_square():
    p, times = CASES["ve"].process, [10.0, 6.0, 4.0, 2.0]
    lam = p.lambda_of(torch.tensor(times, dtype=F64))
    c2, c3 = ((lam[k] - lam[2]) / (lam[3] - lam[2]) for k in (1, 0))
    terms = compile(preset("res-3m-compat", times, p)).rows[-1].terms
    gamma = (3 * c3**3 - 2 * c3) / (c2 * (2 - 3 * c2))
    assert terms["D1"] / terms["D0"] == pytest.approx(float(gamma), rel=1e-12)
    right = (3 * c3**2 - 2 * c3) / (c2 * (2 - 3 * c2))  # b2 = gamma b3 then has b2 c2^2 + b3 c3^2 = 2/3 (b2 c2 + b3 c3)
    assert float(right * c2**2 + c3**2) == pytest.approx(float(2 / 3 * (right * c2 + c3)), rel=1e-12)


@pytest.mark.parametrize("family", SMOOTH)
def test_the_wrong_power_costs_one_order(family: str):
    def measured(name: str) -> float:
        return slope(family, lambda times: preset(name, times, CASES[family].process), (128, 256), rough=False)

    assert measured("res-3m") >= 2.8
    assert 1.8 <= measured("res-3m-compat") <= 2.4


def test_the_ancestral_variant_without_noise_is_res_2m(case: Case):
    times = case.grid(6, clean=True)
    assert_same_sampler(compile(preset("res-2m-ancestral", times, case.process, eta=0.0)), compile(preset("res-2m", times, case.process)))


def test_the_ancestral_variant_carries_the_noise_of_ddim():
    case = CASES["vp-linear"]
    times = case.grid(6, clean=False)
    rows = [compile(preset(name, times, case.process, eta=0.8)).rows for name in ("res-2m-ancestral", "ddim")]
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.terms.items() if k[0] == "z"} == {k: v for k, v in other.terms.items() if k[0] == "z"}
