"""The drift of stochastic samplers on its own: where the mean-free Gaussian goes when the noise is left out."""

import math
from collections.abc import Callable

import numpy as np
import torch
from oracle import CASES, Gaussian, anisotropic
from test_solver_laws import graded, smooth_grid

from solvers import Process, SolverSchedule, compile, sample

F64 = torch.float64
Fading = Callable[[torch.Tensor], torch.Tensor]
"""d log phi / d lambda, as a function of lambda (see `solvers/diffusion.py`)."""


def sde(eta: float) -> Fading:
    """phi = exp(-eta lambda)."""
    return lambda lam: torch.full_like(lam, -eta)


def er(lam: torch.Tensor) -> torch.Tensor:
    """phi = exp(rho^0.3) + 10."""
    rho = torch.exp(-lam)
    return -0.3 * rho**0.3 * torch.exp(rho**0.3) / (torch.exp(rho**0.3) + 10)


def solution(p: Process, data: Gaussian, x: torch.Tensor, start: float, end: float, fading: Fading) -> torch.Tensor:
    """c = x - alpha m obeys dlog c = dlog v / 2 + (sigma^2 / v) dlog phi, v the variance of x."""
    positions, mass = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(200))
    first, last = p.lambda_of(start), p.lambda_of(end)
    lam = first + (positions + 1) / 2 * (last - first)
    noise_share = 1 / (1 + torch.exp(2 * lam)[:, None] * data.scale**2)  # sigma^2 / v
    exponent = ((last - first) / 2 * mass[:, None] * fading(lam)[:, None] * noise_share).sum(0)
    centred = (x - p.alpha(start) * data.mean) * data.spread(p, end) / data.spread(p, start)
    return p.alpha(end) * data.mean + centred * exponent.exp()


def drift_slope(steps_of: Callable[[list[float]], SolverSchedule], family: str, fading: Fading, count: int = 64) -> float:
    """The order of a sampler whose noise is silent."""
    p, data, errors = CASES[family].process, anisotropic(), []
    for steps in (count, 2 * count):
        times = graded(smooth_grid(family, steps, rough=False), 12)
        table = compile(steps_of(times))
        x = torch.linspace(1.3, -0.9, data.mean.numel(), dtype=F64)[None] * data.spread(p, times[0])
        end = sample(data, x, table, noise=[torch.zeros_like(x)] * len(table.noises) or None)
        errors.append(float((end - solution(p, data, x, times[0], times[-1], fading)).norm()))
    return math.log2(errors[0] / errors[1])
