"""gDDIM: deterministic rows for diffusions whose drift and noise are linear operators (Zhang, Tao, Chen 2023, arXiv 2206.05564).

A state is u_t = A_t u_0 + R_t e, where e has unit variance and R_t is the one square root of its covariance that obeys

    dR/dt = F R + G G^T R^-T / 2                (their eq. 17; F = A' A^-1)

so that e_j = R_j^-1 (u_j - A_j D_j) stands still along an exact trajectory whose data are one point. Order q replaces e by the
polynomial in t through the last q evaluations (their eq. 19), integrated by parts so that only A and R are needed:

    u_t = A_t D_s + sum over j of W_j e_j        W_j = R_t l_j(t) - integral from s to t of A_t A_r^-1 R_r l_j'(r) dr

Order 1 is W = R_t: DDIM with operators. If A and R are numbers this is DEIS in t. A network that predicts e is converted by
D = A^-1 (x - R e). Where the covariance C of the data is known, R R^T = S + A C A^T may contain it beside that of the noise, S:

    e_j = R_j^T S_j^-1 (u_j - A_j D_j),  and W of e_s less A_t C A_s^T R_s^-T, stands still on Gaussian data, too
The integral is Gauss-Legendre with 48 nodes in the square root of the time, near which critically damped roots are smooth.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .blurring import Blurring
from .conventions import orders
from .damped import CriticallyDamped
from .errors import ScheduleError
from .family import one_of
from .grids import Grid, as_times
from .kinds import Operator
from .langevin import Damped
from .process import Process
from .quadrature import gauss_legendre, lagrange
from .tableau import START, Coefficient, Evaluation, Row, Tableau, living


class Linear(Protocol):
    """A diffusion that is linear: its A and R are d x d matrices on each of its modes."""

    def mean(self, t: Tensor) -> Tensor:
        """A at the times [n]: [n, *modes, d, d]."""
        ...

    def root(self, t: Tensor) -> Tensor:
        """R at the times [n]: [n, *modes, d, d]."""
        ...

    def noise(self, t: Tensor) -> Tensor:
        """Any root of S at the times [n]: [n, *modes, d, d]."""
        ...

    def spread(self) -> Tensor:
        """C: [*modes, d, d]."""
        ...

    def operator(self, values: Tensor) -> Operator:
        """The coefficient of these matrices [*modes, d, d]."""
        ...

    def start(self, t: float) -> Coefficient:
        """What makes a first state of x_T, which is sigma standard_normal."""
        ...


@dataclass(frozen=True)
class _Steps:
    """The weights of the steps on a grid of times [N + 1]."""

    linear: Linear
    times: Tensor
    clean: float

    def weights(self, t: int, nodes: Sequence[int]) -> list[Tensor]:
        """W_j of the step from nodes[0] to t, for all nodes."""
        at = [self.times[j] for j in nodes]
        means = self.linear.mean(torch.stack([at[0], self.times[t]]))
        end = self.linear.root(self.times[t : t + 1])[0]
        found = [end * lagrange(at, k, self.times[t]) for k in range(len(at))]
        found[0] = found[0] - means[1] @ self.linear.spread() @ means[0].mT @ torch.inverse(self.linear.root(at[0][None])[0]).mT
        if len(at) == 1:
            return found
        theta, mass = gauss_legendre()
        high, low = ((v - self.clean).sqrt() for v in (at[0], self.times[t]))
        q = low + theta * (high - low)
        r = q**2 + self.clean
        carried = means[1] @ torch.inverse(self.linear.mean(r)) @ self.linear.root(r)
        carried = carried * (mass * 2 * q * (high - low)).reshape(-1, *[1] * (carried.ndim - 1))
        slopes = [_slope(at, k, r).reshape(-1, *[1] * (carried.ndim - 1)) for k in range(len(at))]
        return [w + (carried * slope).sum(0) for w, slope in zip(found, slopes, strict=True)]


def _slope(nodes: Sequence[Tensor], j: int, u: Tensor) -> Tensor:
    """The derivative of the Lagrange polynomial l_j at u."""
    others = [k for k in range(len(nodes)) if k != j]
    parts = [lagrange([nodes[j], *(nodes[m] for m in others if m != k)], 0, u) / (nodes[j] - nodes[k]) for k in others]
    return torch.stack(parts).sum(0)


def gddim(grid: Grid | Sequence[float], process: Process, linear: Linear, order: int = 1, tail: str = "lower") -> Tableau:
    """The table of gDDIM on a grid of N + 1 decreasing points, one evaluation a step. Raises ScheduleError for orders but 1 to 3.

    The denoiser is asked at the process's alpha and sigma; what else it must know of `linear` follows from the label, the time.
    """
    one_of("order of gddim", order, (1, 2, 3))
    times = as_times(grid, process)
    t = torch.tensor(times, dtype=torch.float64)
    counts, steps = orders(order, len(times) - 1, tail), _Steps(linear, t, process.t_clean)
    mean = linear.mean(t)
    form: dict[str, Coefficient] = {START: linear.start(times[0])}
    rows: list[Row] = []
    for i, time in enumerate(times[:-1]):
        asked = Evaluation(time, float(process.alpha(time)), float(process.sigma(time)))
        quiet = torch.inverse(linear.noise(t[i : i + 1])[0])
        back = linear.root(t[i : i + 1])[0].mT @ quiet.mT @ quiet
        kept: dict[str, Coefficient] = {f"x{i}": linear.operator(back), f"D{i}": linear.operator(-back @ mean[i])}
        rows += [Row(f"x{i}", time, form, asked), Row(f"e{i}", time, kept)]
        nodes = range(i, i - counts[i], -1)
        form = {f"D{i}": linear.operator(mean[i + 1])}
        form |= {f"e{j}": linear.operator(w) for j, w in zip(nodes, steps.weights(i + 1, nodes), strict=True)}
    return Tableau(tuple(living([*rows, Row(f"x{len(counts)}", times[-1], form)])))


def gddim_bdm(
    grid: Grid | Sequence[float],
    process: Process,
    shape: Sequence[int],
    order: int = 1,
    tail: str = "lower",
    blur: float = 20.0,
    least: float = 0.001,
    scale: Tensor | float = 0.0,
) -> Tableau:
    """gDDIM for blurring diffusion over the last axes of a sample, of the sizes `shape` (`blurring.py`).

    Zhang, Tao, Chen 2023 (arXiv 2206.05564), section 4; the diffusion is that of Hoogeboom and Salimans 2023.

    order  1 to 3; tail "lower" or "full": the orders of the last steps
    blur   the largest width of the Gaussian blur, in pixels; 0 is the process without blur
    least  what is left of the frequencies that fade
    scale  standard deviation of the data at every frequency [*shape]
    Raises ScheduleError.
    """
    return gddim(grid, process, Blurring(process, tuple(shape), blur, least, scale), order, tail)


def gddim_cld(grid: Grid | Sequence[float], process: Process, order: int = 1, tail: str = "lower", scale: float = 0.0) -> Tableau:
    """gDDIM for critically damped Langevin diffusion (`langevin.py`); the first axis of a sample holds position and velocity.

    Zhang, Tao, Chen 2023 (arXiv 2206.05564), section 4; the diffusion is that of Dockhorn, Vahdat and Kreis 2022.

    order  1 to 3; tail "lower" or "full": the orders of the last steps
    scale  standard deviation of the data
    Raises ScheduleError on another process.
    """
    if not isinstance(process, CriticallyDamped):
        raise ScheduleError('gDDIM for Langevin diffusion needs process("critically-damped").')
    return gddim(grid, process, Damped(process.rate, process.mass, process.gamma, scale), order, tail)
