"""How a formula of few points weighs: by the integrals of the interpolating polynomial, or as a public implementation does.

In theta = (u - u_s) / (u_t - u_s) the nodes are 0 (f_s), theta_1, ..., theta_n and l_j = sum_k L_jk theta^k. With
M_k = S_t integral of theta^k dm the exact weights are c_j = sum_k L_jk M_k; the words stand for

    bh1, bh2    two points: c = B / (2 theta) with B = M_0 (bh2, DPM-Solver's midpoint) or M_0 for phi_1 = 1 (bh1)  (UniPC, section 3.3)
    half        three points: M_2 / 2 for M_2: the "3M" of dpm_solver_pytorch, diffusers, k-diffusion and diff-sampler; order 2
    slip        half, and alpha_t less of it: sde-dpmsolver++ of order 3 in diffusers (- 0.5 for + 0.5); order 1
    difference  three points: f' from the last difference alone, f'' exact: ER-SDE-Solver-3 as published; order 2
    gamma       three points: res_3m of RES4LYF, whose gamma has c_3^3 for c_3^2; order 2
    vary        UniPC's vary_coeff corrector: the highest power is left out, and the new point weighs by the last row alone; order 1
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Formula:
    """The numbers of one step's formula: theta_1..n, M_0, M_0 for phi_1 = 1, alpha_t, M_1..n on demand, and what theta_n is.

    newest is "new" where the last node is the corrector's, theta_n = 1, else "past".
    """

    thetas: Sequence[Tensor]
    total: Tensor
    plain: Tensor
    alpha: Tensor
    integrals: Callable[[], Sequence[Tensor]]
    newest: str

    def powers(self, j: int) -> list[Tensor]:
        """L_j1, ..., L_jn."""
        return powers(self.thetas, j)


def powers(thetas: Sequence[Tensor], j: int) -> list[Tensor]:
    """L_j1, ..., L_jn: the coefficients of theta, theta^2, ... in the Lagrange polynomial of theta_j through 0 and all thetas."""
    own, result = thetas[j], [torch.ones_like(thetas[j])]
    for k, other in enumerate(thetas):
        if k != j:  # multiply by (theta - other) / (own - other)
            shifted, kept = [torch.zeros_like(own), *result], [*result, torch.zeros_like(own)]
            result = [(up - other * same) / (own - other) for up, same in zip(shifted, kept, strict=True)]
    return [c / own for c in result]


def weigh(moment: str, formula: Formula) -> list[Tensor] | None:
    """c_1..n by the word, or None where it stands for the exact weights."""
    rule = _RULES.get((moment, len(formula.thetas)))
    return rule(formula) if rule else None


def _two_points(total: Callable[[Formula], Tensor]) -> Callable[[Formula], list[Tensor]]:
    return lambda formula: [total(formula) / (2 * formula.thetas[0])]


def _half(formula: Formula, slip: float = 0.0) -> list[Tensor]:
    first, second = formula.integrals()
    return [linear * first + square * (second / 2 - slip * formula.alpha) for linear, square in map(formula.powers, range(2))]


def _difference(formula: Formula) -> list[Tensor]:
    first, second = formula.integrals()
    (_, newer), (_, older) = map(formula.powers, range(2))
    return [first / formula.thetas[0] + newer * second, older * second]


def _gamma(formula: Formula) -> list[Tensor]:
    c2, c3 = formula.thetas
    gamma = (3 * c3**3 - 2 * c3) / (c2 * (2 - 3 * c2))
    older = formula.integrals()[0] / (gamma * c2 + c3)
    return [gamma * older, older]


def _vary(formula: Formula) -> list[Tensor] | None:
    if formula.newest == "past":
        return None
    count, integrals = len(formula.thetas), formula.integrals()
    rows = [formula.powers(j) for j in range(count)]
    history = [torch.stack([c * m for c, m in zip(row[:-1], integrals[:-1], strict=True)]).sum(0) for row in rows[:-1]]
    return [*history, rows[-1][-2] * integrals[-1] / count]


_RULES: dict[tuple[str, int], Callable[[Formula], list[Tensor] | None]] = {
    ("bh1", 1): _two_points(lambda formula: formula.plain),
    ("bh2", 1): _two_points(lambda formula: formula.total),
    ("half", 2): _half,
    ("slip", 2): lambda formula: _half(formula, slip=1.0),
    ("difference", 2): _difference,
    ("gamma", 2): _gamma,
    ("vary", 2): _vary,
    ("vary", 3): _vary,
}
