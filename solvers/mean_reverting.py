"""The mean-reverting process: towards a given picture mu, as fast as theta(t) says, which is known by name.

    alpha = exp(-integral of theta)      the integral over [0, 1] is -log(alpha_end); theta is proportional to

    constant  1                           linear  1 + 199 t  (from 1e-4 to 0.02)
    cosine    1 - f(t) / f(0) with f(t) = cos(pi/2 (t + s)/(1 + s))^2, s = 0.008

Luo et al. 2023 (IR-SDE), `utils/sde_utils.py`; Ma et al. 2025 (MRS). With q = pi/2/(1 + s), x = 2 q t and A = 2 q s the cosine's
integral is cos(A) (x - sin x) + sin(A) (1 - cos x) over its value at t = 1, written here so that nothing cancels near t = 0.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from .base_process import BaseProcess, as_time
from .errors import ScheduleError

Q = math.pi / 2 / 1.008
A = 2 * Q * 0.008
SERIES = [(-1) ** k / math.factorial(2 * k + 3) for k in range(6)]  # of (x - sin x) / x^3 in x^2


class MeanReverting(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="mean-reverting"):
    """From data to a given picture mu: x - mu = alpha (x0 - mu) + sigma eps.  Luo et al. 2023 (IR-SDE), eq. 6; Ma et al. 2025 (MRS).

        alpha = exp(-integral of theta)      sigma = sigma_inf sqrt(1 - alpha^2)

    theta is "constant", "linear" or "cosine" in t and integrates to -log(alpha_end).
    """

    theta: Literal["constant", "linear", "cosine"] = "cosine"
    sigma_inf: float = 10 / 255
    alpha_end: float = 0.005

    def __post_init__(self) -> None:
        if not 0 < self.sigma_inf < math.inf or not 0 < self.alpha_end < 1:
            raise ScheduleError(f"mean-reverting needs sigma_inf > 0 and 0 < alpha_end < 1, not {self.sigma_inf:g} and {self.alpha_end:g}.")

    @property
    def anchored(self) -> bool:
        """Yes: to mu."""
        return True

    def log_alpha(self, t: Any) -> Tensor:
        """Minus the integral of theta."""
        return math.log(self.alpha_end) * share(self.theta, as_time(t))

    def sigma(self, t: Any) -> Tensor:
        """See the class."""
        return self.sigma_inf * super().sigma(t)

    def time_of(self, lambda_: Any) -> Tensor:
        """Invert exp(-2 lambda) = sigma_inf^2 (1 / alpha^2 - 1)."""
        spread = -2 * (as_time(lambda_) + math.log(self.sigma_inf))
        minus_two_log_alpha = torch.logaddexp(spread, torch.zeros_like(spread))
        return time_of_share(self.theta, minus_two_log_alpha / (-2 * math.log(self.alpha_end)))


def _cosine(t: Tensor) -> Tensor:
    x = 2 * Q * t
    x2 = x * x
    series: Any = 0.0
    for term in reversed(SERIES):
        series = series * x2 + term
    return math.cos(A) * torch.where(x < 0.5, x * x2 * series, x - x.sin()) + math.sin(A) * 2 * (x / 2).sin() ** 2


_WHOLE = float(_cosine(torch.ones((), dtype=torch.float64)))


def share(theta: str, t: Tensor) -> Tensor:
    """The integral of theta from 0 to t."""
    if theta == "constant":
        return t
    if theta == "linear":
        return (t + 99.5 * t**2) / 100.5
    return _cosine(t) / _WHOLE


def time_of_share(theta: str, part: Tensor) -> Tensor:
    """The inverse of `share`."""
    if theta == "constant":
        return part
    if theta == "linear":
        return 201 * part / (1 + (1 + 398 * 100.5 * part).sqrt())
    return _invert_cosine(part)


def _invert_cosine(part: Tensor) -> Tensor:
    """Newton from above, where the convex integral lets it converge from any bound; the last step carries the derivative 1 / theta.

    The bounds are those of the integral's two terms, x - sin x >= x^3 / pi^2 and 1 - cos x >= 2 x^2 / pi^2 up to x = pi.
    """
    positive = torch.where(part > 0, part, 1.0)
    target = positive.detach() * _WHOLE
    t = torch.minimum((target / math.cos(A)) ** (1 / 3) * math.pi ** (2 / 3), (target / (2 * math.sin(A))).sqrt() * math.pi) / (2 * Q)
    for _ in range(6):
        t = t - (_cosine(t) - target) / _slope(t)
    return torch.where(part > 0, t + (positive - _cosine(t) / _WHOLE) * _WHOLE / _slope(t), 0.0)


def _slope(t: Tensor) -> Tensor:
    return 4 * Q * (Q * t).sin() * (Q * t + A).sin()
