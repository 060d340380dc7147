"""Racing: a candidate that is clearly worse than the incumbent is stopped before it has cost all its seeds.

The fit seeds come in shuffled blocks. After every block but the last, the candidate's errors are paired with the incumbent's
on the same seeds; it is stopped when Student's t puts the mean difference above zero at level risk / looks (one-sided,
Bonferroni over the looks; roots of squared errors, whose tails are short enough for t) and the objective on those seeds is no better.
A stopped candidate is worth the incumbent's value plus the difference of the two on the seeds both have seen.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from search.evaluate import Drawn, Evaluator
from search.objective import Objective
from search.records import Cost
from solvers import Tableau

Keep = Callable[[Tableau, Drawn, Tensor], Tensor]


@dataclass(frozen=True)
class Raced:
    """A candidate's value (infinite where it diverged), how many seeds it was given and its records on them, in the order of the race.

    kept   what was kept of it, [all seeds, ...] (nan: not its seed)
    """

    value: float
    seeds: int
    errors: Tensor
    kept: Tensor | None = None


def clearly_worse(errors: Tensor, reference: Tensor, level: float) -> bool:
    """Whether the errors are worse than the reference's on the same first seeds (paired one-sided t-test at that level), or not finite."""
    if not errors.isfinite().all():
        return True
    n = len(errors)
    if n < 2:
        return False
    difference = errors.sqrt() - reference[:n].sqrt()
    return float(difference.mean()) > float(difference.std()) / math.sqrt(n) * float(scipy.special.stdtrit(n - 1, 1 - level))


def hopeless(errors: Tensor, reference: Tensor, level: float, objective: Objective) -> bool:
    """Whether they are clearly worse and the objective, in which a few bifurcating seeds may outweigh all others, is no better."""
    ours, theirs = (float(objective.together(some)) for some in (errors, reference[: len(errors)]))
    return clearly_worse(errors, reference, level) and not ours < theirs


class Race:
    """Scores candidates block by block against an incumbent.

    blocks  looks + 1; 1 switches racing off
    risk    the chance that a candidate is stopped which is no worse than the incumbent in the mean over seeds of its errors' roots;
            one that is better in the objective on the seeds so far never is
    """

    def __init__(self, evaluator: Evaluator, objective: Objective, blocks: int = 8, risk: float = 0.05) -> None:
        seeds = len(evaluator.targets.seeds)
        self.objective = objective
        order = torch.randperm(seeds, generator=torch.Generator().manual_seed(seeds))
        self._order = order.split(-(-seeds // blocks))
        self._blocks = [evaluator.on(part) for part in self._order]
        self._level = risk / max(1, len(self._blocks) - 1)

    @property
    def cost(self) -> Cost:
        """What all blocks have cost so far."""
        return sum((block.cost for block in self._blocks), Cost())

    def run(self, tableaus: Sequence[Tableau], reference: Tensor | None, keep: Keep | None = None) -> list[Raced]:
        """The candidates' values. reference: the incumbent's errors; without them, or where an error is not one seed's, all get every seed.

        keep(tableau, drawn, which) says what of a candidate's pictures and answers on some seeds is kept, [those seeds, ...].
        """
        reference = None if self.objective.kind == "sets" else reference
        seen: list[list[Tensor]] = [[] for _ in tableaus]
        kept: list[list[Tensor]] = [[] for _ in tableaus]
        alive = list(range(len(tableaus)))
        for look, (which, block) in enumerate(zip(self._order, self._blocks, strict=True), 1):
            for index, drawn in block.drawn([tableaus[k] for k in alive]):
                seen[alive[index]].append(self.objective.measure(drawn.images, block.targets.images).double())
                if keep:
                    kept[alive[index]].append(keep(tableaus[alive[index]], drawn, which))
            if reference is not None and look < len(self._blocks):
                alive = [k for k in alive if not hopeless(torch.cat(seen[k]), reference, self._level, self.objective)]
        return [self._raced(torch.cat(errors), reference, held) for errors, held in zip(seen, kept, strict=True)]

    def _raced(self, errors: Tensor, reference: Tensor | None, kept: Sequence[Tensor]) -> Raced:
        together, n = self.objective.together, len(errors)
        value = float(together(errors))
        if reference is not None and n < len(reference):
            value += float(together(reference)) - float(together(reference[:n]))
        order, held = torch.cat(self._order), None
        if kept:
            held = kept[0].new_full((len(order), *kept[0].shape[1:]), math.nan)
            held[order[:n]] = torch.cat(list(kept))
        return Raced(value if math.isfinite(value) else math.inf, n, errors, held)
