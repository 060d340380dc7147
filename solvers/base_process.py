"""What a noise process is: x_t = alpha(t) x0 + sigma(t) eps.

    lambda = log(alpha / sigma)      rho = sigma / alpha = exp(-lambda)

t falls from noise to data. Every process is a small frozen record, so that a schedule file can carry it, and answers
with float64 tensors that are differentiable in t: `alpha(t)`, `sigma(t)`, `lambda_of(t)` and the inverse `time_of(lambda)`.
t may have any shape. sigma = 0 is a legal end of every process: t = 0, and for `vp-discrete`, whose index 0 is still
noisy, t = -1. A mean-reverting process ends at a given picture mu: x_t - mu = alpha (x0 - mu) + sigma eps. What "sigma"
means to the users of a process (`sigmas([...])`) is t for flow, and rho for all others.
"""

import math
from typing import Any

import msgspec
import torch
from torch import Tensor

from .errors import ScheduleError


def as_time(t: Any) -> Tensor:
    """A float64 tensor of the given number, list or tensor."""
    return t.double() if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)


class BaseProcess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="name"):
    """Base of all processes. A subclass gives `log_alpha`, `sigma` and `time_of`, and its range [0 (data), t_max (noise)]."""

    @property
    def t_max(self) -> float:
        """The noisiest time."""
        return 1.0

    @property
    def t_clean(self) -> float:
        """The time at which sigma is zero."""
        return 0.0

    def log_alpha(self, t: Any) -> Tensor:
        """Log alpha(t)."""
        raise NotImplementedError

    def alpha(self, t: Any) -> Tensor:
        """The scale of the data at t."""
        return self.log_alpha(t).exp()

    def sigma(self, t: Any) -> Tensor:
        """The scale of the noise at t: sqrt(1 - alpha^2) unless a subclass says otherwise."""
        return (-torch.expm1(2 * self.log_alpha(t))).clamp_min(0).sqrt()

    def lambda_of(self, t: Any) -> Tensor:
        """log(alpha / sigma) at t."""
        return self.log_alpha(t) - self.sigma(t).log()

    def time_of(self, lambda_: Any) -> Tensor:
        """The t at which log(alpha / sigma) = lambda_: the inverse of `lambda_of`."""
        raise NotImplementedError

    def time_of_sigma(self, sigma: Any) -> Tensor:
        """The t that users of this process call sigma: here rho = sigma / alpha."""
        return self.time_of(-as_time(sigma).log())

    def sigma_of(self, t: Any) -> Tensor:
        """The inverse of `time_of_sigma`."""
        return self.sigma(t) / self.alpha(t)

    @property
    def anchored(self) -> bool:
        """Whether x - mu, and not x itself, obeys x = alpha x0 + sigma eps."""
        return False

    def check_time(self, t: float, what: str = "time") -> None:
        """Raise ScheduleError unless t lies in this process's range."""
        if not (math.isfinite(t) and (0 <= t <= self.t_max or t == self.t_clean)):
            apart = f" and is not its clean end {self.t_clean:g}" if self.t_clean < 0 else ""
            raise ScheduleError(f"{what} {t:g} lies outside [0, {self.t_max:g}], the range of process {name_of(self)!r}{apart}.")


def name_of(process: BaseProcess) -> str:
    """The word by which `process(...)` makes it."""
    return str(process.__struct_config__.tag)
