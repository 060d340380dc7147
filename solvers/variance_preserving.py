"""Variance preserving processes, sigma^2 = 1 - alpha^2: linear, cosine, and by a table of 1000 or so."""

import functools
import itertools
import math
from typing import Any

import torch
from torch import Tensor

from .base_process import BaseProcess, as_time
from .errors import ScheduleError

MAX_LENGTH = 100_000


class VPLinear(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="vp-linear"):
    """Variance preserving, beta(t) linear: log alpha = -t^2 (beta_max - beta_min)/4 - t beta_min/2.  Song et al. 2021, eq. 32."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ScheduleError(f"vp-linear needs 0 < beta_min <= beta_max, not {self.beta_min:g} and {self.beta_max:g}.")

    def log_alpha(self, t: Any) -> Tensor:
        """See the class."""
        t = as_time(t)
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def time_of(self, lambda_: Any) -> Tensor:
        """Solve the quadratic for t, in the form that does not cancel at small t; lambda_ = inf gives 0."""
        lambda_ = as_time(lambda_)
        minus_two_log_alpha = torch.logaddexp(-2 * lambda_, torch.zeros_like(lambda_))
        slope = self.beta_max - self.beta_min
        return 2 * minus_two_log_alpha / (self.beta_min + (self.beta_min**2 + 2 * slope * minus_two_log_alpha).sqrt())


class VPCosine(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="vp-cosine"):
    """Variance preserving: alpha = cos(pi/2 (t + s)/(1 + s)) / cos(pi/2 s/(1 + s)).  Nichol and Dhariwal 2021, eq. 17."""

    s: float = 0.008

    def __post_init__(self) -> None:
        if not 0 < self.s < 1:
            raise ScheduleError(f"vp-cosine needs 0 < s < 1, not {self.s:g}.")

    @property
    def t_max(self) -> float:
        """0.9946, where lambda reaches about -5.1: beyond it alpha falls to zero too fast to be stepped (DPM-Solver, app. D.4)."""
        return 0.9946

    def log_alpha(self, t: Any) -> Tensor:
        """See the class."""
        quarter = math.pi / 2 / (1 + self.s)
        return ((as_time(t) + self.s) * quarter).cos().log() - math.log(math.cos(self.s * quarter))

    def sigma(self, t: Any) -> Tensor:
        """sqrt(1 - alpha^2) as a product of sines, exact near t = 0."""
        quarter, t = math.pi / 2 / (1 + self.s), as_time(t)
        product = (t * quarter).sin() * ((t + 2 * self.s) * quarter).sin()  # sin(a-b) sin(a+b) = cos(b)^2 - cos(a)^2
        return product.clamp_min(0).sqrt() / math.cos(self.s * quarter)

    def time_of(self, lambda_: Any) -> Tensor:
        """Invert through sin(a-b) sin(a+b) = sin(a)^2 - sin(b)^2 with a the angle of t and b that of t = 0."""
        quarter = math.pi / 2 / (1 + self.s)
        start = self.s * quarter
        sigma2 = torch.sigmoid(-2 * as_time(lambda_))
        angle = (math.sin(start) ** 2 + sigma2 * math.cos(start) ** 2).sqrt().asin()
        return angle / quarter - self.s


class VPDiscrete(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="vp-discrete", dict=True):
    """A trained table alphas_cumprod: t is the training index 0..T-1, fractions by linear interpolation of log rho; t = -1 is clean."""

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        table = self.alphas_cumprod
        if not 2 <= len(table) <= MAX_LENGTH or not all(0 < b < a < 1 for a, b in itertools.pairwise(table)):
            raise ScheduleError("vp-discrete needs alphas_cumprod: at least 2 numbers, decreasing, between 0 and 1.")

    @functools.cached_property
    def lambdas(self) -> Tensor:
        """Lambda at every trained index, log(a / (1 - a)) / 2."""
        a = torch.tensor(self.alphas_cumprod, dtype=torch.float64)
        return (a.log() - (-a).log1p()) / 2

    @property
    def t_max(self) -> float:
        """The last training index."""
        return float(len(self.alphas_cumprod) - 1)

    @property
    def t_clean(self) -> float:
        """The place of sigma = 0, one before the first trained index."""
        return -1.0

    def lambda_of(self, t: Any) -> Tensor:
        """Linear interpolation of lambda between the trained indices; infinite at t = -1."""
        t, table = as_time(t), self.lambdas
        low = t.detach().floor().long().clamp(0, len(table) - 2)
        value = table[low] + (t - low) * (table[low + 1] - table[low])
        return torch.where(t < 0, torch.inf, value)

    def log_alpha(self, t: Any) -> Tensor:
        """Log alpha = -log(1 + exp(-2 lambda)) / 2, from the interpolated lambda."""
        lambda_ = self.lambda_of(t)
        return -torch.logaddexp(-2 * lambda_, torch.zeros_like(lambda_)) / 2

    def sigma(self, t: Any) -> Tensor:
        """Sigma = sqrt(sigmoid(-2 lambda))."""
        return torch.sigmoid(-2 * self.lambda_of(t)).sqrt()

    def time_of(self, lambda_: Any) -> Tensor:
        """Invert the interpolation; lambda_ beyond the table is extended linearly, infinite is t = -1."""
        lambda_, table = as_time(lambda_), self.lambdas
        finite = torch.where(lambda_ == torch.inf, table[0], lambda_)
        low = (torch.searchsorted(-table, -finite.detach().contiguous(), right=True) - 1).clamp(0, len(table) - 2)
        value = low + (finite - table[low]) / (table[low + 1] - table[low])
        return torch.where(lambda_ == torch.inf, -1.0, value)
