"""Noise processes: x_t = alpha(t) x0 + sigma(t) eps.

    lambda = log(alpha / sigma)      rho = sigma / alpha = exp(-lambda)

t falls from noise to data. Every process is a small frozen record, so that a schedule file can carry it, and answers
with float64 tensors that are differentiable in t: `alpha(t)`, `sigma(t)`, `lambda_of(t)` and the inverse `time_of(lambda)`.
t may have any shape. sigma = 0 is a legal end of every process: t = 0, and for `vp-discrete`, whose index 0 is still
noisy, t = -1. A mean-reverting process ends at a given picture mu: x_t - mu = alpha (x0 - mu) + sigma eps. What "sigma"
means to the users of a process (`sigmas([...])`) is t for flow, and rho for all others.
"""

import functools
import itertools
import math
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from .damped import excess
from .errors import ScheduleError
from .theta import share, time_of_share

MAX_LENGTH = 100_000


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


class VE(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="ve"):
    """Variance exploding (EDM): alpha = 1, sigma = t.  Karras et al. 2022."""

    sigma_max: float = 1e6

    def __post_init__(self) -> None:
        if not 0 < self.sigma_max < math.inf:
            raise ScheduleError(f"ve needs a positive sigma_max, not {self.sigma_max:g}.")

    @property
    def t_max(self) -> float:
        """The largest sigma the model was trained on."""
        return self.sigma_max

    def log_alpha(self, t: Any) -> Tensor:
        """Zero."""
        return torch.zeros_like(as_time(t))

    def sigma(self, t: Any) -> Tensor:
        """T itself."""
        return as_time(t)

    def time_of(self, lambda_: Any) -> Tensor:
        """exp(-lambda)."""
        return (-as_time(lambda_)).exp()


class Flow(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="flow"):
    """Rectified flow: alpha = 1 - t, sigma = t, from t = 1 (pure noise, alpha = 0) to t = 0.  Liu et al. 2022, Lipman et al. 2022."""

    def log_alpha(self, t: Any) -> Tensor:
        """log(1 - t)."""
        return torch.log1p(-as_time(t))

    def alpha(self, t: Any) -> Tensor:
        """1 - t."""
        return 1 - as_time(t)

    def sigma(self, t: Any) -> Tensor:
        """T itself."""
        return as_time(t)

    def time_of(self, lambda_: Any) -> Tensor:
        """sigmoid(-lambda)."""
        return torch.sigmoid(-as_time(lambda_))

    def time_of_sigma(self, sigma: Any) -> Tensor:
        """Flow users call t itself sigma."""
        return as_time(sigma)

    def sigma_of(self, t: Any) -> Tensor:
        """T itself."""
        return as_time(t)


class MeanReverting(BaseProcess, frozen=True, forbid_unknown_fields=True, tag="mean-reverting"):
    """From data to a given picture mu: x - mu = alpha (x0 - mu) + sigma eps.  Luo et al. 2023 (IR-SDE), eq. 6; Ma et al. 2025 (MRS).

        alpha = exp(-integral of theta)      sigma = sigma_inf sqrt(1 - alpha^2)

    theta is "constant", "linear" or "cosine" in t (see theta.py) and integrates to -log(alpha_end).
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


Process = VPLinear | VPCosine | VPDiscrete | VE | Flow | MeanReverting | CriticallyDamped
PROCESSES: dict[str, type[Process]] = {
    "vp-linear": VPLinear,
    "vp-cosine": VPCosine,
    "vp-discrete": VPDiscrete,
    "ve": VE,
    "flow": Flow,
    "mean-reverting": MeanReverting,
    "critically-damped": CriticallyDamped,
}


def name_of(process: BaseProcess) -> str:
    """The word by which `process(...)` makes it."""
    return str(process.__struct_config__.tag)


def process(name: str, **options: Any) -> Process:
    """Make a process by name, one of `PROCESSES`; options as in the classes above.

    alphas_cumprod may be a list, an array or a tensor. Raises ScheduleError for an unknown name or option.
    """
    if name not in PROCESSES:
        raise ScheduleError(f"There is no process {name!r}; there are {', '.join(PROCESSES)}.")
    table = options.get("alphas_cumprod")
    try:
        if table is not None:
            options["alphas_cumprod"] = tuple(float(a) for a in table)
        return msgspec.convert({"name": name, **options}, PROCESSES[name])
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ScheduleError(f"Process {name!r} cannot be made: {str(error).rstrip('.')}.") from None
