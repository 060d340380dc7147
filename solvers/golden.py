"""The worked example in every file: one number through the table, with a denoiser whose arithmetic is exact.

    x_T = 1,   z_m = (m + 1) / 16,   D_k(x) = x / 2 + (k + 1) / 8,   mu = 1 / 4

Operators need a whole sample, the smallest that they act on. Its x_T is w_n = 1 + (n^3 mod 11) / 16 at element n, which has no
symmetry that could hide a coefficient, and a state is told as the mean of w x.
Every evaluation answers another value, so that a consumer that mixes up two answers, rows or noises gets another result.
"""

import itertools
import math

import msgspec
import torch
from torch import Tensor

from .sample import sample
from .tableau import At, Row, Tableau


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each row's state must be (in row order) for the inputs of the module's formula."""

    states: tuple[float, ...]
    rule: str = "x_T = 1; z_m = (m+1)/16; D_k(x) = x/2 + (k+1)/8; mu = 1/4"


WIDE = "w_n = 1 + (n^3 mod 11)/16; x_T = w; z_m = (m+1)/16; D_k(x) = x/2 + (k+1)/8; mu = 1/4; a state as the mean of w x"


def golden_run(tableau: Tableau) -> Golden:
    """Run the example in float64."""
    count, states = itertools.count(1), list[float]()
    shape = (1, *tableau.layout.sample) if tableau.layout else (1,)
    w = 1 + (torch.arange(math.prod(shape), dtype=torch.float64) % 11) ** 3 % 11 / 16
    w = w.reshape(shape)

    def denoiser(x: Tensor, at: At, **knobs: float) -> Tensor:
        return x / 2 + next(count) / 8

    def record(row: Row, x: Tensor, denoised: Tensor | None) -> None:
        states.append(float((w * x).mean()))

    noise = [torch.full_like(w, (m + 1) / 16) for m in range(len(tableau.noises))]
    sample(denoiser, w, tableau, noise or None, record, mu=torch.full_like(w, 0.25))
    return Golden(tuple(states), WIDE) if tableau.layout else Golden(tuple(states))
