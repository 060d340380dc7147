"""The teacher's own way from noise to image on some seeds, in few coordinates: what the emulator departs from.

What the samplers of one seed compute hardly leaves a small space: that of its noise, of the teacher's answers along the way, and of
those that a few short samplers get (probes). A basis of it, one per seed, turns a picture into `DIRECTIONS` numbers.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from search.gaps import levels
from solvers import Row, SolverSchedule, Tableau, compile, sample
from teacher import cache
from teacher.denoiser import Teacher
from teacher.trajectories import SOLVER, Targets, reference

STEPS = 32  # of the teacher's way
DIRECTIONS = 32  # of a seed's space, at most
SEEDS = 128  # that are emulated, at most
LARGEST = 2**28  # numbers of all bases: 1 GiB
TOGETHER = 16  # seeds that are walked at once, which bounds the memory
TINY = 1e-9
NEGLIGIBLE = 1e-6  # a direction that holds less than this share of the largest is none


@dataclass(frozen=True)
class Paths:
    """The ways of S seeds, as coordinates in float64. P: pixels; m: directions; K probes of N evaluations.

    lambdas   [T]         where the teacher was asked, ascending
    answers   [S, T, m]   what it answered there;    eps [S, T, m]   (x - alpha D) / sigma there
    noise     [S, m]      where sampling starts;     images [S, m]   where it should end
    probed    [S, K, N, m]    what the probes were answered
    basis     [S, m, P]   orthonormal rows, or zeros where a seed needs fewer
    spread    [S]         the root mean square of a pixel of the image
    """

    lambdas: Tensor
    answers: Tensor
    eps: Tensor
    noise: Tensor
    images: Tensor
    probed: Tensor
    basis: Tensor
    spread: Tensor

    @property
    def pixels(self) -> int:
        """P."""
        return self.basis.shape[-1]

    def on(self, seeds: Tensor) -> "Paths":
        """Those of some seeds."""
        return replace(self, **{f.name: getattr(self, f.name)[seeds] for f in fields(self) if f.name != "lambdas"})

    def reduced(self, answers: Sequence[Tensor]) -> Tensor:
        """The coordinates [S, N, m] of N answers, pictures of S seeds each."""
        return reduced(torch.stack([answer.flatten(1) for answer in answers], 1), self.basis)

    def scaled(self, coordinates: Tensor) -> Tensor:
        """Coordinates [..., m] in single precision, such that their mean square is that over pixels."""
        return (coordinates * (coordinates.shape[-1] / self.pixels) ** 0.5).float()

    def there(self, lambdas: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's answers and its eps at any lambda [n]: twice [S, n, m]."""
        return between(self.lambdas, lambdas, self.answers, self.eps)


