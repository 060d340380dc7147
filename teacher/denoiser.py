"""What a teacher answers: D(x, at) = E[x0 | x], whatever its network predicts, and whatever stands between the two.

A denoiser is called as denoiser(x, at, cond=..., **knobs): x [B, ...] is the state; at.label the time told to the network,
at.alpha and at.sigma the scales of the state (float64, [] or [B], perhaps on another device than x); cond [B, ...] belongs to the
samples and is sliced with them; other knobs come from the rows and the teacher. It returns D of x's shape.

Everything that is not a plain weighted sum lives here: guidance, thresholding, clipping, caching. A denoiser is wrapped,
never subclassed.
"""

import hashlib
import itertools
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from solvers import At, FittedFor, Process
from solvers.base_process import BaseProcess, name_of
from solvers.prediction import Prediction, check, to_denoised
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
    network      the module behind the denoiser, so that it can be moved (teacher.place)

    Raises TeacherError if one of these cannot be what it says.
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

    def __post_init__(self) -> None:
        check(self.prediction)
        if not isinstance(self.process, BaseProcess):
            raise TeacherError(f"The process of model {self.name!r} is {self.process!r}, and not one that solvers.process(...) made.")
        if not isinstance(self.network, nn.Module | None):
            raise TeacherError(f"The network of model {self.name!r} is a {type(self.network).__name__}, and not a torch.nn.Module.")
        if not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise TeacherError(f"A digest has 64 hexadecimal digits, as teacher.denoiser.digest makes them; this is {self.digest!r}.")
        try:
            knobs = tuple(sorted((str(name), float(value)) for name, value in dict(self.knobs).items()))
            shape, start, end = tuple(map(operator.index, self.shape)), float(self.start), float(self.end)
            bad = [value for value in (start, end, *(value for _, value in knobs)) if not math.isfinite(value)]
        except (TypeError, ValueError) as error:
            raise TeacherError(f"Model {self.name!r} has a shape, a start, an end or a knob that is no number: {error}.") from None
        if bad:
            raise TeacherError(f"Model {self.name!r} has a start, an end or a knob that is {bad[0]}.")
        for name, value in {"knobs": knobs, "shape": shape, "start": start, "end": end}.items():
            object.__setattr__(self, name, value)

    @property
    def card(self) -> FittedFor:
        """What a schedule file says of the model it was fitted for, and is held to when it is used."""
        guidance = dict(self.knobs).get("guidance")
        return FittedFor(self.name, self.digest, self.prediction, guidance, resolution=self.shape, dtype="float32")

    @property
    def makes_pictures(self) -> bool:
        """Whether its samples are grey or coloured pictures, so that what judges pictures can judge them; latents are none."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3)

    def facts(self, seeds: Sequence[int]) -> dict[str, object]:
        """All that decides its answers on these seeds: what a cached trajectory belongs to."""
        cond = self.conditions(list(seeds))
        return {
            "model": self.digest,
            "process": repr(self.process),
            "span": [self.start, self.end],
            "knobs": list(self.knobs),
            "shape": list(self.shape),
            "conditions": None if cond is None else hashlib.sha256(_content(cond)).hexdigest(),
        }


def digest(network: nn.Module, *conventions: Tensor | str | float) -> str:
    """A Teacher's digest: sha256 of all parameters and buffers of the network, and of whatever else its answers depend on.

    Raises TeacherError for a convention that is neither a tensor nor a word nor a number.
    """
    found = hashlib.sha256()
    for name, value in itertools.chain(network.named_parameters(), network.named_buffers(), enumerate(conventions)):
        if not isinstance(value, Tensor | str | int | float):
            raise TeacherError(f"A digest is made of tensors, words and numbers, not of {type(value).__name__}.")
        found.update(f"{name} ".encode() + (_content(value) if isinstance(value, Tensor) else repr(value).encode()))
    return found.hexdigest()


def _content(value: Tensor) -> bytes:
    numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{value.dtype} {tuple(value.shape)} ".encode() + numbers.tobytes()


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


def at_of(at: At, samples: Tensor | slice) -> At:
    """Of times that may be one for all or one each, those of some samples."""
    return At(*(value[samples] if value.ndim else value for value in at))


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
