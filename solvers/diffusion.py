"""Noise injected in the course of a step: what it does to the drift, and how much there is.

The probability-flow ODE is one of a family of equations with the same marginals; eta says how far towards the reverse-time
SDE (eta = 1) a step goes, constant within the step. In the spaces of `quadrature`, with phi the fading,

    x0    S = sigma phi,  m = 1 / (rho phi)     noise^2 = sigma_t^2 - (S_t / S_s)^2 sigma_s^2
        sde   phi = exp(-eta lambda)                         (Xue et al. 2023, SA-Solver, prop. 4.2, eta = tau^2; DPM-Solver++ SDE)
        er    phi = (exp(rho^0.3) + 10)^eta                  (Cui et al. 2023, ER-SDE-Solvers, the function of ComfyUI)
    eps   S = alpha,      m = (1 + eta) rho     noise^2 = eta sigma_t^2 (exp(2h) - 1)

The noise form is another discretisation: a point mass keeps its variance in x0, and only to first order in eps.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .schedule import Step

ANCESTRAL = ("ancestral", "rectified")
SDE = ("sde", "er")


@dataclass(frozen=True)
class Diffusion:
    """The kind of noise and its rate; `log_fading` and `rate` are functions of lambda."""

    kind: str
    eta: float

    @classmethod
    def of(cls, step: Step, clean: bool) -> "Diffusion":
        """That of a step; at a clean end there is no room for noise, and ancestral noise only moves the target."""
        return NONE if clean or step.noise in ANCESTRAL else cls(step.noise, step.eta)

    def log_fading(self, lambda_: Tensor) -> Tensor:
        """Log phi."""
        if self.kind == "er":
            return self.eta * torch.logaddexp(torch.exp(-0.3 * lambda_), torch.full_like(lambda_, math.log(10)))
        return -self.eta * lambda_

    def rate(self, lambda_: Tensor) -> Tensor:
        """d log m / d lambda in the space x0: 1 - d log phi / d lambda."""
        if self.kind == "er":
            power = torch.exp(-0.3 * lambda_)
            return 1 + self.eta * 0.3 * power * torch.sigmoid(power - math.log(10))
        return torch.full_like(lambda_, 1 + self.eta)


NONE = Diffusion("sde", 0.0)