def between(places: Tensor, lambdas: Tensor, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two ways [S, T, m], known at ascending places [T], at any lambda [n], linear between two of those: twice [S, n, m]."""
    inside = lambdas.clamp(float(places[0]), float(places[-1])).contiguous()
    left = (torch.searchsorted(places, inside.detach()) - 1).clamp(0, len(places) - 2)
    gap = (places[left + 1] - places[left]).clamp_min(TINY)  # beyond what stands for infinity they may be equal
    share = ((inside - places[left]) / gap)[:, None].to(one)
    first, second = (way[:, left] + share * (way[:, left + 1] - way[:, left]) for way in (one, other))
    return first, second


def affordable(teacher: Teacher, seeds: int, budgets: int = 1) -> bool:
    """Whether the bases of so many seeds, for each of some budgets, are small enough to be held in memory."""
    return budgets * min(SEEDS, seeds) * DIRECTIONS * math.prod(teacher.shape) <= LARGEST


def paths(
    teacher: Teacher,
    goal: Targets,
    probes: Sequence[SolverSchedule],
    workers: int = 1,
    progress: Progress | None = None,
    root: Path = cache.ROOT,
) -> Paths:
    """The ways of the targets' seeds, from the cache where they are. The probes' answers widen the basis."""

    def walked(part: slice) -> dict[str, Tensor]:
        facts = teacher.facts(goal.seeds[part]) | {
            "seeds": list(goal.seeds[part]),
            "way": [STEPS, DIRECTIONS, SOLVER],
            "probed": [repr(probe) for probe in probes],
        }
        return cache.fetch(root, facts, lambda: walk(teacher, goal, part, probes))

    parts = [slice(first, first + TOGETHER) for first in range(0, len(goal.seeds), TOGETHER)]
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(walked, parts)
        if progress:
            found = progress.track(found, total=len(parts), description="the teacher's way, for the emulator")
        whole = list(found)
    joined = {name: torch.cat([part[name] for part in whole]) for name in ("answers", "eps", "probed", "basis")}
    noise, images = (reduced(pictures.flatten(1), joined["basis"]) for pictures in (goal.noise, goal.images))
    spread = goal.images.flatten(1).double().square().mean(1).sqrt()
    return Paths(lambdas=whole[0]["lambdas"], **joined, noise=noise, images=images, spread=spread)


def walk(teacher: Teacher, goal: Targets, part: slice, probes: Sequence[SolverSchedule]) -> dict[str, Tensor]:
    """Of some of the seeds what the network has to be asked for: STEPS evaluations each, and those of the probes."""
    lambdas, answers, eps = way(teacher, goal, part)
    short = torch.stack([_watched(teacher, goal, part, compile(probe))[1] for probe in probes], 1)
    starts = goal.noise[part].flatten(1).double()
    basis = torch.stack(
        [_basis(start, torch.cat([own, seen.flatten(0, 1)]).double()) for start, own, seen in zip(starts, answers, short, strict=True)]
    ).float()
    return {"lambdas": lambdas, "basis": basis} | {
        name: reduced(pictures, basis) for name, pictures in (("answers", answers), ("eps", eps), ("probed", short))
    }


def way(teacher: Teacher, goal: Targets, part: slice) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's own: lambdas [T], its answers and its eps there, twice [seeds, T, P]."""
    table = reference(teacher, STEPS)
    states, answers = _watched(teacher, goal, part, table)
    alpha, sigma = (torch.tensor([float(getattr(e, name)) for e in table.evals]).to(states)[:, None] for name in ("alpha", "sigma"))
    return levels(teacher.process, torch.tensor(table.asked, dtype=torch.float64)), answers, (states - alpha * answers) / sigma


def reduced(pictures: Tensor, basis: Tensor) -> Tensor:
    """The coordinates [S, ..., m] of pictures [S, ..., P], each seed's in its own basis [S, m, P]."""
    return torch.einsum("s...p,smp->s...m", pictures.float(), basis).double()


def _watched(teacher: Teacher, goal: Targets, part: slice, table: Tableau) -> tuple[Tensor, Tensor]:
    """Every state that is evaluated and the answer there, each [seeds, evaluations, P]."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(row: Row, x: Tensor, answer: Tensor | None) -> None:
        if answer is not None:
            seen.append((x.flatten(1), answer.flatten(1)))

    knobs: dict[str, Any] = dict(teacher.knobs) | {"cond": None if goal.cond is None else goal.cond[part]}
    with torch.no_grad():
        sample(teacher.denoiser, goal.noise[part], table, callback=watch, **knobs)
    states, answers = (torch.stack(each, 1) for each in zip(*seen, strict=True))
    return states, answers


def _basis(start: Tensor, answers: Tensor) -> Tensor:
    """Orthonormal rows [m, P]: the noise, then what the answers [n, P] have beside it, most first."""
    first = start / start.norm()
    beside = answers - torch.outer(answers @ first, first)
    _, sizes, rows = torch.linalg.svd(beside, full_matrices=False)
    rows, sizes = rows[: DIRECTIONS - 1], sizes[: DIRECTIONS - 1]
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()  # which of two signs it was would differ between machines
    rows = torch.where(sizes[:, None] > NEGLIGIBLE * sizes[0], rows, 0.0)
    return torch.cat([first[None], rows, rows.new_zeros(DIRECTIONS - 1 - len(rows), rows.shape[1])])
