"""What is read: strict JSON of a few shapes, and the process that its numbers belong to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import torch

from ..errors import ScheduleError
from ..file import MAX_BYTES, read_bytes
from ..process import Process, process

T = TypeVar("T")


class Betas(msgspec.Struct, frozen=True):
    """The part of a diffusers scheduler config that says which table its network was trained on."""

    beta_schedule: Literal["linear", "scaled_linear"] = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    num_train_timesteps: int = 1000
    trained_betas: list[float] | None = None
    rescale_betas_zero_snr: bool = False

    @property
    def process(self) -> Process:
        """vp-discrete, in float64. Raises ScheduleError for tables that are not made here."""
        count = self.num_train_timesteps if self.trained_betas is None else len(self.trained_betas)
        if self.rescale_betas_zero_snr or not 2 <= count <= 100_000:
            raise ScheduleError("This table is rescaled to zero SNR or has no sensible length, which is not understood here.")
        if self.trained_betas is not None:
            betas = torch.tensor(self.trained_betas, dtype=torch.float64)
        else:
            power = 0.5 if self.beta_schedule == "scaled_linear" else 1.0
            first, last = (max(beta, 0.0) ** power for beta in (self.beta_start, self.beta_end))
            betas = torch.linspace(first, last, count, dtype=torch.float64) ** (1 / power)
        if not bool(((betas > 0) & (betas < 1)).all()):
            raise ScheduleError("The betas of a network's training lie between 0 and 1.")
        return process("vp-discrete", alphas_cumprod=torch.cumprod(1 - betas, 0))


WITHOUT_BETAS = ("EDM", "ScoreSde", "CMStochastic", "VQ", "Amused")  # how the names of diffusers' classes begin that know no betas


def trained_on(config: Mapping[str, Any]) -> Literal["flow", "betas"]:
    """What the network of a diffusers scheduler config was trained on. Raises ScheduleError if it is neither."""
    name = str(config.get("_class_name", ""))
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        return "flow"
    if name.startswith(WITHOUT_BETAS) or not (name or config.keys() & {"beta_schedule", "beta_start", "trained_betas"}):
        raise ScheduleError(f"This is no scheduler config with a table of betas or of a flow{name and f', but of {name}'}.")
    return "betas"


def process_of_config(config: Any) -> Process:
    """The process that a diffusers scheduler config says its network was trained on. Raises ScheduleError."""
    known = shaped(config, Betas, "a scheduler config with a table of betas")
    return process("flow") if trained_on(config) == "flow" else known.process


@dataclass(frozen=True)
class Asked:
    """What the user says about a source: its process, and where it says less, the sampler, the steps and what f is."""

    process: Process | None = None
    sampler: str = ""
    nfe: int | None = None
    prediction: str = ""

    @property
    def solver(self) -> str:
        """The sampler, by default DDIM."""
        return self.sampler or "ddim"

    def need_process(self) -> Process:
        """The process, or a ScheduleError that says how to give it."""
        if self.process is None:
            raise ScheduleError("Say which process these numbers belong to: --process NAME, or --process scheduler_config.json.")
        return self.process


def read(path: Path) -> Any:
    """The JSON document at `path`. Raises ScheduleError, also for files that only unpickling could read."""
    if path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".npy", ".npz", ".ckpt"):
        raise ScheduleError(f"{path} would have to be unpickled, which can run anything; save its numbers as JSON where you trust it.")
    data = read_bytes(path, MAX_BYTES)
    if len(data) > MAX_BYTES:
        raise ScheduleError(f"{path} is larger than {MAX_BYTES} bytes, more than any schedule.")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ScheduleError(f"{path} is not JSON.") from None


def shaped(document: Any, kind: type[T], what: str) -> T:
    """`document` as `kind`. Raises ScheduleError."""
    try:
        return msgspec.convert(document, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ScheduleError(f"This is not {what}: {error}.") from None


def check_falling(times: Sequence[float], where: Process) -> None:
    """Raise ScheduleError unless these are times of the process, from noise to data."""
    for i, t in enumerate(times):
        where.check_time(t, f"time {i}:")
        if i and not t < times[i - 1]:
            raise ScheduleError(f"Times fall from noise to data, but time {i} is {t:g} after {times[i - 1]:g}.")


def process_of(word: str) -> Process:
    """A process by name, or from the diffusers scheduler_config.json at a path. Raises ScheduleError."""
    if not word.endswith(".json"):
        return process(word)
    return process_of_config(read(Path(word)))
