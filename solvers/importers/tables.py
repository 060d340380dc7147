"""Learned tables of coefficients, which no named method makes: rows without a recipe.

GS: arXiv 2510.17699; BNS: Shaul et al. 2024; NeuralSolver: Wang et al. 2025.
"""

import itertools
from typing import Any

import msgspec

from ..errors import ScheduleError
from ..prediction import check
from ..process import Process, process
from ..tableau import START, Evaluation, Row, Tableau
from .document import Asked, check_falling, shaped


class General(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """x_{n+1} = sum_j a[n][j] x_j + sum_j c[n][j] f_j with f_j the network's answer at x_j, told labels[j]. times: N + 1, falling."""

    times: list[float]
    a: list[list[float]]
    c: list[list[float]]
    labels: list[float] | None = None


class Deltas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """NeuralSolver: c strictly lower, and time steps of a flow that runs from noise at 0 to data at 1."""

    c: list[list[float]]
    timedeltas: list[float]


def from_gs(document: Any, asked: Asked) -> tuple[Tableau, Process]:
    """A generalised solver. `asked.prediction` says what f is."""
    found, where = shaped(document, General, "a table with times, a and c"), asked.need_process()
    check(asked.prediction)
    steps = len(found.times) - 1
    told = found.times[:-1] if found.labels is None else found.labels
    if steps < 1 or (len(found.a), len(found.c), len(told)) != (steps, steps, steps):
        raise ScheduleError("A table of N steps has N + 1 times, N rows of a and of c, and N labels if any.")
    if any(len(a) > n + 1 or len(c) > n + 1 for n, (a, c) in enumerate(zip(found.a, found.c, strict=True))):
        raise ScheduleError("Row n of a table combines states and answers 0 to n only.")
    check_falling(found.times, where)
    for i, label in enumerate(told):
        where.check_time(label, f"label {i}:")
    return _rows(found.times, told, found.a, found.c, asked.prediction, where), where


def from_neuralsolver(document: Any, asked: Asked) -> tuple[Tableau, Process]:
    """x_{i+1} = x_i + dt_i (sum_{j<i} c_ij v_j + (1 - sum_j c_ij) v_i), with v pointing from noise to data: our flow is -v, our t 1 - t."""
    found, where = shaped(document, Deltas, "a NeuralSolver table with c and timedeltas"), process("flow")
    steps = len(found.timedeltas)
    if len(found.c) != steps or steps < 1:
        raise ScheduleError("A NeuralSolver table has one row of c for every time step.")
    times = [1.0 - t for t in itertools.accumulate([0.0, *found.timedeltas])]
    if abs(times[-1]) > 1e-2:
        raise ScheduleError(f"The time steps of a NeuralSolver table sum to 1, not to {1 - times[-1]:g}.")
    times[-1] = times[-1] if times[-1] > 1e-9 else 0.0
    check_falling(times, where)
    weights: list[list[float]] = []
    for i, (row, dt) in enumerate(zip(found.c, found.timedeltas, strict=True)):
        if any(row[i:]):
            raise ScheduleError("c of a NeuralSolver table is strictly lower triangular.")
        weights.append([-dt * c for c in [*row[:i], 1.0 - sum(row[:i])]])
    states = [[0.0] * i + [1.0] for i in range(steps)]
    return _rows(times, times[:-1], states, weights, "flow", where), where


def _rows(times: list[float], told: list[float], a: list[list[float]], c: list[list[float]], prediction: str, where: Process) -> Tableau:
    """The rows, with a register for every answer f_j that is not the data prediction itself."""
    rows: list[Row] = []
    for n, t in enumerate(times):
        terms = {START: 1.0} if n == 0 else {f"x{j}": v for j, v in enumerate(a[n - 1]) if v}
        terms |= {_answer(prediction, j): v for j, v in enumerate(c[n - 1]) if v} if n else {}
        if n + 1 == len(times):
            rows.append(Row(f"x{n}", t, terms or {"x0": 0.0}))
            break
        alpha, sigma = float(where.alpha(t)), float(where.sigma(t))
        rows.append(Row(f"x{n}", t, terms, Evaluation(float(told[n]), alpha, sigma)))
        if prediction != "x0":
            rows.append(Row(_answer(prediction, n), t, _form(prediction, n, alpha, sigma)))
    return Tableau(tuple(rows))


def _answer(prediction: str, j: int) -> str:
    return f"D{j}" if prediction == "x0" else f"{prediction}{j}"


def _form(prediction: str, j: int, alpha: float, sigma: float) -> dict[str, float]:
    """f_j in terms of the state and D: eps = (x - alpha D) / sigma, flow = eps - D, v = alpha eps - sigma D."""
    scale, less = {"eps": (1.0, 0.0), "flow": (1.0, 1.0), "v": (alpha, sigma)}[prediction]
    return {f"x{j}": scale / sigma, f"D{j}": -scale * alpha / sigma - less}
