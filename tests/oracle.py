"""Exact denoisers and exact solutions, written apart from the code under test. Everything is float64."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import solvers
from solvers import DISTINCT, At, Process, Row, Tableau, process


@dataclass(frozen=True)
class Case:
    """A process, the time where sampling starts, and a late time that is still noisy."""

    process: Process
    start: float
    end: float

    def grid(self, steps: int, clean: bool) -> list[float]:
        """Uniform times from the start, to sigma = 0 or to the late time."""
        end = self.process.t_clean if clean else self.end
        return [*torch.linspace(self.start, end, steps + 1, dtype=torch.float64)[:-1].tolist(), end]


def scaled_linear_table() -> Tensor:
    """alphas_cumprod of Stable Diffusion: 1000 betas, their roots uniform from .00085 to .012."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)


CASES: dict[str, Case] = {
    "vp-linear": Case(process("vp-linear"), 1.0, 1e-3),
    "vp-cosine": Case(process("vp-cosine"), 0.9946, 1e-3),
    "vp-discrete": Case(process("vp-discrete", alphas_cumprod=scaled_linear_table()), 999.0, 0.0),
    "ve": Case(process("ve"), 80.0, 2e-3),
    "flow": Case(process("flow"), 1.0, 1e-2),
    "mean-reverting": Case(process("mean-reverting", sigma_inf=0.5), 1.0, 1e-2),
}


PLAIN = [name for name, case in CASES.items() if not case.process.anchored]
"""Every process is held to every law; the mean-reverting one, which is the plain one moved by mu, in test_mean_reverting.py."""

EVERYWHERE = [name for name, known in DISTINCT.items() if not known.processes]
"""The presets that every process admits."""


def sample(denoiser: Callable[..., Tensor], x: Tensor, table: Tableau, noise: Any = None, callback: Any = None, **knobs: Any) -> Tensor:
    """`solvers.sample`; on a mean-reverting table seen from mu, where it must be the plain sampler of x - mu and D - mu.

    So every law that is stated for x = alpha x0 + sigma eps is a law of mean-reverting tables as it stands. mu is not zero
    in float64; in narrower types, whose rounding it would change, it is. Registers do not move with mu, so callbacks see them shifted.
    """
    if not table.anchored:
        return solvers.sample(denoiser, x, table, noise, callback, **knobs)
    mu = 0.75 if x.dtype == torch.float64 else 0.0

    def seen(row: Row, x: Tensor, denoised: Tensor | None) -> Tensor | None:
        replaced = callback(row, x - mu, denoised if denoised is None else denoised - mu)
        return None if replaced is None else replaced + mu

    def asked(x: Tensor, at: At, **knobs: Any) -> Tensor:
        return denoiser(x - mu, at, **knobs) + mu

    return solvers.sample(asked, x + mu, table, noise, callback and seen, torch.full_like(x, mu), **knobs) - mu


def initial(seeds: Sequence[int], shape: Sequence[int], table: Tableau, dtype: torch.dtype = torch.float32) -> Tensor:
    """`solvers.initial` around mu = 0, as `sample` above wants it."""
    return solvers.initial(seeds, shape, table, dtype, torch.zeros(tuple(shape)))


def _on(value: Tensor, x: Tensor) -> Tensor:
    """A scalar or [batch] number, shaped to multiply x."""
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


@dataclass(frozen=True)
class Gaussian:
    """Data N(mean, scale^2), independent in every dimension; mean and scale have the shape of one sample."""

    mean: Tensor
    scale: Tensor

    @functools.cached_property
    def variance(self) -> Tensor:
        """Of the data."""
        return self.scale**2

    def __call__(self, x: Tensor, at: At, **knobs: float) -> Tensor:
        """E[x0 | x]."""
        alpha, sigma = _on(at.alpha, x), _on(at.sigma, x)
        return (self.mean + self.gain(alpha, sigma) * (x - alpha * self.mean)).to(x.dtype)

    def gain(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """How E[x0 | x] follows x."""
        return alpha * self.variance / (alpha**2 * self.variance + sigma**2)

    def spread(self, process: Process, t: float | Tensor) -> Tensor:
        """The standard deviation of x_t."""
        return (process.alpha(t) ** 2 * self.variance + process.sigma(t) ** 2).sqrt()

    def solution(self, process: Process, x: Tensor, start: float | Tensor, t: float | Tensor) -> Tensor:
        """Where the probability-flow ODE takes x from `start` to t: x_t - alpha m scales as the spread."""
        centred = x - process.alpha(start) * self.mean
        return process.alpha(t) * self.mean + centred * self.spread(process, t) / self.spread(process, start)


@dataclass(frozen=True)
class PointMass:
    """All data is one point."""

    point: Tensor

    def __call__(self, x: Tensor, at: At, **knobs: float) -> Tensor:
        """The point, whatever x is."""
        return self.point.to(x).expand_as(x).clone()


@dataclass(frozen=True)
class Mixture:
    """A mixture of isotropic Gaussians: means [components, dim], a scale and a weight per component."""

    means: Tensor
    scales: Tensor
    weights: Tensor

    def __call__(self, x: Tensor, at: At, **knobs: float) -> Tensor:
        """E[x0 | x] for x [batch, dim] and one alpha and sigma."""
        variance = at.alpha**2 * self.scales**2 + at.sigma**2
        centred = x[:, None, :] - at.alpha * self.means
        score = self.weights.log() - (centred**2).sum(-1) / (2 * variance) - x.shape[-1] / 2 * variance.log()
        each = self.means + (at.alpha * self.scales**2 / variance)[:, None] * centred
        return (score.softmax(-1)[..., None] * each).sum(1)


def anisotropic(dim: int = 12) -> Gaussian:
    """Every dimension of another width and place."""
    return Gaussian(torch.linspace(-1, 1, dim, dtype=torch.float64), torch.logspace(-0.4, 0.4, dim, dtype=torch.float64))


def mixture(dim: int = 4) -> Mixture:
    """Five components without any symmetry."""
    means = 1.5 * torch.randn(5, dim, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    scales = torch.tensor([0.3, 0.5, 0.2, 0.7, 0.4], dtype=torch.float64)
    return Mixture(means, scales, torch.tensor([0.3, 0.1, 0.2, 0.25, 0.15], dtype=torch.float64))
