"""Decisions of USF (Liu et al. 2024, "A unified sampling framework", section 3), as rows.

A step from s to t with h = lambda_t - lambda_s is the Taylor expansion of data (z = -h) or noise (z = h) at s,

    x_t = first-order step + scale * sum_{k=1}^{p-1} h^{k+1} phi_{k+1}(z) F^(k),     scale = alpha_t or -sigma_t,

whose derivatives are differences: sum_i a_i (F_i - F_s) with sum_i a_i (lambda_i - lambda_s)^q / q! = 1 if q = k else 0. A
corrector repeats the step after the evaluation at t, which it then may use.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec
import numpy as np
import torch

from ..build import Form, add
from ..errors import ScheduleError
from ..process import Process
from ..tableau import START, Evaluation, Row, Tableau
from .document import Asked, check_falling, shaped

Kind = Literal["noise_prediction", "data_prediction", "dpmsolver_v3_prediction"]


class Derivative(msgspec.Struct, frozen=True):
    """How F^(k) is estimated: "Difference_m" uses m other points, counted from the newest, -1."""

    estimate: str
    relaxation: str | None = None
    active_points: list[int] | None = None
    relaxation_coefficient: float = 0.0


class Corrector(msgspec.Struct, frozen=True):
    """A second pass over the step."""

    type: Literal["no_corrector", "pseudo", "implicit"] = "no_corrector"
    start_point: int = -2
    taylor_order: int = 1
    derivative_type: list[Derivative] = []


class Decisions(msgspec.Struct, frozen=True):
    """The dictionary that USF saves, its tensors as lists."""

    timesteps: list[float]
    orders: list[int]
    prediction_types: list[Kind]
    derivative_types: list[list[Derivative]]
    start_points: list[int] | None = None
    corrector_types: list[Corrector] | None = None
    afs: Literal["no_afs", "zero_x0", "average_x0"] = "no_afs"
    skip_coefficients: list[float] | None = None


@dataclass
class Point:
    """A time on the way: its state (replaced by a corrector) and its answer in both predictions, as linear forms."""

    alpha: float
    sigma: float
    state: str
    noise: dict[str, float]
    data: dict[str, float]

    @property
    def lambda_(self) -> float:
        """log(alpha / sigma)."""
        return math.log(self.alpha / self.sigma)


def from_usf(document: Any, asked: Asked) -> tuple[Tableau, Process]:
    """The rows. Raises ScheduleError for what is not a fixed sampler of this model alone: v3 statistics, data-set means, skip scales."""
    found, where = shaped(document, Decisions, "a USF decision"), asked.need_process()
    steps = len(found.timesteps) - 1
    starts = found.start_points or [-1] * steps
    correctors = found.corrector_types or [Corrector()] * steps
    if steps < 1 or {len(part) for part in (found.orders, found.prediction_types, found.derivative_types, starts, correctors)} != {steps}:
        raise ScheduleError("The lists of a USF decision have one entry per step, and one more time.")
    if "dpmsolver_v3_prediction" in found.prediction_types or found.afs == "average_x0":
        raise ScheduleError(
            "This decision needs statistics of its own model (DPM-Solver-v3's, or the mean picture), which it does not hold."
        )
    if any(scale != 1 for scale in found.skip_coefficients or []):
        raise ScheduleError("This decision also rescales the skip connections of its network; only the sampler can be imported.")
    check_falling(found.timesteps, where)
    if not all(float(f(t)) > 0 for t in found.timesteps for f in (where.alpha, where.sigma)):
        raise ScheduleError("A USF decision starts and ends where there is data and noise: lambda of its times must be finite.")
    rows: list[Row] = []
    points = [_arrive(rows, found.timesteps[0], "x0", {START: 1.0}, where, 0 if found.afs == "no_afs" else None)]
    for i, t in enumerate(found.timesteps[1:]):
        kind, order, last = found.prediction_types[i], found.orders[i], i + 1 == steps
        form = _update(points, t, where, kind, order, starts[i], found.derivative_types[i])
        answers = sum(row.evaluation is not None for row in rows)
        corrector = correctors[i]
        evaluates = not last or corrector.type != "no_corrector"
        points.append(_arrive(rows, t, f"x{i + 1}", form, where, answers if evaluates else None))
        if corrector.type != "no_corrector":
            form = _update(points, t, where, kind, corrector.taylor_order, corrector.start_point, corrector.derivative_type)
            rows.append(Row(f"c{i + 1}", t, form))
            points[-1].state = f"c{i + 1}"
    sigma = None if rows[0].evaluation else float(where.sigma(found.timesteps[0]))
    return Tableau(tuple(rows), sigma=sigma), where


def _arrive(rows: list[Row], t: float, slot: str, form: dict[str, float], where: Process, answer: int | None) -> Point:
    """Write the state; with `answer` also evaluate there. Without, USF's analytic first step: noise x / sigma, "data" from noise x."""
    alpha, sigma = float(where.alpha(t)), float(where.sigma(t))
    rows.append(Row(slot, t, form, None if answer is None else Evaluation(t, alpha, sigma)))
    if answer is None:
        return Point(alpha, sigma, slot, {slot: 1 / sigma}, {slot: (1 - sigma) / alpha})
    return Point(alpha, sigma, slot, {slot: 1 / sigma, f"D{answer}": -alpha / sigma}, {f"D{answer}": 1.0})


