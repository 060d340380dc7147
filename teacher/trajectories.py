"""What the teacher itself would draw: its probability-flow ODE solved until it no longer changes.

Solved with N and with 2N steps (UniPC-3 on a Karras grid, orders to the end), N doubling until the RMSE between the two is
below the tolerance: that difference is the teacher's own error, stored with the images. Seeds come in three blocks that
cannot meet: `fit` tunes, `select` chooses among finalists, `test` is what is reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from solvers import Tableau, compile, initial, named_grid, preset, sample
from teacher import cache
from teacher.denoiser import Teacher
from teacher.errors import TeacherError

Block = Literal["fit", "select", "test"]
BLOCK_SIZE = 1_000_000
BLOCKS: dict[Block, int] = {"fit": 0, "select": BLOCK_SIZE, "test": 2 * BLOCK_SIZE}
SHARD = 64
SOLVER = "unipc-3, karras 7, tail full"


@dataclass(frozen=True)
class Targets:
    """Where samples start and where they should end. Shapes: noise and images [seeds, ...], cond [seeds, ...] or None.

    error is the RMSE between the teacher at its last two resolutions; nfe the evaluations of the finer one.
    """

    block: Block
    seeds: tuple[int, ...]
    noise: Tensor
    images: Tensor
    cond: Tensor | None
    error: float
    nfe: int


def seeds_of(block: Block, count: int) -> tuple[int, ...]:
    """The first `count` seeds of a block."""
    if not 1 <= count <= BLOCK_SIZE:
        raise TeacherError(f"A block has 1 to {BLOCK_SIZE} seeds, not {count}.")
    return tuple(range(BLOCKS[block], BLOCKS[block] + count))


def reference(teacher: Teacher, steps: int) -> Tableau:
    """The table that the teacher is solved with."""
    grid = named_grid("karras", teacher.process, steps, teacher.start, teacher.end)
    return compile(preset("unipc-3", grid, teacher.process, tail="full"))


def targets(teacher: Teacher, block: Block, count: int, tolerance: float = 1e-3, root: Path = cache.ROOT) -> Targets:
    """The teacher's images for the first `count` seeds of `block`, from the cache where they are."""
    parts = plan(block, count)
    return gather(teacher, block, parts, [shard(teacher, seeds, tolerance, root) for seeds in parts])


def plan(block: Block, count: int, rank: int = 0, world: int = 1) -> list[tuple[int, ...]]:
    """The seeds of each shard; with rank and world only every world-th, so that several processes can share the work."""
    seeds = seeds_of(block, count)
    return [seeds[first : first + SHARD] for first in range(rank * SHARD, count, world * SHARD)]


def check_tolerance(tolerance: float) -> None:
    """Raise TeacherError unless it is one: positive and finite."""
    if not 0 < tolerance < math.inf:
        raise TeacherError(f"A tolerance is a positive number, not {tolerance:g}.")


def shard(teacher: Teacher, seeds: tuple[int, ...], tolerance: float, root: Path = cache.ROOT) -> dict[str, Tensor]:
    """One shard from the cache, or solved now."""
    facts = teacher.facts(seeds) | {"seeds": [seeds[0], len(seeds)], "tolerance": tolerance, "solver": SOLVER}
    return cache.fetch(root, facts, lambda: converge(teacher, seeds, tolerance))


def gather(teacher: Teacher, block: Block, plan: Sequence[tuple[int, ...]], parts: Sequence[dict[str, Tensor]]) -> Targets:
    """Shards put together; the error is that of all their seeds."""
    seeds = tuple(seed for part in plan for seed in part)
    joined = {name: torch.cat([tensors[name] for tensors in parts]) for name in ("noise", "images", "squared_error")}
    nfe = max(int(tensors["nfe"]) for tensors in parts)
    error = float(joined["squared_error"].mean().sqrt())
    return Targets(block, seeds, joined["noise"], joined["images"], teacher.conditions(list(seeds)), error, nfe)


def converge(teacher: Teacher, seeds: Sequence[int], tolerance: float, steps: int = 32, most: int = 512) -> dict[str, Tensor]:
    """Solve at N and 2N, doubling N, until the RMSE between them is below `tolerance`. Raises TeacherError if it never is."""
    cond = teacher.conditions(list(seeds))
    noise = initial(seeds, teacher.shape, reference(teacher, 1))
    knobs: dict[str, Any] = dict(teacher.knobs)
    with torch.no_grad():
        coarse = sample(teacher.denoiser, noise, reference(teacher, steps), cond=cond, **knobs)
        while True:
            steps *= 2
            fine = sample(teacher.denoiser, noise, reference(teacher, steps), cond=cond, **knobs)
            squared_error = (fine - coarse).square().flatten(1).mean(1)
            if float(squared_error.mean().sqrt()) < tolerance:
                break
            if 2 * steps > most:
                raise TeacherError(
                    f"Teacher {teacher.name!r} did not converge: {steps // 2} and {steps} evaluations differ by "
                    f"{float(squared_error.mean().sqrt()):.2g} (RMSE), more than the tolerance {tolerance:g}."
                )
            coarse = fine
    return {"noise": noise, "images": fine, "squared_error": squared_error, "nfe": torch.tensor(steps)}
