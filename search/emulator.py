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

from search.gaps import lambda_at, levels
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

    @property
    def nfe(self) -> int:
        """N."""
        return self.lambdas.shape[1]

    def place(self, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of evaluation k: lambda, alpha and sigma [K], and apart [K, e]."""
        return self.lambdas[:, k], self.alphas[:, k], self.sigmas[:, k], self.apart[:, k]


def form(tables: Sequence[Tableau], process: Process, given: Mapping[str, float]) -> Form:
    """The form of tables of one NFE, which inject no noise; differentiable in their numbers. given: every knob, as the teacher has it."""
    dense = [table.dense().at(table.visible) for table in tables]

    def each(name: str) -> Tensor:
        values = [torch.as_tensor(getattr(e, name), dtype=torch.float64) for table in tables for e in table.evals]
        return torch.stack(values).unflatten(0, (len(tables), -1))

    alphas, sigmas, told = each("alpha"), each("sigma"), levels(process, each("label"))
    lambdas = lambda_at(alphas, sigmas)
    off = torch.stack([apart(told[k, r], lambdas[k, r], e.knobs, given) for k, t in enumerate(tables) for r, e in enumerate(t.evals)])
    return Form(
        torch.stack([d.a for d in dense]), torch.stack([d.B for d in dense]), lambdas, alphas, sigmas, off.unflatten(0, lambdas.shape)
    )


def apart(told: Tensor, own: Tensor, knobs: Mapping[str, float], given: Mapping[str, float]) -> Tensor:
    """How far an evaluation's label is from its state's own (lambdas, []), and its knobs from those given: [1 + len(given)]."""
    return torch.stack([told - own, *(own.new_tensor(knobs.get(name, usual) - usual) for name, usual in sorted(given.items()))]) / OFFSET


def deviations(table: Tableau, answers: Tensor, process: Process, paths: Paths) -> Tensor:
    """How far the N answers to a table, in coordinates [S, N, m], are from the teacher's own at the lambdas of their states, [S, N, m]."""
    return answers - paths.there(levels(process, torch.tensor(table.asked, dtype=torch.float64)))[0]


@dataclass(frozen=True)
class Points:
    """Where answers are known or wanted, on some seeds: u = (z / l, o) [S, n, m + e], lambda [n].

    sizes   |u|^2, squared distances from the teacher's way, [S, n]
    """

    u: Tensor
    lambdas: Tensor
    sizes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", self.u.square().sum(-1))

    @classmethod
    def of(cls, z: Tensor, lambdas: Tensor, apart: Tensor) -> "Points":
        """From z [S, n, m], and o [n, e] of all seeds."""
        return cls(torch.cat([z / LENGTH, apart.expand(len(z), -1, -1)], -1), lambdas)

    def single(self) -> "Points":
        """In single precision."""
        return Points(self.u.float(), self.lambdas.float())

    def near(self, other: "Points") -> "Near":
        """How these lie to others."""
        along, inner = 1 + (self.lambdas[:, None] - other.lambdas).square(), self.u @ other.u.mT
        return Near(inner, along, 1 / (self.sizes[..., None] + other.sizes[:, None] - 2 * inner + along))


class Near(NamedTuple):
    """Of n points to n' others: u u' [S, n, n'], 1 / q of lambdas [n, n'], and q of everything [S, n, n']."""

    inner: Tensor
    along: Tensor
    close: Tensor

    @property
    def kernel(self) -> Tensor:
        """Covariances [S, n, n']."""
        return self.inner / self.along + BENT * self.close


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

    def ends(self, form: Form) -> Tensor:
        """Where K tables end, [K, S, m]."""
        paths = self.paths
        answers = paths.noise.new_zeros(len(form.a), len(paths.noise), 0, paths.noise.shape[1])
        for k in range(form.nfe):
            answer = self.answer(_state(paths, form, answers, k).transpose(0, 1), *form.place(k))
            answers = torch.cat([answers, answer.transpose(0, 1)[:, :, None]], 2)
        return _state(paths, form, answers, form.nfe)

    def errors(self, form: Form) -> Tensor:
        """[K, S]."""
        return (self.ends(form) - self.paths.images).square().sum(-1) / self.paths.pixels

    def answer(self, x: Tensor, lambdas: Tensor, alphas: Tensor, sigmas: Tensor, apart: Tensor) -> Tensor:
        """Of n states on every seed, [S, n, m]."""
        own, eps = self.paths.there(lambdas)
        here = Points.of(_z(self.paths, x, alphas, sigmas, own, eps), lambdas, apart).single()
        return own + (here.near(self.known).kernel @ self.weights).double()

    def moved(self, form: Form, along: Form) -> tuple[Tensor, Tensor]:
        """Where one table ends, [S, m], and how P tangents of its form, stacked as tables are, move that, [S, P, m]."""
        noise = self.paths.noise
        answers, moves = noise.new_zeros(len(noise), 0, noise.shape[1]), noise.new_zeros(len(noise), 0, len(along.a), noise.shape[1])

        def state(k: int) -> tuple[Tensor, Tensor]:
            """The k-th [S, m], and its moves."""
            own = along.a[:, k, None] * noise[:, None] + torch.einsum("pj,sjm->spm", along.B[:, k, :k], answers)
            return _state(self.paths, form, answers[None], k)[0], own + torch.einsum("j,sjpm->spm", form.B[0, k, :k], moves)

        for k in range(form.nfe):
            answer, move = self._answered(*state(k), form.place(k), along.place(k))
            answers, moves = torch.cat([answers, answer], 1), torch.cat([moves, move[:, None]], 1)
        return state(form.nfe)

    def _answered(self, x: Tensor, dx: Tensor, places: Sequence[Tensor], tangents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The answer to a state x [S, m], [S, 1, m], and its moves [S, P, m] by those of the state and of (lambda, alpha, sigma, o)."""
        paths, (lambdas, alpha, sigma, apart), (dl, da, ds, do) = self.paths, places, tangents
        (own, eps), (down, deps) = torch.func.jvp(paths.there, (lambdas,), (torch.ones_like(lambdas),))[:2]
        width, floor = _width(paths, alpha, sigma)[..., None], FLOOR * paths.spread[:, None, None]
        z = _z(paths, x[:, None], alpha, sigma, own, eps)
        off = dx - da[:, None] * own - ds[:, None] * eps - dl[:, None] * (alpha * down + sigma * deps)
        dz = off / width / paths.pixels**0.5 - z * (sigma * ds[:, None] + floor.square() * alpha * da[:, None]) / width.square()
        here = Points.of(z, lambdas, apart).single()
        near = here.near(self.known)
        bent = BENT * near.close.square()
        by_u = self.known.u.mT @ ((1 / near.along + 2 * bent).mT * self.weights) - 2 * here.u.mT @ (bent @ self.weights)
        by_lambda = -2 * ((here.lambdas - self.known.lambdas) * (near.inner / near.along.square() + bent)) @ self.weights
        du = torch.cat([dz / LENGTH, do.expand(len(dz), -1, -1)], -1)
        answer = own + (near.kernel @ self.weights).double()
        return answer, du @ by_u.double() + dl[:, None] * (down + by_lambda.double())


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
    points = Points.of(z.transpose(0, 1).flatten(1, 2), form.lambdas.flatten(), form.apart.flatten(0, 1))
    unseen = torch.where(drawn, NOISE, UNSEEN).repeat_interleave(evaluations, 0).T
    factor = torch.linalg.cholesky(points.near(points).kernel + torch.diag_embed(unseen.double()))
    known = torch.where(drawn[..., None, None], moved, 0.0).transpose(0, 1).reshape(len(paths.noise), -1, size)
    weights = torch.cholesky_solve(known, factor)
    return Part(paths, points.single(), weights.float())


def _state(paths: Paths, form: Form, answers: Tensor, k: int) -> Tensor:
    """The k-th state [K, S, m] of tables, given the answers before it [K, S, k, m]."""
    return form.a[:, k, None, None] * paths.noise + torch.einsum("kj,ksjm->ksm", form.B[:, k, :k], answers)


def _z(paths: Paths, x: Tensor, alphas: Tensor, sigmas: Tensor, own: Tensor, eps: Tensor) -> Tensor:
    """How far states x [S, n, m] are from the teacher's own, in deviations of the noise per pixel."""
    off = x - alphas[:, None] * own - sigmas[:, None] * eps
    return off / _width(paths, alphas, sigmas)[..., None] / paths.pixels**0.5


def _width(paths: Paths, alphas: Tensor, sigmas: Tensor) -> Tensor:
    """(sigma^2 + (c alpha)^2)^1/2, [S, n]."""
    return (sigmas.square() + (FLOOR * alphas * paths.spread[:, None]).square()).sqrt()
