"""DEIS and its relatives: the integrals of the paper, and what the public iPNDM-v weighs."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracle import CASES, Case
from test_solver_laws import SMOOTH, assert_same_sampler, slope
from torch import Tensor

from solvers import PRESETS, At, compile, preset, probe, process

F64 = torch.float64


def eps_weights(name: str, times: list[float], process_name: str, **options) -> np.ndarray:
    """What the last step gives eps_i, eps_{i-1}, ... in units of alpha' (rho' - rho)."""
    p = CASES[process_name].process
    table = compile(preset(name, times, p, **options))
    terms, evals = dict(table.rows[-1].terms), table.evals
    gain = float(p.sigma(times[-1]) - p.alpha(times[-1]) * p.sigma(times[-2]) / p.alpha(times[-2]))
    count = len(times) - 1
    direct = [-terms.get(f"D{k}", 0.0) * evals[k].sigma / evals[k].alpha for k in range(count)]  # eps = (x - alpha D) / sigma
    return np.array([direct[k] + terms.get(f"eps{k}", 0.0) for k in reversed(range(count))]) / gain


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_tab_integrates_lagrange_polynomials_in_t_against_rho(degree: int):
    p, times = CASES["vp-linear"].process, [0.9, 0.7, 0.62, 0.5, 0.38][-degree - 2 :]
    positions, mass = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(60))
    u = (times[-2] + times[-1]) / 2 + positions * (times[-1] - times[-2]) / 2
    t = u.clone().requires_grad_()
    rho = p.sigma(t) / p.alpha(t)
    slope_of_rho = torch.autograd.grad(rho.sum(), t)[0]  # eq. 15: C_j = integral of rho'(t) l_j(t) dt
    integrals = []
    for k in range(degree + 1):
        node = times[-2 - k]
        others = [times[-2 - j] for j in range(degree + 1) if j != k]
        lagrange = torch.stack([(u - o) / (node - o) for o in others]).prod(0)
        integrals.append(float((mass * slope_of_rho * lagrange).sum()))
    expected = np.array(integrals) / sum(integrals)
    np.testing.assert_allclose(eps_weights(f"deis-tab{degree}", times, "vp-linear"), expected, rtol=1e-9)


def test_log_rho_is_dpm_solver(case: Case):
    times = case.grid(7, clean=False)
    ours = compile(preset("deis-log-rho", times, case.process))
    assert_same_sampler(ours, compile(preset("dpm-solver-3m", times, case.process, moment="heun")))


def test_every_order_one_is_ddim(case: Case):
    times = [t for t in case.grid(6, clean=True) if case.process.alpha(t) > 0]
    for name in ("deis-tab3", "deis-log-rho", "lms", "ipndm", "ipndm-v-compat"):
        assert_same_sampler(compile(preset(name, times, case.process, order=1)), compile(preset("ddim", times, case.process)), 1e-11)


def test_rho_ab_lms_and_ipndm_v_are_one_sampler():
    assert PRESETS["deis-rhoab3"] is PRESETS["lms"] is PRESETS["ipndm-v"]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_on_uniform_sigmas_is_ipndm(order: int):
    times = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    lms, ipndm = (compile(preset(name, times, process("ve"), order=order)) for name in ("lms", "ipndm"))
    assert_same_sampler(lms, ipndm, 1e-11)


def moments(weights: np.ndarray, times: list[float]) -> list[float]:
    """Sum of w_j theta_j^k less the integral of theta^k over the step, k = 0, 1, ...; zero for exact weights."""
    theta = (np.array(times[-2::-1][: len(weights)]) - times[-2]) / (times[-1] - times[-2])
    return [float((weights * theta**k).sum() - 1 / (k + 1)) for k in range(len(weights))]


ROUGH = [9.0, 8.0, 5.0, 3.0, 1.5, 1.0]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ipndm_v_meets_every_moment_and_the_public_one_does_not(order: int):
    times = ROUGH[-order - 1 :]
    assert max(map(abs, moments(eps_weights("ipndm-v", times, "ve", order=order), times))) < 1e-11
    public = moments(eps_weights("ipndm-v-compat", times, "ve", order=order), times)
    assert (max(map(abs, public)) > 0.01) == (order > 2)  # two points are right
    assert (abs(public[0]) > 1e-3) == (order == 4)  # four do not even sum to one


def test_the_public_ipndm_v_is_wrong_at_four_points_even_where_steps_are_uniform():
    uniform = [5.0, 4.0, 3.0, 2.0, 1.0]
    np.testing.assert_allclose(eps_weights("ipndm-v-compat", uniform[1:], "ve", order=3) * 12, [23, -16, 5], rtol=1e-11)
    np.testing.assert_allclose(eps_weights("ipndm-v-compat", uniform, "ve") * 24, [57, -65, 43, -11], rtol=1e-11)
    np.testing.assert_allclose(eps_weights("ipndm-v", uniform, "ve") * 24, [55, -59, 37, -9], rtol=1e-11)


def ipndm_v_loop(times: list[float], most: int) -> Callable[..., Tensor]:
    """ipndm_v of diff-sampler on ve, its slips included: polynomials of slopes d over the widths h, a, b, c of the last steps."""

    def run(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        slopes: list[Tensor] = []
        for i, (s, t) in enumerate(pairwise(times)):
            at = At(*(torch.tensor(v, dtype=F64) for v in (s, 1.0, s)))
            slopes = [(x - denoiser(x, at)) / s, *slopes][: min(most, i + 1)]
            h, a, b, c = (times[i - k + 1] - times[i - k] if k <= i else -1.0 for k in range(4))  # -1: not read yet
            third = (1 - h / (3 * (h + a)) * (h * (h + a)) / (a * (a + b))) / 2
            fourth = (1 - h / (3 * (h + a))) / 2 + (1 - h / (2 * (h + a))) * h / (6 * (h + a + b))
            fourth *= h * (h + a) * (h + a + b) / (a * (a + b) * (a + b + c))
            r, q = a / b, a * (a + b) / (b * (b + c))
            extra = [[0.0] * 4, [h / a / 2, -h / a / 2, 0, 0], [third, -(1 + r) * third, r * third, 0]]
            extra.append([fourth, -(1 + r + q) * fourth, (r + q * (1 + b / c)) * fourth, -q * r * fourth])
            weights = [sum(column) for column in zip([1, 0, 0, 0], *extra[: len(slopes)], strict=True)]
            x = x + (t - s) * sum(w * d for w, d in zip(weights, slopes, strict=False))
        return x

    return run


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_public_ipndm_v_is_its_loop(order: int):
    table = compile(preset("ipndm-v-compat", ROUGH, process("ve"), order=order))
    assert_same_sampler(table, probe(ipndm_v_loop(ROUGH, order)), 1e-11)


@pytest.mark.parametrize("family", SMOOTH)
@pytest.mark.parametrize(("order", "most"), [(3, 2.4), (4, 1.6)])
def test_the_public_ipndm_v_loses_its_order(order: int, most: float, family: str):
    def measured(name: str) -> float:
        return slope(family, lambda times: preset(name, times, CASES[family].process, order=order), (256, 512), rough=True)

    assert measured("ipndm-v") >= order - 0.2
    assert measured("ipndm-v-compat") <= most


def test_history_grows_one_evaluation_a_step():
    steps = preset("lms", ROUGH, process("ve")).steps
    assert [step.order for step in steps] == [1, 2, 3, 4, 4]
    assert all(a.order <= b.order for a, b in pairwise(steps))
