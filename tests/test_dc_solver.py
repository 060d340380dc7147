"""DC-Solver: its loop on plain tensors with a buffer whose newest entry is replaced, and its ratios as things to learn."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracle import CASES, anisotropic
from test_solver_laws import assert_same_sampler
from torch import Tensor

from solvers import At, ScheduleError, compile, preset, probe, sample

F64 = torch.float64
GRIDS = {
    "vp-linear": [0.95, 0.8, 0.62, 0.5, 0.33, 0.2, 0.1, 0.03],
    "ve": [14.6, 7.0, 3.1, 1.7, 0.9, 0.41, 0.11],
    "flow": [0.9, 0.7, 0.6, 0.5, 0.2, 0.1],
}
RATIOS = [1.0, 1.0, 1.3, 0.8, 1.0, 0.6, 1.15]


def unipc_weights(h: Tensor, gaps: list[Tensor], order: int, kind: str, sign: float, corrector: bool) -> list[Tensor]:
    """-B rho_k / r_k for data (sign -1) or noise (+1): what multiplies f_k - f_s, in units of alpha_t or sigma_t. UniPC, section 3.1."""
    hh = sign * h
    scale = hh if kind == "bh1" else torch.expm1(hh)
    r = [g / h for g in gaps] + ([torch.ones((), dtype=F64)] if corrector else [])
    if not r:
        return []
    if len(r) == 1 and (corrector == (order == 1)):
        rho = torch.tensor([0.5], dtype=F64)
    else:
        phi, rhs = torch.expm1(hh) / hh - 1, []
        for k in range(1, len(r) + 1):
            rhs.append(phi * math.factorial(k) / scale)
            phi = phi / hh - 1 / math.factorial(k + 1)
        rho = torch.linalg.solve(torch.stack([torch.stack(r) ** (k - 1) for k in range(1, len(r) + 1)]), torch.stack(rhs))
    return [-scale * c / k for c, k in zip(rho, r, strict=True)]


def dc_loop(family: str, space: str, kind: str, order: int = 3) -> Callable[..., Tensor]:
    """UniPC with a buffer of outputs; before each step the newest is replaced by the quadratic through three, at t'."""
    p, t = CASES[family].process, torch.tensor(GRIDS[family], dtype=F64)
    alpha, sigma, lam = p.alpha(t), p.sigma(t), p.lambda_of(t)
    count, sign = len(t) - 1, -1.0 if space == "x0" else 1.0

    def run(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        def output(x: Tensor, i: int) -> Tensor:
            data = denoiser(x, At(t[i], alpha[i], sigma[i]))
            return data if space == "x0" else (x - alpha[i] * data) / sigma[i]

        buffer: list[Any] = [output(x, 0)]
        for i in range(count):
            if RATIOS[i] != 1:
                at = RATIOS[i] * t[i] + (1 - RATIOS[i]) * t[i - 1]
                a, b, c = t[i], t[i - 1], t[i - 2]
                quadratic = (
                    (at - b) * (at - c) / ((a - b) * (a - c)),
                    (at - a) * (at - c) / ((b - a) * (b - c)),
                    (at - a) * (at - b) / ((c - a) * (c - b)),
                )
                buffer[i] = sum(w * buffer[i - j] for j, w in enumerate(quadratic))
            p_i, h = min(order, i + 1, count - i), lam[i + 1] - lam[i]
            gaps = [lam[i - k] - lam[i] for k in range(1, p_i)]
            first = (sigma if space == "x0" else alpha)[i + 1] / (sigma if space == "x0" else alpha)[i] * x
            unit = alpha[i + 1] if space == "x0" else sigma[i + 1]
            first = first - unit * torch.expm1(sign * h) * buffer[i]

            def moved(others: list[Tensor], corrector: bool, i=i, h=h, gaps=gaps, p_i=p_i, first=first, unit=unit) -> Tensor:
                weights = unipc_weights(h, gaps, p_i, kind, sign, corrector)
                return first + unit * sum((w * (f - buffer[i]) for w, f in zip(weights, others, strict=True)), torch.zeros(()))

            past = [buffer[i - k] for k in range(1, p_i)]
            x = moved(past, False)
            if i + 1 < count:
                buffer.append(output(x, i + 1))
                x = moved([*past, buffer[i + 1]], True)
        return x

    return run


@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("space", ["x0", "eps"])
@pytest.mark.parametrize("family", GRIDS)
def test_dc_solver_is_a_buffer_whose_newest_entry_is_replaced(family: str, space: str, kind: str):
    times = GRIDS[family]
    schedule = preset("dc-solver", times, CASES[family].process, ratios=RATIOS[: len(times) - 1], space=space, moment=kind)
    assert_same_sampler(compile(schedule), probe(dc_loop(family, space, kind)), 1e-10)


@pytest.mark.parametrize("space", ["x0", "eps", "flow"])
def test_ratio_one_is_the_step_itself_also_where_it_is_a_tensor(space: str):
    p, times = CASES["vp-linear"].process, GRIDS["vp-linear"]
    plain = compile(preset("unipc-3", times, p, space=space))
    schedule = preset("dc-solver", times, p, space=space)
    assert_same_sampler(compile(schedule), plain)
    assert_same_sampler(compile(schedule, numbers={"ratio": torch.ones(7, dtype=F64)}), plain, 1e-11)


@pytest.mark.parametrize("space", ["x0", "eps", "flow"])
def test_the_table_is_differentiable_in_the_ratios_and_takes_a_batch_of_them(space: str):
    p, times = CASES["flow"].process, GRIDS["flow"]
    schedule = preset("dc-solver", times, p, space=space)
    ratios = torch.tensor(RATIOS[:5], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: compile(schedule, numbers={"ratio": r}).dense().B, ratios)
    batch = torch.stack([ratios.detach(), torch.full((5,), 0.9)])
    together = compile(schedule, numbers={"ratio": batch}).dense()
    for k in range(2):
        alone = compile(preset("dc-solver", times, p, ratios=batch[k].tolist(), space=space)).dense()
        torch.testing.assert_close(together.B[[-1], ..., k], alone.B[[-1]], rtol=1e-10, atol=1e-10)


def test_learnt_ratios_come_closer_to_the_trajectory_than_unipc():
    p, data, times = CASES["ve"].process, anisotropic(4), GRIDS["ve"]
    schedule = preset("dc-solver", times, p)
    x = torch.linspace(-2, 2, 12, dtype=F64).reshape(3, 4) * times[0]
    exact = data.solution(p, x, times[0], times[-1])

    def residual(ratios: Tensor) -> Tensor:
        return (sample(data, x, compile(schedule, numbers={"ratio": ratios})) - exact).flatten()

    ratios = torch.ones(6, dtype=F64)
    before = residual(ratios).norm()
    for _ in range(5):  # Gauss-Newton
        jacobian = torch.func.jacfwd(residual)(ratios)[:, 2:]
        ratios[2:] -= torch.linalg.lstsq(jacobian, residual(ratios)[:, None]).solution[:, 0]
    assert residual(ratios).norm() < 0.5 * before


def test_ratios_are_one_per_step_and_stay_the_callers():
    p, ratios = CASES["ve"].process, [1.0, 1.0, 0.9, 1.1, 1.0, 1.0]
    once, again = (compile(preset("dc-solver", GRIDS["ve"], p, ratios=ratios)) for _ in range(2))
    assert once.rows == again.rows
    assert len(ratios) == 6
    with pytest.raises(ScheduleError, match="6 here, not 2"):
        preset("dc-solver", GRIDS["ve"], p, ratios=[1.0, 0.9])
    with pytest.raises(ScheduleError, match="'ratio'"):
        compile(preset("dc-solver", GRIDS["ve"], p), numbers={"ratio": torch.ones(3)})
