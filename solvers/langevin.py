"""Critically damped Langevin diffusion: position x and velocity v, noise enters by the velocity alone.

    dx = beta v / mass dt       dv = -beta x dt - beta Gamma v / mass dt + sqrt(2 Gamma beta) dW       Gamma = 2 sqrt(mass)

Dockhorn, Vahdat, Kreis 2022 (arXiv 2112.07068), eq. 5; with w = beta t / sqrt(mass) and v in units of sqrt(mass)

    A = e^-w [[1 + w, w], [-w, 1 - w]]      N = 1 - A A^T      covariance S = N + A diag(scale^2, gamma) A^T

gamma: the variance of the first velocities. R = L Q with L the Cholesky factor of S and Q the rotation by theta, and dR/dt = F R +
G G^T R^-T / 2 leaves one equation: dtheta/dw = -sqrt(det S) / S_xx. Its integral is taken in sqrt(w), in which it is smooth.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .damped import excess
from .kinds import Matrix, Operator
from .quadrature import gauss_legendre

PANELS = 8  # of the integral for theta, each with the nodes of `gauss_legendre`


def noise(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """N_xx, N_xv, N_vv."""
    fade = torch.exp(-2 * w)
    return fade * excess(w), fade * 2 * w**2, fade * (excess(w) + 4 * w)


@dataclass(frozen=True)
class Damped:
    """The two modes as 2 x 2 matrices along the first axis of a sample. rate = beta / sqrt(mass); scale: the spread of the data."""

    rate: float
    mass: float
    gamma: float
    scale: float = 0.0

    def mean(self, t: Tensor) -> Tensor:
        """See `gddim.Linear`."""
        w = self.rate * t
        return _matrices(1 + w, w, -w, 1 - w) * torch.exp(-w)[:, None, None] * self._unit()[:, None] / self._unit()

    def root(self, t: Tensor) -> Tensor:
        """See `gddim.Linear`."""
        return self._cholesky(t) @ self._rotation(t)

    def noise(self, t: Tensor) -> Tensor:
        """See `gddim.Linear`."""
        return replace(self, scale=0.0)._cholesky(t)

    def spread(self) -> Tensor:
        """See `gddim.Linear`."""
        return torch.tensor([[self.scale**2, 0.0], [0.0, 0.0]], dtype=torch.float64)

    def operator(self, values: Tensor) -> Operator:
        """See `gddim.Linear`."""
        return Matrix(values, axis=0)

    def start(self, t: float) -> Operator:
        """See `gddim.Linear`: noise of the covariance at t, of which sigma^2 is that of the position."""
        chol = self.noise(torch.tensor([t], dtype=torch.float64))[0]
        return self.operator(chol / chol[0, 0])

    def covariance(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """S_xx, S_xv, S_vv and det S, in units of the mass."""
        (xx, xv, vv), fade, c2 = noise(w), torch.exp(-2 * w), self.scale**2
        back = torch.exp(2 * w) * ((1 - w) ** 2 * xx - 2 * (1 - w) * w * xv + w**2 * vv)  # A^-1 N A^-T
        back_vv = torch.exp(2 * w) * (w**2 * xx + 2 * w * (1 + w) * xv + (1 + w) ** 2 * vv)
        det = fade**2 * (c2 * self.gamma + c2 * back_vv + self.gamma * back) + (xx * vv - xv**2)
        xx = xx + fade * (c2 * (1 + w) ** 2 + self.gamma * w**2)
        xv = xv + fade * (self.gamma * w * (1 - w) - c2 * w * (1 + w))
        return xx, xv, vv + fade * (c2 * w**2 + self.gamma * (1 - w) ** 2), det

    def _cholesky(self, t: Tensor) -> Tensor:
        """L; its limit at t = 0, where the position has no noise."""
        xx, xv, _, det = self.covariance(self.rate * t)
        a, zero = xx.sqrt(), torch.zeros_like(xx)
        lower = torch.where(a > 0, torch.stack([xv, det.sqrt()]) / a, torch.stack([zero + self.gamma**0.5, zero]))
        return _matrices(a, zero, *lower) * self._unit()[:, None]

    def _rotation(self, t: Tensor) -> Tensor:
        theta, mass = gauss_legendre()
        places: Tensor = ((theta + torch.arange(PANELS)[:, None]) / PANELS).flatten()
        top = (self.rate * t).sqrt()[:, None]
        w = (places * top) ** 2
        xx, _, _, det = self.covariance(w)
        angle = -(det.sqrt() / xx * 2 * places * top**2 * mass.repeat(PANELS) / PANELS).nan_to_num(0.0).sum(1)  # 0 / 0 at t = 0
        return _matrices(angle.cos(), -angle.sin(), angle.sin(), angle.cos())

    def _unit(self) -> Tensor:
        """Of a state: what position and velocity are counted in."""
        return torch.tensor([1.0, self.mass**0.5], dtype=torch.float64)


def _matrices(*entries: Tensor) -> Tensor:
    """Four [n] as matrices [n, 2, 2]."""
    return torch.stack(entries, -1).reshape(-1, 2, 2)
