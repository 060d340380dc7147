"""What the network would answer, from what it has answered: a candidate is followed on the fit seeds without asking it.

Few-step samplers of one seed visit nearly the same states, and a network is smooth there. On each seed, at a state x near the teacher's
own x*(lambda) and told a label of another lambda, the answer is the teacher's and a Gaussian process of how far x is from it:

    D = D*(lambda) + f(z, lambda, o),       z = (x - x*(lambda)) / (sigma^2 + (c alpha)^2)^1/2,     o: label's lambda - lambda, and knobs
    k = (z z' / l^2 + o o') q((lambda - lambda')^2) + A q(|z - z'|^2 / l^2 + (lambda - lambda')^2 + |o - o'|^2),     q(s) = 1 / (1 + s)

conditioned on the answers that finished trials got on that seed; z and D are coordinates of search.paths. The first part is what a
linear network would do, the second, a rational quadratic (Rasmussen and Williams 2006, eq. 4.19), what bends. From D follow the
states of a candidate one by one, and at its end the error.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from search.gaps import levels
from search.paths import Paths
from solvers import Process, Tableau

LENGTH = 0.2  # l: of a deviation per pixel, in deviations of the noise
BENT = 0.1  # A
NOISE = 1e-4  # what neither part explains, as a variance
FLOOR = 0.3  # c: as a share of the image's own spread
OFFSET = 0.5  # of a label or a knob, what is far
UNSEEN = 1e6  # the variance of an answer that a seed did not get, because its candidate was stopped, or went astray
ASTRAY = 30.0  # deviations of the noise per pixel: farther away nothing is learned
POINTS = 400  # answers of a seed to be conditioned on, at most
ROOM = 2**22  # numbers of the kernels of the seeds that are handled in one go, which bounds the memory


class Form(NamedTuple):
    """What of K tables the emulator needs.

    a, B      the closed form, [K, N + 1] and [K, N + 1, N]
    lambdas, alphas, sigmas   of the states that are evaluated, [K, N]
    apart     of each evaluation, as `apart` has it, [K, N, e]
    """

    a: Tensor
    B: Tensor
    lambdas: Tensor
    alphas: Tensor
    sigmas: Tensor
    apart: Tensor


def form(tables: Sequence[Tableau], process: Process, given: Mapping[str, float]) -> Form:
    """The form of tables of one NFE, which inject no noise. given: every knob that occurs, as the teacher has it."""
    dense = [table.dense().at(table.visible) for table in tables]

    def each(name: str) -> Tensor:
        return torch.tensor([[float(getattr(e, name)) for e in table.evals] for table in tables], dtype=torch.float64)

    told, lambdas = levels(process, each("label")), levels(process, torch.tensor([t.asked for t in tables], dtype=torch.float64))
    off = torch.stack([apart(told[k, r], lambdas[k, r], e.knobs, given) for k, t in enumerate(tables) for r, e in enumerate(t.evals)])
    off = off.unflatten(0, lambdas.shape)
    return Form(torch.stack([d.a for d in dense]), torch.stack([d.B for d in dense]), lambdas, each("alpha"), each("sigma"), off)


def apart(told: Tensor, own: Tensor, knobs: Mapping[str, float], given: Mapping[str, float]) -> Tensor:
    """How far an evaluation's label is from its state's own (lambdas, []), and its knobs from those given: [1 + len(given)]."""
    return torch.stack([told - own, *(own.new_tensor(knobs.get(name, usual) - usual) for name, usual in sorted(given.items()))]) / OFFSET


def deviations(table: Tableau, answers: Sequence[Tensor], process: Process, paths: Paths) -> Tensor:
    """How far the N answers to a table, pictures of S seeds each, are from the teacher's own at the lambdas of their states, [S, N, m]."""
    lambdas = levels(process, torch.tensor(table.asked, dtype=torch.float64))
    return paths.reduced(torch.stack([answer.flatten(1) for answer in answers], 1)) - paths.there(lambdas)[0]


@dataclass(frozen=True)
class Points:
    """Where answers are known or wanted, on some seeds: z [S, n, m], lambda [n], apart [n, e].

    sizes   squared distances from the teacher's way, [S, n]
    """

    z: Tensor
    lambdas: Tensor
    apart: Tensor
    sizes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", self.z.square().sum(-1) / LENGTH**2 + self.apart.square().sum(-1))

    def kernel(self, other: "Points") -> Tensor:
        """Covariances [S, n, n']."""
        along = 1 + (self.lambdas[:, None] - other.lambdas).square()
        inner = (self.z @ other.z.mT) / LENGTH**2 + self.apart @ other.apart.T
        far = self.sizes[..., None] + other.sizes[:, None] - 2 * inner
        return inner / along + BENT / (far + along)


