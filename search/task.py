"""What one stage of a fit makes small, and what an iteration of an optimiser is.

loss(theta) + shrink |theta|^2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from search.losses import Loss
from search.parametrise import Parametrisation
from search.residuals import Batch
from solvers import Tableau

Memory = dict[str, tuple[float, ...]]  # what an optimiser keeps from one iteration to the next


@dataclass(frozen=True)
class Task:
    """The parametrisation of a stage, its loss on some batches of seeds, and its shrinkage."""

    form: Parametrisation
    loss: Loss
    shrink: float
    parts: Sequence[Batch]

    def costs(self, table: Tableau) -> Tensor:
        """The cost of every seed, [seeds]."""
        return torch.cat([self.loss.costs(part.residual(table, self.loss.view)) for part in self.parts])

    def shrinkage(self, theta: Tensor) -> float:
        """shrink |theta|^2."""
        return self.shrink * float(theta.square().sum())


class Moved(NamedTuple):
    """One iteration: where it went, the table there, its loss, the fraction by which what is minimised fell, what is remembered."""

    theta: Tensor
    table: Tableau
    loss: float
    gain: float
    memory: Memory