def _update(
    points: list[Point], t: float, where: Process, kind: Kind, order: int, start: int, derivatives: list[Derivative]
) -> dict[str, float]:
    if not -len(points) <= start <= -1 or len(derivatives) < order - 1:
        raise ScheduleError("A step of this decision starts at a point that does not exist, or lacks derivatives for its order.")
    alpha, sigma = float(where.alpha(t)), float(where.sigma(t))
    s, data = points[start], kind == "data_prediction"
    h = math.log(alpha / sigma) - s.lambda_
    z, scale = (-h, alpha) if data else (h, -sigma)
    form: Form = {s.state: sigma / s.sigma if data else alpha / s.alpha}  # pyright: ignore[reportAssignmentType]
    add(form, scale * h * _phi(1, z), _output(s, data))
    for k in range(1, order):
        derivative = derivatives[k - 1]
        relax = _relaxation(derivative, h, z) if k == 1 else 1.0
        weight = scale * h ** (k + 1) * _phi(k + 1, z) * relax
        for point, a in _difference(points, start, derivative, k):
            add(form, weight * a, _output(point, data))
            add(form, -weight * a, _output(s, data))
    return {slot: float(c) for slot, c in form.items()}


def _output(point: Point, data: bool) -> Any:
    return point.data if data else point.noise


def _difference(points: list[Point], start: int, derivative: Derivative, k: int) -> list[tuple[Point, float]]:
    """The points and weights of F^(k)."""
    word, _, digits = derivative.estimate.partition("_")
    count = int(digits) if word == "Difference" and digits.isdecimal() else 0
    nearby = [*range(start + 1, 0), *range(start - 1, -len(points) - 1, -1)]
    active = nearby[:count] if derivative.active_points is None else derivative.active_points
    if not k <= count == len(active) == len(set(active) - {start}) or not set(active) <= set(nearby):
        raise ScheduleError(f"Derivative {k} cannot be estimated by {derivative.estimate!r} from the points {active}.")
    gaps = torch.tensor([points[i].lambda_ - points[start].lambda_ for i in active], dtype=torch.float64)
    system = torch.stack([gaps**q / math.factorial(q) for q in range(1, count + 1)])
    unit = torch.eye(count, dtype=torch.float64)[k - 1]
    weights = cast(torch.Tensor, torch.linalg.solve(system, unit))  # pyright: ignore[reportUnknownMemberType]
    return [(points[i], float(a)) for i, a in zip(active, weights, strict=True)]


def _phi(k: int, z: float) -> float:
    """phi_k(z) = integral over [0, 1] of e^((1 - u) z) u^(k-1) / (k-1)!, exact also where the recursion cancels."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    u = (nodes + 1) / 2
    return float((weights / 2 * np.exp((1 - u) * z) * u ** (k - 1)).sum() / math.factorial(k - 1))


def _relaxation(derivative: Derivative, h: float, z: float) -> float:
    """The factor on F'. The named ones take z, the linear one h."""
    excess = math.expm1(z) - z
    factors = {
        "no_relaxation": 1.0,
        "linear": 1 + derivative.relaxation_coefficient * h,
        "dpmsolver-2": 0.5 * z * math.expm1(z) / excess,
        "unipc-bh2": 0.5 * z * math.expm1(z) / excess,
        "unipc-bh1": 0.5 * z * z / excess,
        "0.5exp": 1 + 0.5 * math.expm1(z),
        "-0.5exp": 1 - 0.5 * math.expm1(z),
    }
    word = derivative.relaxation or "no_relaxation"
    if word not in factors:
        raise ScheduleError(f"There is no relaxation {word!r}; there are {', '.join(factors)}.")
    return factors[word]
