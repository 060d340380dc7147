"""What a teacher answers: D(x, at) = E[x0 | x], whatever its network predicts, and whatever stands between the two.

A denoiser is called as denoiser(x, at, cond=..., **knobs): x [B, ...] is the state; at.label the time told to the network,
at.alpha and at.sigma the scales of the state (float64, [] or [B], perhaps on another device than x); cond [B, ...] belongs to the
samples and is sliced with them; other knobs come from the rows and the teacher. It returns D of x's shape.

Everything that is not a plain weighted sum lives here: guidance, thresholding, clipping, caching. A denoiser is wrapped,
never subclassed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solvers import At, FittedFor, Process
from solvers.prediction import Prediction, check, to_denoised
from solvers.process import name_of
from solvers.sample import Denoiser
from teacher.errors import TeacherError

Label = Literal["t", "sigma", "index"]


@dataclass(frozen=True)
class Teacher:
    """The model whose sampler we seek, with everything that fixes its samples.

    start, end   the noisiest and the cleanest time of its sampling, in the process's own t
    conditions   from seeds to cond [B, ...], or None for an unconditional model
    knobs        what every evaluation gets (guidance scale)
    calls        network calls behind one evaluation
    digest       sha256 of the weights and the conventions: what a cached trajectory belongs to (`digest` below)
    network      the module behind the denoiser, where it can be moved to another device
    """

    name: str
    denoiser: Denoiser
    process: Process
    start: float
    end: float
    shape: tuple[int, ...]
    digest: str
    prediction: str = "x0"
    conditions: Callable[[list[int]], Tensor | None] = lambda seeds: None
    knobs: tuple[tuple[str, float], ...] = ()
    calls: int = 1
    licence: str = ""
    network: nn.Module | None = field(default=None, repr=False, compare=False)

    @property
    def card(self) -> FittedFor:
        """What a schedule file says of the model it was fitted for, and is held to when it is used."""
        guidance = dict(self.knobs).get("guidance")
        return FittedFor(self.name, self.digest, self.prediction, guidance, resolution=self.shape, dtype="float32")

    def on(self, device: str) -> "Teacher":
        """The same teacher with its network on one of torch's devices ("cpu", "cuda", "cuda:1"); states and answers stay where they are.

        Raises TeacherError if there is no such device here, or no network to move.
        """
        if device == "cpu":
            return self
        if self.network is None:
            raise TeacherError(f"Model {self.name!r} has no network that could be moved to {device!r}.")
        try:
            self.network.to(device)
        except (RuntimeError, AssertionError) as error:  # a torch that was built without the device asserts
            raise TeacherError(f"The network cannot be moved to {device!r}: {str(error).splitlines()[0]}.") from None

        def there(x: Tensor, at: At, *, cond: Tensor | None = None, **knobs: Any) -> Tensor:
            return self.denoiser(x.to(device), at, cond=None if cond is None else cond.to(device), **knobs).to(x.device)

        return replace(self, denoiser=there)


def digest(network: nn.Module, *conventions: object) -> str:
    """A Teacher's digest: sha256 over the names and values of the network's parameters and buffers, and whatever else makes its answers."""
    found = hashlib.sha256(repr(conventions).encode())
    for name, value in network.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def wrap(
    network: Callable[..., Tensor], process: Process, prediction: Prediction, label: Label = "t", pass_cond: str | None = None
) -> Denoiser:
    """Bring any network: `network(x, label) -> f` becomes a Denoiser.

    prediction  "eps", "x0", "v" or "flow": what f is
    label       what the network is told: "t" the process's own time, "sigma" what its users call sigma, "index" the
                training index (vp-discrete: t itself; flow: 1000 t, as in diffusers)
    pass_cond   the name of the keyword by which the network takes `cond`, if it does
    """
    check(prediction)
    if label not in ("t", "sigma", "index"):
        raise TeacherError(f"There is no label {label!r}; there are t, sigma and index.")
    if label == "index" and name_of(process) not in ("vp-discrete", "flow"):
        raise TeacherError(f"Process {name_of(process)!r} has no training index; use label 't' or 'sigma'.")

    def denoiser(x: Tensor, at: At, *, cond: Tensor | None = None, **knobs: Any) -> Tensor:
        told = at.label
        if label == "sigma":
            told = process.sigma_of(told)
        elif label == "index" and name_of(process) == "flow":
            told = told * 1000
        if pass_cond is not None:
            knobs[pass_cond] = cond
        f = network(x, told.to(x).expand(len(x)), **knobs)
        return to_denoised(prediction, f, x, along(at.alpha, x), along(at.sigma, x))

    return denoiser


def along(value: Tensor, x: Tensor) -> Tensor:
    """A scalar or per-sample number shaped to multiply x."""
    value = value.to(x)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def guided(denoiser: Denoiser, null: int) -> Denoiser:
    """Classifier-free guidance: D_null + guidance (D_cond - D_null), both in one doubled batch.  Ho and Salimans 2022, eq. 6.

    The knob `guidance` is a float; 1 (the default) asks the conditional network alone.
    """

    def call(x: Tensor, at: At, *, cond: Tensor | None = None, guidance: float = 1.0, **knobs: Any) -> Tensor:
        if guidance == 1.0 or cond is None:
            return denoiser(x, at, cond=cond, **knobs)
        twice = At(*(value.repeat(2) if value.ndim else value for value in at))
        both = denoiser(torch.cat([x, x]), twice, cond=torch.cat([cond, torch.full_like(cond, null)]), **knobs)
        with_class, without = both.chunk(2)
        return without + guidance * (with_class - without)

    return call
