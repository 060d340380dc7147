"""The relaxed teacher of LD3 (Tong et al. 2025): a sample may be the teacher's of any noise near its own.

    minimise over theta   mean over seeds of   min over |x - x_T| <= radius |x_T|   |sampler(x; theta) - teacher(x_T)|^2

The inner minimum is taken by one step down the slope g of half the square, |g|^2 / |J g|^2 long where the ball allows it (J: of
the sampler in its noise). So it is a function of the table, and nothing needs to be kept between iterations.
"""

from dataclasses import replace

import torch
from torch import Tensor

from search.losses import View
from search.residuals import Batch
from search.spanned import forward_mode
from solvers import Tableau

TINY = 1e-30


def relaxed(part: Batch, table: Tableau, view: View, radius: float) -> Batch:
    """The same seeds, each with the noise near its own that ends nearer to the teacher."""

    def ends(noise: Tensor) -> Tensor:
        return replace(part, noise=noise, first=None).asked(table, view)

    noise = part.noise.detach().requires_grad_()
    met, end = replace(part, noise=noise, first=None).traced(table, "rows")  # one evaluation in memory at a time
    (slope,) = torch.autograd.grad(part.residue(met, end, view).square().sum() / 2, noise)
    slope = slope.nan_to_num(0.0, 0.0, 0.0)
    with torch.no_grad(), forward_mode():
        along = _norm(torch.func.jvp(ends, (part.noise,), (slope,))[1]).nan_to_num(torch.inf)
    length = torch.minimum((_norm(slope) / along).square(), radius * _norm(part.noise) / _norm(slope))
    return replace(part, noise=part.noise - length.reshape(-1, *[1] * (slope.ndim - 1)) * slope, first=None)


def _norm(pictures: Tensor) -> Tensor:
    """Of each, [B], never zero."""
    return pictures.flatten(1).norm(dim=1).clamp_min(TINY)
