"""The position of critically damped Langevin diffusion, and the noise it has gathered, written so that nothing cancels near w = 0.

    N_xx = e^-2w excess(w)      excess = e^2w - 1 - 2 w - 2 w^2 = (2 w)^3 / 6 + ...        w: the time in damping times

Dockhorn, Vahdat, Kreis 2022, appendix B; `langevin.py` has the whole diffusion.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .base_process import BaseProcess, as_time
from .errors import ScheduleError

TERMS = 16  # of the series, for 2 w < 1/2


def excess(w: Tensor) -> Tensor:
    """See above."""
    x = 2 * w
    series = torch.ones_like(x)
    for k in range(TERMS, 3, -1):
        series = 1 + x / k * series
    return torch.where(x < 0.5, x**3 / 6 * series, torch.expm1(x) - x - x**2 / 2)


class CriticallyDamped(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="critically-damped"):
    """The position of critically damped Langevin diffusion (langevin.py), whose velocity starts with variance gamma mass.

    Dockhorn, Vahdat, Kreis 2022, appendix B:

    alpha = (1 + w) exp(-w)      sigma^2 = 1 - alpha^2 - (1 - gamma) (w exp(-w))^2      w = beta t / sqrt(mass)
    """

    beta: float = 4.0
    mass: float = 0.25
    gamma: float = 0.04

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf or not 0 < self.mass < math.inf or not 0 < self.gamma <= 1:
            raise ScheduleError("critically-damped needs positive beta and mass and 0 < gamma <= 1.")
        if not self.rate <= 300:
            raise ScheduleError("critically-damped needs beta / sqrt(mass) of at most 300: after that nothing of the data is left.")

    @property
    def rate(self) -> float:
        """W at t = 1."""
        return self.beta / self.mass**0.5

    def log_alpha(self, t: Any) -> Tensor:
        """See the class."""
        w = self.rate * as_time(t)
        return torch.log1p(w) - w

    def sigma(self, t: Any) -> Tensor:
        """See the class."""
        w = self.rate * as_time(t)
        return torch.exp(-w) * (excess(w) + self.gamma * w**2).sqrt()

    def time_of(self, lambda_: Any) -> Tensor:
        """Bisection in log t, then a step of Newton that carries the derivative; lambda_ = inf gives 0."""
        lambda_ = as_time(lambda_)
        low, high = (torch.full_like(lambda_.detach(), end) for end in (-40.0, 6.0))
        for _ in range(60):
            middle = (low + high) / 2
            noisy = self.lambda_of(middle.exp() / self.rate) < lambda_.detach()
            low, high = torch.where(noisy, low, middle), torch.where(noisy, middle, high)
        w = low.exp()
        slope = -w / (1 + w) - (2 * w**2 + self.gamma * w * (1 - w)) / (excess(w) + self.gamma * w**2)
        found = w + (torch.where(lambda_ == torch.inf, 0.0, lambda_) - self.lambda_of(w / self.rate)) / slope
        return torch.where(lambda_ == torch.inf, 0.0, found / self.rate)