class Emulator:
    """Conditioned on tables that the network has answered: finished trials, or those of a fit.

    form      of the tables
    moved     how far their answers were from the teacher's (`deviations`), [trials, S, N, m]; nan on seeds where they did not go
    workers   threads: seeds have nothing to do with one another
    """

    def __init__(self, paths: Paths, form: Form, moved: Tensor, workers: int = 1) -> None:
        seeds, points = len(paths.noise), form.lambdas.numel()
        self._workers, groups = workers, torch.arange(seeds).split(max(1, min(-(-seeds // workers), ROOM // points**2)))
        with ThreadPoolExecutor(workers) as pool:
            self.parts = list(pool.map(lambda seeds: _part(paths.on(seeds), form, moved[:, seeds]), groups))

    def errors(self, form: Form) -> Tensor:
        """The mean squared errors that K tables would have, [K, S], as far as they show in the coordinates."""
        with ThreadPoolExecutor(self._workers) as pool:
            return torch.cat(list(pool.map(lambda part: part.errors(form), self.parts)), 1)


@dataclass(frozen=True)
class Part:
    """Some seeds: the points where answers are known, and the weights [S, n, m] of the kernel to them."""

    paths: Paths
    known: Points
    weights: Tensor

    def errors(self, form: Form) -> Tensor:
        """[K, S]."""
        paths = self.paths
        answers = paths.noise.new_zeros(len(form.a), len(paths.noise), 0, paths.noise.shape[1])
        for k in range(form.lambdas.shape[1]):
            x = _state(paths, form, answers, k).transpose(0, 1)
            answer = self.answer(x, form.lambdas[:, k], form.alphas[:, k], form.sigmas[:, k], form.apart[:, k])
            answers = torch.cat([answers, answer.transpose(0, 1)[:, :, None]], 2)
        end = _state(paths, form, answers, form.lambdas.shape[1])
        return (end - paths.images).square().sum(-1) / paths.pixels

    def answer(self, x: Tensor, lambdas: Tensor, alphas: Tensor, sigmas: Tensor, apart: Tensor) -> Tensor:
        """Of n states on every seed, [S, n, m]; differentiable in all of them."""
        own, eps = self.paths.there(lambdas)
        here = Points(_z(self.paths, x, alphas, sigmas, own, eps).float(), lambdas.float(), apart.float())
        return own + (here.kernel(self.known) @ self.weights).double()


def _part(paths: Paths, form: Form, moved: Tensor) -> Part:
    count, _, evaluations, size = moved.shape
    drawn = moved.isfinite().all(-1).all(-1)  # [trials, S]
    own, eps = paths.there(form.lambdas.flatten())
    teacher = own.unflatten(1, (count, evaluations)).transpose(0, 1)
    answers = torch.where(drawn[..., None, None], teacher + moved, teacher)
    states = torch.stack([_state(paths, form, answers[:, :, :k], k) for k in range(evaluations)], 2)  # [trials, S, N, m]
    z = _z(paths, states.transpose(0, 1).flatten(1, 2), form.alphas.flatten(), form.sigmas.flatten(), own, eps)
    z = z.unflatten(1, (count, evaluations)).transpose(0, 1)
    drawn &= z.norm(dim=-1).amax(-1) < ASTRAY
    z = torch.where(drawn[..., None, None], z, 0.0)
    points = Points(z.transpose(0, 1).flatten(1, 2), form.lambdas.flatten(), form.apart.flatten(0, 1))
    unseen = torch.where(drawn, NOISE, UNSEEN).repeat_interleave(evaluations, 0).T
    factor = torch.linalg.cholesky(points.kernel(points) + torch.diag_embed(unseen.double()))
    known = torch.where(drawn[..., None, None], moved, 0.0).transpose(0, 1).reshape(len(paths.noise), -1, size)
    weights = torch.cholesky_solve(known, factor)
    return Part(paths, Points(points.z.float(), points.lambdas.float(), points.apart.float()), weights.float())


def _state(paths: Paths, form: Form, answers: Tensor, k: int) -> Tensor:
    """The k-th state [K, S, m] of tables, given the answers before it [K, S, k, m]."""
    return form.a[:, k, None, None] * paths.noise + torch.einsum("kj,ksjm->ksm", form.B[:, k, :k], answers)


def _z(paths: Paths, x: Tensor, alphas: Tensor, sigmas: Tensor, own: Tensor, eps: Tensor) -> Tensor:
    """How far states x [S, n, m] are from the teacher's own, in deviations of the noise per pixel."""
    alpha, sigma = alphas[:, None], sigmas[:, None]
    floor = FLOOR * alpha * paths.spread[:, None, None]
    return (x - alpha * own - sigma * eps) / (sigma.square() + floor.square()).sqrt() / paths.pixels**0.5
