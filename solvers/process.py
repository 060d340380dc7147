"""The noise processes, by name (base_process.py says what one is): two of them here, the others imported."""

import math
from typing import Any

import msgspec
import torch
from torch import Tensor

from .base_process import BaseProcess, as_time
from .damped import CriticallyDamped
from .errors import ScheduleError
from .mean_reverting import MeanReverting
from .variance_preserving import VPCosine, VPDiscrete, VPLinear


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
