"""Read a sampler's table from outside: feed unit vectors, and the state it asks about IS the row.

Every fixed sampler is affine in (x_T, the answers D_j, the noises). Put each of them on an axis of its own: x_T = e_0, the
j-th answer = e_{1+j}, the m-th noise = an axis further on. The vector with which the denoiser is called holds the
coefficients of that state, and the vector that comes back those of the sample.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import ScheduleError
from .tableau import START, At, Evaluation, Row, Tableau


class _OutOfAxes(Exception):
    pass


def probe(sampler: Callable[..., Tensor], noises: int = 0, max_nfe: int = 4096) -> Tableau:
    """The closed-form table of a black-box sampler.

    sampler  called as sampler(denoiser, x), or sampler(denoiser, x, noise) with a list of tensors where noises > 0; it
             calls denoiser(x, at) with an `At`, or denoiser(x, sigma) with a number or tensor in a process of alpha = 1
    Returns a table whose states depend on xT, D0, D1, ..., z0, ... directly. Raises ScheduleError if it asks more than max_nfe times.
    """
    width = min(16, max_nfe)
    while True:
        try:
            return _probe(sampler, noises, width)
        except _OutOfAxes:
            if width == max_nfe:
                raise ScheduleError(f"The sampler asks its denoiser more than {max_nfe} times.") from None
            width = min(4 * width, max_nfe)


def _probe(sampler: Callable[..., Tensor], noises: int, width: int) -> Tableau:
    axes = torch.eye(1 + width + noises, dtype=torch.float64)
    rows: list[Row] = []

    def read(x: Tensor) -> dict[str, float]:
        names = [START, *(f"D{k}" for k in range(width)), *(f"z{m}" for m in range(noises))]
        values = {name: float(c) for name, c in zip(names, x.detach().reshape(-1).double(), strict=True)}
        if any(values[f"D{k}"] for k in range(len(rows), width)):
            raise ScheduleError("The sampler adds noise of its own, or is no sum of its start and its answers.")
        return {name: c for name, c in values.items() if c} or {START: 0.0}

    def denoiser(x: Tensor, at: Any, **knobs: Any) -> Tensor:
        if len(rows) == width:
            raise _OutOfAxes
        where = at if isinstance(at, At) else At(*(torch.as_tensor(v).double().reshape(-1)[0] for v in (at, 1.0, at)))
        evaluation = Evaluation(float(where.label), float(where.alpha), float(where.sigma), dict(knobs))
        rows.append(Row(f"x{len(rows)}", float(where.label), read(x), evaluation))
        return axes[len(rows)].reshape(x.shape).to(x)

    given = [[axes[1 + width + m][None] for m in range(noises)]] if noises else []
    result = sampler(denoiser, axes[0][None].clone(), *given)
    rows.append(Row(f"x{len(rows)}", 0.0, read(result)))
    return Tableau(tuple(rows))
