"""Coefficients that are not numbers: linear operators on one sample, the same for every sample of a batch.

    Field     "tensor"  a factor per element                                 x * values              values [*sample]
    Spectral  "dct"     a factor per frequency, in an orthonormal cosine basis over the last axes of the sample
                        C^T (values * (C x))                                                         values [*last axes]
    Matrix    "matrix"  a small matrix along one axis of the sample          values @ x              values [n, n]

Numbers stay the fast path: an executor meets an operator in one line, and `apply` is the only place that knows the kinds.
Operators of one kind compose among themselves (that is what a closed form needs); those of two kinds do not.
DPM-Solver-v3 (Zheng et al. 2023) has coefficients per element. gDDIM (Zhang et al. 2023) has them in the two other kinds,
per frequency for blurring diffusion, and between position and velocity for Langevin diffusion (`gddim.py`).
In a file they stand in a sidecar of tensors, and `Layout` says what these are.
"""

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .errors import ScheduleError


class Layout(NamedTuple):
    """What the values of an operator are: their kind, their shape, and for a matrix the axis of the sample that it acts on."""

    kind: str
    shape: tuple[int, ...]
    axis: int = 0

    @property
    def sample(self) -> tuple[int, ...]:
        """The smallest sample on which it acts."""
        return (1,) * self.axis + self.shape[:1] if self.kind == Matrix.kind else self.shape

    def identity(self) -> Tensor:
        """The values of the operator that changes nothing."""
        make = torch.eye if self.kind == Matrix.kind else torch.ones
        return make(*self.shape, dtype=torch.float64)

    def operator(self, values: Tensor) -> "Operator":
        """The operator of these values. Raises ScheduleError if they are of another shape, or one of them is not finite."""
        if tuple(values.shape) != self.shape:
            raise ScheduleError(f"A coefficient has shape {tuple(values.shape)} and not {self.shape}.")
        return Matrix(values, self.axis) if self.kind == Matrix.kind else {Field.kind: Field, Spectral.kind: Spectral}[self.kind](values)


@dataclass(frozen=True, eq=False)
class Operator:
    """Base of the kinds; values are float64."""

    values: Tensor
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.values).all()):
            raise ScheduleError(f"A coefficient of kind {self.kind!r} holds a number that is not finite.")

    @property
    def layout(self) -> Layout:
        """What `values` is."""
        return Layout(self.kind, tuple(self.values.shape))

    def apply(self, x: Tensor) -> Tensor:
        """The operator on every sample of x [batch, ...]. Raises ScheduleError where their shapes do not fit."""
        raise NotImplementedError

    def after(self, values: Tensor) -> Tensor:
        """The values of this operator after another of its kind."""
        return self.values * values

    def misfit(self, x: Tensor) -> ScheduleError:
        """What to say when it cannot be applied."""
        return ScheduleError(
            f"A coefficient of kind {self.kind!r} and shape {tuple(self.values.shape)} does not fit samples {tuple(x.shape[1:])}."
        )


class Field(Operator):
    """A factor per element."""

    kind = "tensor"

    def apply(self, x: Tensor) -> Tensor:
        """See `Operator`."""
        if self.values.shape != x.shape[1:]:
            raise self.misfit(x)
        return x * self.values.to(x)


class Spectral(Operator):
    """A factor per frequency of the orthonormal DCT-II over the last axes, as many as `values` has."""

    kind = "dct"

    def apply(self, x: Tensor) -> Tensor:
        """See `Operator`."""
        axes = range(-self.values.ndim, 0)
        if self.values.shape != x.shape[1:][-self.values.ndim :]:
            raise self.misfit(x)
        bases = [cosines(x.shape[axis]).to(x) for axis in axes]
        for axis, basis in zip(axes, bases, strict=True):
            x = _along(basis, x, axis)
        x = x * self.values.to(x)
        for axis, basis in zip(axes, bases, strict=True):
            x = _along(basis.T, x, axis)
        return x


@dataclass(frozen=True, eq=False)
class Matrix(Operator):
    """A matrix along `axis` of the sample (0 is its first)."""

    axis: int = 0
    kind = "matrix"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.values.ndim != 2 or len(self.values) != self.values.shape[1]:
            raise ScheduleError(f"A coefficient of kind 'matrix' must be square, and this one has shape {tuple(self.values.shape)}.")

    @property
    def layout(self) -> Layout:
        """See `Operator`."""
        return Layout(self.kind, tuple(self.values.shape), self.axis)

    def apply(self, x: Tensor) -> Tensor:
        """See `Operator`."""
        if not self.axis < x.ndim - 1 or self.values.shape != 2 * x.shape[1 + self.axis : 2 + self.axis]:
            raise self.misfit(x)
        return _along(self.values.to(x), x, 1 + self.axis)

    def after(self, values: Tensor) -> Tensor:
        """See `Operator`."""
        return self.values @ values


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    return (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)


@functools.lru_cache(maxsize=16)
def cosines(size: int) -> Tensor:
    """The orthonormal DCT-II matrix [frequency, place]."""
    place = torch.arange(size, dtype=torch.float64)
    basis = (math.pi * (place + 0.5) * place[:, None] / size).cos() * (2 / size) ** 0.5
    return torch.cat([basis[:1] / 2**0.5, basis[1:]])
