"""The worked example in every file: one number through the table, with a denoiser whose arithmetic is exact.

    x_T = 1,   z_m = (m + 1) / 16,   D_k(x) = x / 2 + (k + 1) / 8,   mu = 1 / 4

Every evaluation answers another value, so that a consumer that mixes up two answers, rows or noises gets another result.
"""

import itertools

import msgspec
import torch
from torch import Tensor

from .sample import sample
from .tableau import At, Row, Tableau


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each row's state must be (in row order) for the inputs of the module's formula."""

    states: tuple[float, ...]
    rule: str = "x_T = 1; z_m = (m+1)/16; D_k(x) = x/2 + (k+1)/8; mu = 1/4"


def golden_run(tableau: Tableau) -> Golden:
    """Run the example in float64."""
    count, states = itertools.count(1), list[float]()

    def denoiser(x: Tensor, at: At, **knobs: float) -> Tensor:
        return x / 2 + next(count) / 8

    def record(row: Row, x: Tensor, denoised: Tensor | None) -> None:
        states.append(float(x))

    noise = [torch.full((1,), (m + 1) / 16, dtype=torch.float64) for m in range(len(tableau.noises))]
    sample(denoiser, torch.ones(1, dtype=torch.float64), tableau, noise or None, record, mu=torch.full((1,), 0.25, dtype=torch.float64))
    return Golden(tuple(states))
