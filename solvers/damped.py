"""The noise that critically damped Langevin diffusion has gathered in its position, written so that nothing cancels near w = 0.

    N_xx = e^-2w excess(w)      excess = e^2w - 1 - 2 w - 2 w^2 = (2 w)^3 / 6 + ...        w: the time in damping times

Dockhorn, Vahdat, Kreis 2022, appendix B; `langevin.py` has the whole diffusion.
"""

import torch
from torch import Tensor

TERMS = 16  # of the series, for 2 w < 1/2


def excess(w: Tensor) -> Tensor:
    """See above."""
    x = 2 * w
    series = torch.ones_like(x)
    for k in range(TERMS, 3, -1):
        series = 1 + x / k * series
    return torch.where(x < 0.5, x**3 / 6 * series, torch.expm1(x) - x - x**2 / 2)
