"""Teachers that are exact: what tests and CI stand on, and what a predictor of errors starts from.

With data of density p(x0), D(x) = E[x0 | x] under x = alpha x0 + sigma eps has a closed form for
    a Gaussian N(m, c^2) per pixel      D = (sigma^2 m + alpha c^2 x) / (alpha^2 c^2 + sigma^2)
    a mixture of such Gaussians         the same per component, weighted by the posterior of the component
"""

import hashlib

import torch
from torch import Tensor

from solvers import At, Process
from solvers.sample import Denoiser
from teacher.denoiser import Teacher, along
from teacher.errors import TeacherError


def gaussian(mean: Tensor, deviation: Tensor) -> Denoiser:
    """Independent pixels. Shapes: mean and deviation broadcast against x[0]."""

    def denoiser(x: Tensor, at: At, *, cond: Tensor | None = None) -> Tensor:
        alpha, sigma = along(at.alpha, x), along(at.sigma, x)
        m, c2 = mean.to(x), deviation.to(x) ** 2
        return (sigma**2 * m + alpha * c2 * x) / (alpha**2 * c2 + sigma**2)

    return denoiser


def mixture(means: Tensor, deviation: float) -> Denoiser:
    """Equal isotropic components of equal weight, at means [K, ...]; of deviation 0 it is the ideal denoiser of a finite data set."""
    flat = means.flatten(1)

    def denoiser(x: Tensor, at: At, *, cond: Tensor | None = None) -> Tensor:
        rows, centres = x.flatten(1), flat.to(x)
        alpha, sigma = (value.to(x).expand(len(x))[:, None] for value in (at.alpha, at.sigma))
        variance = alpha**2 * deviation**2 + sigma**2
        distance = (rows**2).sum(1, keepdim=True) - 2 * alpha * rows @ centres.T + alpha**2 * (centres**2).sum(1)
        posterior = torch.softmax(-distance / (2 * variance), dim=1)
        mean = posterior @ centres
        return ((sigma**2 * mean + alpha * deviation**2 * rows) / variance).reshape(x.shape)

    return denoiser


def analytic_teacher(name: str, process: Process, start: float, end: float, dimensions: int = 16) -> Teacher:
    """The teachers "gaussian" (a decaying spectrum) and "mixture" (five random centres), exact and instant, for tests and demos."""
    if dimensions < 1:
        raise TeacherError(f"Model {name!r} has one dimension or more, not {dimensions}.")
    if name == "gaussian":
        denoiser = gaussian(torch.zeros(dimensions), 1 / torch.arange(1, dimensions + 1, dtype=torch.float64))
    else:
        denoiser = mixture(torch.randn(5, dimensions, generator=torch.Generator().manual_seed(0)), 0.1)
    digest = hashlib.sha256(f"{name} {dimensions}".encode()).hexdigest()
    return Teacher(name, denoiser, process, start, end, (dimensions,), digest)
