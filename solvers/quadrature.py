"""One quadrature for the whole Adams family.

In each space the probability-flow ODE is a pure integral along a coordinate m of the quantity f that is interpolated:

    x_t / S_t = x_s / S_s + integral of f dm       x0:   f = D          S = sigma          m = alpha / sigma
                                                   eps:  f = eps        S = alpha          m = rho = sigma / alpha
                                                   flow: f = eps - D    S = alpha + sigma  m = tau = sigma / (alpha + sigma)

Injected noise changes S and m; `diffusion.py` says how. f is replaced by the polynomial through the evaluations in a variable
u, the domain: lambda, rho, t. So

    x_t = (S_t / S_s) x_s + S_t (m_t - m_s) f_s + sum_j c_j (f_j - f_s),     c_j = S_t * integral of l_j(u) dm

with l_j the Lagrange polynomials (`moments.py` has other weights of few points); predictor, corrector and single steps differ
only in where the nodes lie. DEIS is eps/t, DPM-Solver++ x0/lambda, LMS eps/rho (Zhang and Chen 2023, eq. 15; Lu et al. 2022;
Zhao et al. 2023). The integral is Gauss-Legendre with 48 nodes in float64, in lambda, or in the bounded coordinate of the
space where lambda is infinite.
Everything is differentiable in the times and works on any leading shape of them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .diffusion import NONE, Diffusion
from .moments import Formula, weigh
from .process import Process


@dataclass(frozen=True)
class Node:
    """A point of the grid: its number, its time, and alpha, sigma, lambda there; whether sigma or alpha is zero."""

    index: float
    time: Tensor
    alpha: Tensor
    sigma: Tensor
    lambda_: Tensor
    clean: bool
    pure: bool


def node(process: Process, index: float, time: Tensor, reference: float) -> Node:
    """The node at `time` (any leading shape); `reference` is a concrete time that decides whether it is an end of the process.

    Only node 0 can be where alpha is zero: whatever comes later has some of the data in it.
    """
    pure, clean = index == 0 and bool(process.alpha(reference) == 0), reference == process.t_clean
    if pure or clean:  # an end does not move, and its infinite derivatives (0 * inf) would spoil every gradient
        time = torch.full_like(time.detach(), reference)
    return Node(index, time, process.alpha(time), process.sigma(time), process.lambda_of(time), clean, pure)


def nodes(process: Process, times: Tensor, references: Sequence[float]) -> list[Node]:
    """A node per time [..., N + 1]; only the first and the last can be ends, so those between are made in one go."""
    inner = times[..., 1:-1]
    values = (v.unbind(-1) for v in (inner, process.alpha(inner), process.sigma(inner), process.lambda_of(inner)))
    between = [Node(i, *numbers, clean=False, pure=False) for i, numbers in enumerate(zip(*values, strict=True), 1)]
    last = len(references) - 1
    return [node(process, 0, times[..., 0], references[0]), *between, node(process, last, times[..., last], references[last])]


def coordinate(domain: str, process: Process, at: Node) -> Tensor:
    """U of a node."""
    if domain == "lambda":
        return at.lambda_
    if domain == "rho":
        return at.sigma / at.alpha
    return at.time if domain == "t" else torch.full_like(at.time, at.index)


def transfer(space: str, s: Node, t: Node, diffusion: Diffusion = NONE) -> tuple[Tensor, Tensor]:
    """S_t / S_s and S_t (m_t - m_s): how the first-order step weighs x_s and f_s."""
    if space == "x0":
        if s.pure or t.clean:  # the limit h = infinity
            return t.sigma / s.sigma * (0.0 if diffusion.eta else 1.0), t.alpha
        if not diffusion.eta:
            return t.sigma / s.sigma, -t.alpha * torch.expm1(s.lambda_ - t.lambda_)
        faded = diffusion.log_fading(t.lambda_) - diffusion.log_fading(s.lambda_)
        return t.sigma / s.sigma * torch.exp(faded), -t.alpha * torch.expm1(faded - (t.lambda_ - s.lambda_))
    if space == "eps":
        return t.alpha / s.alpha, (1 + diffusion.eta) * (t.sigma - t.alpha * (s.sigma / s.alpha))
    scale_t, scale_s = t.alpha + t.sigma, s.alpha + s.sigma
    return scale_t / scale_s, t.sigma - scale_t * (s.sigma / scale_s)


def injected(space: str, s: Node, t: Node, diffusion: Diffusion) -> Tensor:
    """The standard deviation of the noise that joins the state from s to t."""
    if s.pure:
        return t.sigma
    if space == "eps":
        return (diffusion.eta * torch.expm1(2 * (t.lambda_ - s.lambda_))).sqrt() * t.sigma
    return t.sigma * (-torch.expm1(2 * (diffusion.log_fading(t.lambda_) - diffusion.log_fading(s.lambda_)))).sqrt()


def weights(
    space: str, domain: str, moment: str, process: Process, s: Node, t: Node, others: Sequence[Node], diffusion: Diffusion = NONE
) -> list[Tensor]:
    """c_j for every node in `others`: what multiplies f_j - f_s in the step from s to t. A corrector's new node, t itself, comes last.

    A node where u is infinite has weight 0 (the limit). At sigma_t = 0 the domain lambda gives the first-order step and
    the others the limit of the integral; from alpha_s = 0 the space eps has no bounded measure and gives it too.
    """
    if not others:
        return []
    zero = torch.zeros_like(t.time + s.time)
    unbounded = domain in ("lambda", "rho")
    live = [n for n in others if not (unbounded and n.pure) and not (domain == "lambda" and n.clean)]
    if not live or (t.clean and domain == "lambda") or (space == "eps" and s.pure):
        return [zero] * len(others)
    nodes = [n for n in (s, *live) if not (unbounded and n.pure)]
    u = [coordinate(domain, process, n) for n in nodes]
    moving = range(len(nodes) - len(live), len(nodes))
    found: list[Tensor] | None = None
    if domain == "index":
        total = transfer(space, s, t, diffusion)[1]
        found = [total * c for c in _average(tuple(n.index - s.index for n in nodes))[1:]]
    elif t.clean and space == "x0":
        total = transfer(space, s, t, diffusion)[1]
        found = [total * lagrange(u, j, coordinate(domain, process, t)) for j in moving]
    elif moment != "exact" and nodes[0] is s:
        width = coordinate(domain, process, t) - u[0]

        def integrals() -> list[Tensor]:
            positions, density = _rule(space, domain, process, s, t, diffusion)
            theta = (positions - u[0][..., None]) / width[..., None]
            return [(density * theta**k).sum(-1) for k in range(1, len(live) + 1)]

        total, plain = transfer(space, s, t, diffusion)[1], _plain_total(space, s, t, diffusion)
        found = weigh(
            moment, Formula([(v - u[0]) / width for v in u[1:]], total, plain, t.alpha, integrals, "new" if live[-1] is t else "past")
        )
    if found is None:
        positions, density = _rule(space, domain, process, s, t, diffusion)
        nodes_u = [v[..., None] for v in u]
        found = [(density * lagrange(nodes_u, j, positions)).sum(-1) for j in moving]
    by_node = {id(n): c for n, c in zip(live, found, strict=True)}
    return [by_node.get(id(n), zero) for n in others]


def phi(space: str, domain: str, k: int, process: Process, s: Node, t: Node, diffusion: Diffusion = NONE) -> Tensor:
    """S_t * integral of theta^(k - 1) / (k - 1)! dm with theta = (u - u_s) / (u_t - u_s): the phi_k of exponential Runge-Kutta.

    Times +-h, it is phi_k(-+h) in the domain lambda, and 1 / k! of the whole in the classical ones. k = 1 is the first-order step;
    k = 0 stands for phi_1 = 1, as in UniPC's bh1. At sigma_t = 0 in space x0, where all of m lies at t, the limit is taken.
    """
    if k == 0 and not (s.pure or t.clean):
        return _plain_total(space, s, t, diffusion)
    if k < 2 or domain == "index" or (space == "x0" and t.clean):
        total = transfer(space, s, t, diffusion)[1]
        return total / math.factorial(k if domain == "index" else max(k - 1, 0))
    positions, density = _rule(space, domain, process, s, t, diffusion)
    start = coordinate(domain, process, s)[..., None]
    theta = (positions - start) / (coordinate(domain, process, t)[..., None] - start)
    return (density * theta ** (k - 1)).sum(-1) / math.factorial(k - 1)


def lagrange(nodes: Sequence[Tensor], j: int, u: Tensor) -> Tensor:
    """l_j(u) = product over k != j of (u - u_k) / (u_j - u_k)."""
    product = torch.ones_like(u)
    for k, other in enumerate(nodes):
        if k != j:
            product = product * (u - other) / (nodes[j] - other)
    return product


@functools.lru_cache(maxsize=1)
def gauss_legendre() -> tuple[Tensor, Tensor]:
    """48 nodes and weights on [0, 1]."""
    positions, mass = np.polynomial.legendre.leggauss(48)
    return torch.tensor((positions + 1) / 2), torch.tensor(mass / 2)


def _rule(space: str, domain: str, process: Process, s: Node, t: Node, diffusion: Diffusion) -> tuple[Tensor, Tensor]:
    """U at the quadrature points between s and t, and S_t dm there; both [..., 48]."""

    def drawn_in(lambda_: Tensor) -> Tensor:
        """S_t dm / dlambda in the space x0."""
        grown = lambda_ - t.lambda_[..., None]
        if not diffusion.eta:
            return t.alpha[..., None] * torch.exp(grown)
        grown = grown + diffusion.log_fading(t.lambda_)[..., None] - diffusion.log_fading(lambda_)
        return t.alpha[..., None] * diffusion.rate(lambda_) * torch.exp(grown)

    theta, mass = gauss_legendre()
    finite = not (s.pure or t.clean)
    natural: dict[str, Callable[[Node], Tensor]] = {
        "x0": lambda n: n.alpha / n.sigma,
        "eps": lambda n: n.sigma / n.alpha,
        "flow": lambda n: n.sigma / (n.alpha + n.sigma),
    }
    start, end = (n.lambda_ if finite else natural[space](n) for n in (s, t))
    width = (end - start)[..., None]
    v = start[..., None] + theta * width
    if finite:
        lambda_ = v
        density = {
            "x0": lambda: drawn_in(v),
            "eps": lambda: -(1 + diffusion.eta) * t.alpha[..., None] * torch.exp(-v),
            "flow": lambda: -(t.alpha + t.sigma)[..., None] * torch.sigmoid(-v) * torch.sigmoid(v),
        }[space]()
    else:
        lambda_ = {"x0": v.log, "eps": lambda: -v.log(), "flow": lambda: torch.log1p(-v) - v.log()}[space]()
        density = {
            "x0": lambda: drawn_in(lambda_) / v,
            "eps": lambda: t.alpha[..., None],
            "flow": lambda: (t.alpha + t.sigma)[..., None],
        }[space]()
    positions = {"lambda": lambda: lambda_, "rho": lambda: torch.exp(-lambda_), "t": lambda: process.time_of(lambda_)}[domain]()
    return positions, density * mass * width


def _plain_total(space: str, s: Node, t: Node, diffusion: Diffusion) -> Tensor:
    """UniPC's B(h) = h: the total weight with phi_1 replaced by 1.  Zhao et al. 2023, section 3.3."""
    h = t.lambda_ - s.lambda_
    if space == "x0":
        return t.alpha * (h - (diffusion.log_fading(t.lambda_) - diffusion.log_fading(s.lambda_)))
    return -(1 + diffusion.eta) * t.sigma * h


@functools.lru_cache(maxsize=1024)
def _average(nodes: tuple[float, ...]) -> list[float]:
    """The mean over [0, 1] of each Lagrange polynomial on the given numbers: the constant Adams coefficients."""
    theta, mass = gauss_legendre()
    columns = [torch.tensor(n, dtype=torch.float64) for n in nodes]
    return [float((mass * lagrange(columns, j, theta)).sum()) for j in range(len(nodes))]
