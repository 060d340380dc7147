"""DPM-Solver-v3: rows with a coefficient per element, from statistics of the model (Zheng et al. 2023, eq. 9 to 14 and appendix B).

With sigma eps = x - alpha D, y = x / alpha and per-element functions l, s, b of lambda the solver interpolates

    f = (sigma eps - l x) / alpha = (1 - l) y - D,        expected to obey  df/dlambda = s f + b  along a trajectory

    L, S = integrals of l, s      g_j = e^(S_s - S_j) f_j - integral from s to j of e^(S_s - S) b
    x_t = e^(L_s - L_t) [ alpha_t / alpha_s x_s - alpha_t (E_0 f_s + E_b + sum over k >= 1 of E_k g^(k)) ]
    E_k = integral from s to t of e^(L + S - L_s - S_s) (lambda - lambda_s)^k / k!,  E_b the same of the integral from s of e^(S_s - S) b

g^(k), the k-th derivative at s, comes from the differences g_j - g_s. l = 1, s = b = 0 is f = -D: exponential Adams in lambda.
Integrals are trapezoids on the statistics' own grid with the times inserted, as in the authors' code, which snaps the times to it.
The step to sigma = 0 is of first order.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .conventions import orders
from .errors import ScheduleError
from .family import one_of
from .grids import Grid, as_times
from .kinds import Field
from .process import Process
from .tableau import ONE, START, Coefficient, Evaluation, Row, Tableau, living

Terms = dict[str, Coefficient]
CORRECTORS = ("none", "exact", "pseudo")


@dataclass(frozen=True)
class Statistics:
    """The model's l, s, b [K, *sample] at increasing lambdas [K], float64; linear in between."""

    lambdas: Tensor
    l: Tensor  # noqa: E741 (the paper's letter)
    s: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        if self.lambdas.ndim != 1 or len(self.lambdas) < 2 or not bool((self.lambdas.diff() > 0).all()):
            raise ScheduleError("Statistics need at least two increasing lambdas.")
        if not self.l.shape == self.s.shape == self.b.shape or len(self.l) != len(self.lambdas):
            raise ScheduleError("Statistics l, s and b need one tensor of a sample's shape for every lambda.")
        if not all(bool(torch.isfinite(v).all()) for v in (self.lambdas, self.l, self.s, self.b)):
            raise ScheduleError("Statistics hold a number that is not finite.")

    def at(self, lambdas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """l, s, b at other lambdas."""
        high = torch.searchsorted(self.lambdas, lambdas).clamp(1, len(self.lambdas) - 1)
        part = (lambdas - self.lambdas[high - 1]) / (self.lambdas[high] - self.lambdas[high - 1])
        part = part.reshape(-1, *[1] * (self.l.ndim - 1))
        return tuple(v[high - 1] + part * (v[high] - v[high - 1]) for v in (self.l, self.s, self.b))  # pyright: ignore[reportReturnType]


def plain(lambdas: Tensor, shape: Sequence[int]) -> Statistics:
    """l = 1, s = b = 0, with which the solver is exponential Adams of the data prediction."""
    zeros = torch.zeros(len(lambdas), *shape, dtype=torch.float64)
    return Statistics(lambdas, zeros + 1, zeros, zeros)


def dpm_solver_v3(
    grid: Grid | Sequence[float],
    process: Process,
    statistics: Statistics,
    order: int = 2,
    derivatives: str = "exact",
    corrector: str = "none",
    tail: str = "lower",
) -> Tableau:
    """The table of DPM-Solver-v3 on a grid of N + 1 decreasing points, one evaluation a step.

    derivatives  how g^(k) is found: "exact" (Vandermonde) or "pseudo" (divided differences: g' from two points, so order 2 at most)
    corrector    "none"; "exact" as the predictor, with the new point for its oldest; "pseudo" one point more, by divided differences
    Raises ScheduleError for unknown words, orders other than 1 to 3, or times outside the statistics.
    """
    one_of("derivatives", derivatives, ("exact", "pseudo"))
    one_of("corrector", corrector, CORRECTORS)
    one_of("order of dpm-solver-v3", order, (1, 2, 3))
    times = as_times(grid, process)
    steps = len(times) - 1
    clean = times[-1] == process.t_clean
    points = _Points(process, times[:-1] if clean else times, statistics)
    counts = orders(order, steps, tail)
    rows: list[Row] = []
    states: list[str] = []  # at each node, the corrected one where there is a corrector
    form: Terms = {START: 1.0}
    for i, time in enumerate(times[:-1]):
        alpha, sigma = float(process.alpha(time)), float(process.sigma(time))
        rows += [Row(f"x{i}", time, form, Evaluation(time, alpha, sigma)), Row(f"f{i}", time, points.register(i))]
        states.append(f"x{i}")
        count = counts[i - 1] + (corrector == "pseudo") if i and corrector != "none" else 0
        if count > 1:
            nodes = [i - 1, i, *range(i - 2, i - count, -1)]
            states[i] = f"c{i}"
            rows.append(Row(f"c{i}", time, points.step(states[i - 1], i, nodes, corrector)))
        last = clean and i + 1 == steps
        form = {f"D{i}": 1.0} if last else points.step(states[i], i + 1, range(i, i - counts[i], -1), derivatives)
    rows.append(Row(f"x{steps}", times[-1], form))
    return Tableau(tuple(living(rows)))


class _Points:
    """The integrals between the nodes of a grid."""

    def __init__(self, process: Process, times: Sequence[float], statistics: Statistics) -> None:
        lambdas, self.alpha = (f(torch.tensor(times, dtype=torch.float64)) for f in (process.lambda_of, process.alpha))
        low, high = statistics.lambdas[0], statistics.lambdas[-1]
        if not bool((lambdas > low - 1e-9).all() and (lambdas < high + 1e-9).all()):
            raise ScheduleError(f"These statistics reach from lambda {low:g} to {high:g}; a time of the grid lies outside.")
        self.nodes = lambdas
        self.knots = torch.tensor(sorted({float(v) for v in (*statistics.lambdas, *lambdas)}), dtype=torch.float64)
        self.index = [int(k) for k in torch.searchsorted(self.knots, lambdas)]
        self.l, s, b = statistics.at(self.knots)
        self.L, self.S = self._running(self.l), self._running(s)
        self.b = b

    def _column(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * (self.l.ndim - 1))

    def _running(self, values: Tensor, knots: slice = slice(None)) -> Tensor:
        """The trapezoid integral from the first knot to each."""
        parts = self._column(self.knots[knots].diff()) * (values[1:] + values[:-1]) / 2
        return torch.cat([torch.zeros_like(values[:1]), parts.cumsum(0)])

    def register(self, i: int) -> Terms:
        """The row of f_i."""
        return {f"x{i}": Field((1 - self.l[self.index[i]]) / self.alpha[i]), f"D{i}": -1.0}

    def step(self, start: str, t: int, nodes: Sequence[int], derivatives: str) -> Terms:
        """The state at node t from `start`, the state at nodes[0], and f at the nodes."""
        s, first = nodes[0], self.index[nodes[0]]
        between = slice(first, self.index[t] + 1)
        factor = (self.L[between] + self.S[between] - self.L[first] - self.S[first]).exp()
        distance = self._column(self.knots[between] - self.knots[first])
        reach = slice(min(self.index[j] for j in nodes), max(self.index[j] for j in (*nodes, t)) + 1)
        pull = self._running((self.S[first] - self.S[reach]).exp() * self.b[reach], reach)
        pull = pull - pull[first - reach.start]  # the integral from s of e^(S_s - S) b

        def integral(weight: Tensor) -> Tensor:
            return self._running(factor * weight, between)[-1]

        weights = [torch.zeros_like(self.l[0]) for _ in nodes]
        weights[0] = integral(torch.ones_like(distance))
        bias = integral(pull[first - reach.start : self.index[t] + 1 - reach.start])
        for k, row in enumerate(_derivatives(self.nodes[list(nodes)], derivatives), 1):
            moment = integral(distance**k / math.factorial(k))
            weights = [w + moment * float(c) for w, c in zip(weights, row, strict=True)]
        bias = bias - functools.reduce(torch.add, [w * pull[self.index[j] - reach.start] for w, j in zip(weights, nodes, strict=True)])
        scale = (self.L[first] - self.L[self.index[t]]).exp() * self.alpha[t]
        terms: Terms = {start: Field(scale / self.alpha[s]), ONE: Field(-scale * bias)}
        for j, weight in zip(nodes, weights, strict=True):
            terms[f"f{j}"] = Field(-scale * weight * (self.S[first] - self.S[self.index[j]]).exp())
        return terms


def _derivatives(nodes: Tensor, how: str) -> list[Tensor]:
    """For k = 1..n the weights of g at the n + 1 nodes in the k-th derivative at the first."""
    count = len(nodes)
    if how == "exact":
        powers = torch.stack([(nodes - nodes[0]) ** k / math.factorial(k) for k in range(count)])
        return list(torch.inverse(powers).T[1:])
    columns, found = list(torch.eye(count, dtype=torch.float64)), list[Tensor]()
    for k in range(1, count):
        columns = [(columns[j] - columns[j + 1]) / (nodes[j] - nodes[j + k]) for j in range(count - k)]
        found.append(columns[0] * math.factorial(k))
    return found
