"""The column of mu. On a mean-reverting process y = x - mu obeys the plain formulas with D - mu in place of D.

    x_r - mu = sum A_k (x_k - mu) + sum B_j (D_j - mu) + noise      <=>      M_r = 1 - sum A - sum B

A register stands for a quantity of y itself (eps, a velocity, a momentum), so it takes no part in the sums, and M_r = -sum A - sum B
in the row that writes one. One place does this for every method: the methods never hear of mu.
"""

from collections.abc import Collection

import torch

from .build import Form
from .tableau import ANSWER, MU, START, Row


def anchored(rows: list[Row], states: Collection[str]) -> list[Row]:
    """The rows with their mu terms. states: the slots that hold a state; evaluated rows are states in any case."""
    shifted = {START, *states, *(row.slot for row in rows if row.evaluation)}

    def column(row: Row) -> Row:
        moved = [torch.as_tensor(c) for slot, c in row.terms.items() if slot in shifted or ANSWER.fullmatch(slot)]
        own = 1.0 if row.slot in shifted else 0.0
        terms: Form = {slot: torch.as_tensor(c) for slot, c in row.terms.items()}
        return Row(row.slot, row.time, {**terms, MU: own - sum(moved, torch.zeros((), dtype=torch.float64))}, row.evaluation)

    return [column(row) for row in rows]
