"""A table begun at its first evaluation, for programs that ask their network at once, at the noise they drew.

A first step without the network (`Step.answer`) only scales x_T, so noise of another size starts the same sampler:

    s = c_s x_T for every slot s up to the first evaluated state x,      c = c_x
    x -> the start, c sigma_T noise,      s -> (c_s / c) x wherever it is read
"""

from dataclasses import replace

from .errors import ScheduleError
from .tableau import START, Row, Tableau, number


def entered(tableau: Tableau) -> Tableau:
    """The same sampler from its first evaluated state on; `initial_sigma` is the size of that state's noise.

    A table that asks at x_T is returned as it is. Raises ScheduleError where more than x_T goes into the first evaluated state.
    """
    if tableau.visible[0] == 0 and tableau.rows[0].terms == {START: 1.0}:
        return tableau
    if tableau.starts != (START,) or not tableau.nfe:
        raise ScheduleError("Only a table that starts from x_T and asks its network can begin at its first evaluation.")
    first = tableau.visible[0]
    scales = {START: 1.0}
    for row in tableau.rows[: first + 1]:
        if not scales.keys() >= row.terms.keys():
            raise ScheduleError("The network is first asked about more than a multiple of x_T, so no noise alone is that state.")
        scales[row.slot] = sum(number(c) * scales[slot] for slot, c in row.terms.items())
    asked, sigma = tableau.rows[first], float(tableau.initial_sigma)
    whole = scales[asked.slot]
    if not whole > 0:
        raise ScheduleError(f"The network is first asked about {whole:g} x_T, which is no noise to begin with.")
    rest = [replace(row, terms=_from(asked.slot, {s: c / whole for s, c in scales.items()}, row)) for row in tableau.rows[first + 1 :]]
    return Tableau((replace(asked, terms={START: 1.0}), *rest), sigma=whole * sigma)


def _from(begin: str, scales: dict[str, float], row: Row) -> dict[str, float]:
    """The terms of a row with the slots before the beginning told as multiples of it."""
    terms: dict[str, float] = {}
    for slot, c in row.terms.items():
        known = begin if slot in scales else slot
        terms[known] = terms.get(known, 0.0) + number(c) * scales.get(slot, 1.0)
    return terms
