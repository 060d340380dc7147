"""The analytical first step with the mean of the data for the network's first answer (Liu et al. 2023, USF: "average_x0").

Where sampling starts, x_T says little of x_0, and E[x_0 | x_T] is nearly the mean of the data, or of a teacher's samples. The guesses
that need no picture are words of a step (`Step.answer`); this one is a table rewritten, whatever made it:

    row "average" = picture,      D_0 -> average,      D_k -> D_{k-1},      and one evaluation less
"""

from dataclasses import replace

from torch import Tensor

from .errors import ScheduleError
from .kinds import Field
from .tableau import ANSWER, ONE, Row, Tableau


def average_first(tableau: Tableau, average: Tensor | float) -> Tableau:
    """The same sampler with the picture [*sample], or one number for all of it, for its first answer.

    Raises ScheduleError if the table asks nothing, or if a slot of it has the name "average".
    """
    if not tableau.nfe:
        raise ScheduleError("This table never asks the network, so it has no first answer to replace.")
    if isinstance(average, Tensor) and average.ndim:
        picture = Row("average", tableau.rows[0].time, {ONE: Field(average.double())})
    else:
        picture = Row("average", tableau.rows[0].time, {ONE: float(average)})

    def renamed(slot: str) -> str:
        if not ANSWER.fullmatch(slot):
            return slot
        return f"D{int(slot[1:]) - 1}" if slot != "D0" else "average"

    rows = [replace(row, terms={renamed(slot): c for slot, c in row.terms.items()}) for row in tableau.rows]
    first = tableau.visible[0]
    rows[first] = replace(rows[first], evaluation=None)
    return replace(tableau, rows=(picture, *rows), sigma=tableau.initial_sigma)
