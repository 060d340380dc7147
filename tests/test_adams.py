"""The presets of first order."""

from itertools import pairwise

import pytest
import torch
from oracle import CASES, Case, anisotropic, sample
from test_solver_laws import assert_same_sampler

from solvers import At, compile, preset

F64 = torch.float64


@pytest.mark.parametrize("gamma", [1.5, 2.0])
@pytest.mark.parametrize("family", ["ve", "flow"])
def test_gradient_estimation_adds_the_change_of_the_direction_to_eulers_step(gamma: float, family: str):
    case, data, before = CASES[family], anisotropic(3), None
    times = case.grid(6, clean=True)
    x = y = torch.linspace(-2, 2, 3, dtype=F64)[None] * case.start
    for s, t in pairwise(times):
        alpha, sigma = (torch.tensor(v, dtype=F64) for v in (1.0 if family == "ve" else 1 - s, s))
        denoised = data(y, At(sigma, alpha, sigma))
        direction = (y - denoised) / s
        step = direction if before is None else direction + (gamma - 1) * (direction - before)
        y, before = (y + (t - s) * step) if t else denoised, direction
    torch.testing.assert_close(sample(data, x, compile(preset("gradient-estimation", times, case.process, gamma=gamma))), y)


def test_gradient_estimation_of_gamma_one_is_euler(case: Case):
    times = case.grid(6, clean=True)
    ours = compile(preset("gradient-estimation", times, case.process, gamma=1.0))
    assert_same_sampler(ours, compile(preset("euler", times, case.process)))
