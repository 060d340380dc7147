"""Run a table backwards: the rows that recover x_T from where a sampler ended.

A row x_new = c x_old + (other states, answers) gives back its oldest state, x_old = (x_new - ...) / c, if all its answers were asked
at newer states: then they are known when they are needed. BDIA is such a method; DDIM is not, because its answer was asked at the
state that is looked for. As many last states must be given as the rows look back: two for BDIA, x_N and x_{N-1}.
"""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import ScheduleError
from .tableau import START, Evaluation, Number, Row, Tableau, scalar

Terms = Mapping[str, Number]


def invert(tableau: Tableau) -> Tableau:
    """The table from the last states, named in its `starts`, back to x_T. Its states bear the names that they have in `tableau`.

        states = {}
        x = sample(denoiser, x_T, tableau, callback=lambda row, x, d: states.__setitem__(row.slot, x))
        back = invert(tableau)
        x_T = sample(denoiser, {name: states[name] for name in back.starts}, back)

    In exact arithmetic that is x_T again; `growth` says how rounding grows on the way. The inverse asks the denoiser at the same
    states with the same labels, once less. Raises ScheduleError if a row has no oldest state that can be solved for.
    """
    if tableau.starts != (START,):
        raise ScheduleError(f"This table starts from {', '.join(tableau.starts)}: it is an inverse already.")
    rows = _states_only(tableau)
    asked_at, evaluations, times = _answers(rows)
    age = {START: -1} | {row.slot: number for number, row in enumerate(rows)}
    starts, solved, known = list[str](), list[tuple[str, str, Terms]](), set[str]()

    def give(slot: str) -> None:
        if slot not in known:
            known.add(slot)
            starts.append(slot)

    for row in reversed(rows):
        states = sorted((slot for slot in row.terms if slot in age), key=age.__getitem__)
        if not states:
            raise ScheduleError(f"This table cannot be inverted: row {row.slot!r} reads no state, so nothing older follows from it.")
        oldest = states[0]
        if oldest in known:
            continue
        early = [slot for slot in row.terms if slot in asked_at and age[asked_at[slot]] <= age[oldest]]
        if early:
            raise ScheduleError(f"This table cannot be inverted: row {row.slot!r} reads {early[0]}, asked at the state it would recover.")
        for slot in (row.slot, *states[:0:-1], *(asked_at[slot] for slot in row.terms if slot in asked_at)):
            give(slot)
        solved.append((oldest, row.slot, {slot: scalar(c) for slot, c in row.terms.items()}))
        known.add(oldest)
    wanted = {slot for _, _, terms in solved for slot in terms if slot in asked_at}
    return _written(starts, solved, {asked_at[answer]: answer for answer in wanted}, evaluations, times)


def growth(inverse: Tableau) -> float:
    """The most by which the rows of an inverse multiply an error in one of its starts, all answers held as they are.

    A row divides by the coefficient of the state that it recovers, which is gamma for BDIA: gamma < 1 grows like gamma^(-N/2), and
    with gamma = 1 an error at the end grows as the first steps are wider than the last. The denoiser adds its own slope to that.
    """
    forms: dict[str, Tensor] = {slot: unit for slot, unit in zip(inverse.starts, torch.eye(len(inverse.starts)).double(), strict=True)}
    for row in inverse.rows:
        carried = [forms[slot] * scalar(c) for slot, c in row.terms.items() if slot in forms]
        forms[row.slot] = functools.reduce(torch.add, carried)
    return float(max(form.abs().max() for form in forms.values()))


def _states_only(tableau: Tableau) -> list[Row]:
    """The rows of the states, with what registers hold spelled out."""
    registers, rows = dict[str, Terms](), list[Row]()
    for row in tableau.rows:
        terms = dict[str, Number]()
        for slot, c in row.terms.items():
            for inner, factor in registers.get(slot, {slot: 1.0}).items():
                terms[inner] = terms.get(inner, 0.0) + scalar(c) * factor
        if row.evaluation is None and row is not tableau.rows[-1]:
            registers[row.slot] = terms
        else:
            rows.append(Row(row.slot, row.time, terms, row.evaluation))
    return rows


def _answers(rows: list[Row]) -> tuple[dict[str, str], dict[str, Evaluation], dict[str, Number]]:
    """Where each answer was asked; each state's evaluation; each state's time, x_T's being that of the first."""
    asked = [row for row in rows if row.evaluation is not None]
    evaluations = {row.slot: row.evaluation for row in asked if row.evaluation is not None}
    times = {START: rows[0].time} | {row.slot: row.time for row in rows}
    return {f"D{k}": row.slot for k, row in enumerate(asked)}, evaluations, times


def _written(
    starts: list[str],
    solved: list[tuple[str, str, Terms]],
    wanted: Mapping[str, str],
    evaluations: Mapping[str, Evaluation],
    times: Mapping[str, Number],
) -> Tableau:
    """The rows of the inverse, its answers numbered in the order in which it asks."""
    rows, answers = list[Row](), dict[str, str]()

    def write(slot: str, state: str, terms: Terms) -> None:
        rows.append(Row(slot, times[state], terms, evaluations[state] if state in wanted else None))
        if state in wanted:
            answers[wanted[state]] = f"D{len(answers)}"

    for slot in starts:
        if slot in wanted:
            write(f"{slot}_", slot, {slot: 1.0})  # a start is given, and a row is what asks
    for oldest, newest, terms in solved:
        c = terms[oldest]
        others = {answers.get(slot, slot): -factor / c for slot, factor in terms.items() if slot != oldest}
        write("start" if oldest == START else oldest, oldest, {newest: 1 / c, **others})
    return Tableau(tuple(rows), tuple(starts))
