"""The statistics of a model that DPM-Solver-v3 integrates with, and a schedule file made of them.

    python -m teacher.statistics digits --knots 120 --samples 64 --nfe 5 --to digits-v3.schedule.json

Per element and at lambdas uniform between the teacher's start and end (Zheng et al. 2023, eq. 6 and 11), over its own images with noise:

    l = E[diag of sigma d eps / dx] = 1 - alpha E[diag dD/dx]      by Rademacher probes v: E[v (D(x + h v) - D(x - h v)) / 2h]
    s, b = the least squares of df/dlambda on f                    f = (1 - l) y - D,  y = x / alpha,  dy/dlambda = D - y

The network is asked as a black box, five times per sample and knot: derivatives are central differences, df/dlambda along the
trajectory. Results are kept in the cache, whose file is printed; without --nfe and --to that is all.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from solvers import At, Provenance, ScheduleError, ScheduleFile, Statistics, dpm_solver_v3, draw, named_grid, save
from teacher import cache, models, trajectories
from teacher.denoiser import Teacher
from teacher.errors import TeacherError
from teacher.trajectories import Targets

KNOTS = 120  # lambdas at which statistics are measured
WIDTH = 0.02  # in lambda, of the difference along the trajectory
REACH = 0.05  # in sigmas, of the difference between states
NAMES = ("y", "D", "slope")


def facts_of(teacher: Teacher, goal: Targets, knots: int) -> dict[str, object]:
    """What decides the statistics."""
    images = hashlib.sha256(goal.images.contiguous().numpy().tobytes()).hexdigest()  # which differ with the tolerance
    return teacher.facts(goal.seeds) | {"statistics": 2, "knots": knots, "images": images}


def span(teacher: Teacher) -> tuple[float, float]:
    """The lambdas between which statistics are measured. Raises TeacherError where one is infinite."""
    low, high = (float(teacher.process.lambda_of(t)) for t in (teacher.start, teacher.end))
    if not -float("inf") < low < high < float("inf"):
        raise TeacherError("Statistics are measured between a start with alpha > 0 and an end with sigma > 0; this model has others.")
    return low, high


def statistics(
    teacher: Teacher,
    goal: Targets,
    knots: int = KNOTS,
    root: Path = cache.ROOT,
    report: Callable[[int], None] = lambda done: None,
) -> Statistics:
    """From the cache, or measured now on the teacher's images. Raises TeacherError."""
    low, high = span(teacher)
    if knots < 3:
        raise TeacherError(f"Statistics need three knots or more, not {knots}.")

    def measure() -> dict[str, Tensor]:
        seeds, images = goal.seeds, goal.images.double()
        lambdas = torch.linspace(low, high, knots, dtype=torch.float64)
        found: list[tuple[Tensor, Tensor]] = []
        for k, lambda_ in enumerate(lambdas.clamp(low + WIDTH, high - WIDTH).tolist()):
            found.append(_moments(teacher, lambda_, images, seeds, k))
            report(k + 1)
        diagonal, moments = (torch.stack(column) for column in zip(*found, strict=True))
        l, s, b = fit(lambdas, diagonal, moments)  # noqa: E741
        return {"lambdas": lambdas, "l": l, "s": s, "b": b}

    return Statistics(**cache.fetch(root, facts_of(teacher, goal, knots), measure))


def write(teacher: Teacher, found: Statistics, nfe: int, order: int, path: Path) -> ScheduleFile:
    """DPM-Solver-v3 with these statistics as a schedule file, lambda uniform from the teacher's start to its end. Raises ScheduleError."""
    grid = named_grid("log-snr", teacher.process, nfe, teacher.start, teacher.end)
    table = dpm_solver_v3(grid, teacher.process, found, order)
    note = f"DPM-Solver-v3 of order {order}, statistics at {len(found.lambdas)} lambdas"
    return save(table, path, process=teacher.process, fitted_for=teacher.card, provenance=Provenance(note=note))


@torch.no_grad()
def _moments(teacher: Teacher, lambda_: float, images: Tensor, seeds: tuple[int, ...], knot: int) -> tuple[Tensor, Tensor]:
    """E[diag dD/dx] [*shape], and [12, *shape]: the means of y, D and D's slope along the trajectory, and of their products."""
    process, (middle, before, after) = teacher.process, (lambda_, lambda_ - WIDTH, lambda_ + WIDTH)
    cond, knobs = teacher.conditions(list(seeds)), dict(teacher.knobs)
    alpha, sigma = (f(process.time_of(middle)) for f in (process.alpha, process.sigma))

    def asked(at_lambda: float, x: Tensor) -> Tensor:
        time, parts = process.time_of(at_lambda), list[Tensor]()
        at = At(time, process.alpha(time), process.sigma(time))
        for first in range(0, len(x), trajectories.SHARD):
            chosen = slice(first, first + trajectories.SHARD)
            parts.append(teacher.denoiser(x[chosen].float(), at, cond=None if cond is None else cond[chosen], **knobs).double())
        return torch.cat(parts)

    x = alpha * images + sigma * draw(seeds, teacher.shape, f"statistics {knot}", torch.float64)
    signs = draw(seeds, teacher.shape, f"signs {knot}", torch.float64).sign()
    y, denoised = x / alpha, asked(middle, x)
    reach = REACH * sigma
    diagonal = (signs * (asked(middle, x + reach * signs) - asked(middle, x - reach * signs)) / (2 * reach)).mean(0)
    ahead, behind = (
        asked(to, process.alpha(process.time_of(to)) * (y + way * WIDTH * (denoised - y))) for to, way in ((after, 1), (before, -1))
    )
    values = torch.stack([y, denoised, (ahead - behind) / (2 * WIDTH)])
    products = (values[:, None] * values[None]).mean(2).flatten(0, 1)
    return diagonal * alpha, torch.cat([values.mean(1), products])


def fit(lambdas: Tensor, diagonal: Tensor, moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """l, s, b [K, *shape] from the diagonal of alpha dD/dx and the moments at every knot."""
    l = 1 - diagonal  # noqa: E741
    (change,) = torch.gradient(l, spacing=(lambdas,), dim=0)
    mean, second = moments[:, :3], moments[:, 3:].unflatten(1, (3, 3))
    covariance = second - mean[:, :, None] * mean[:, None]
    one = torch.ones_like(l)
    f = torch.stack([1 - l, -one, 0 * one], 1)  # in terms of y, D and the slope of D
    f_slope = torch.stack([-change - (1 - l), 1 - l, -one], 1)
    variance, shared = (torch.einsum("ki...,kij...,kj...->k...", f, covariance, other) for other in (f, f_slope))
    s = torch.where(variance > 1e-6 * second[:, 1, 1], shared / variance, 0.0)  # a constant f, or one of rounding, says nothing of s
    return l, s, (mean * f_slope).sum(1) - s * (mean * f).sum(1)


def main() -> None:
    """Parse, measure with a line of progress, and print where the file is."""
    parser = argparse.ArgumentParser(prog="python -m teacher.statistics", description="Measure the statistics for DPM-Solver-v3.")
    parser.add_argument("model", help="as in search.py model=...")
    parser.add_argument("--options", type=json.loads, default={}, help="""as in model.options, in JSON: '{"guidance": 2.0}'""")
    parser.add_argument("--knots", type=int, default=KNOTS)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--nfe", type=int, help="also write the schedule of so many evaluations ...")
    parser.add_argument("--to", type=Path, help="... to this file")
    parser.add_argument("--order", type=int, default=2, choices=(1, 2, 3), help="of the schedule")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="of the teacher's images")
    parser.add_argument("--device", default="cpu", help="of torch, where the network is: cuda, cuda:1 ...")
    parser.add_argument("--chunk", type=int, default=64, help="samples in one call of the network, at most")
    said = parser.parse_args()
    if (said.nfe is None) != (said.to is None):
        parser.error("--nfe and --to go together")
    try:
        trajectories.check_tolerance(said.tolerance)
        teacher = models.ready(said.model, said.options, said.device, said.chunk)
        if said.to is not None:  # what cannot be written is refused before anything is measured
            named_grid("log-snr", teacher.process, said.nfe, teacher.start, teacher.end)
            if said.to.exists():
                raise ScheduleError(f"{said.to} is there already; choose another --to.")
        goal = trajectories.targets(teacher, "fit", said.samples, said.tolerance)
        found = statistics(teacher, goal, said.knots, report=lambda k: print(f"\rknot {k} of {said.knots}", end="", file=sys.stderr))
        print(cache.ROOT / f"{cache.key_of(facts_of(teacher, goal, said.knots))}.safetensors")
        if said.to is not None:
            print(f"wrote {said.to}, id {write(teacher, found, said.nfe, said.order, said.to).id[:16]}")
    except (TeacherError, ScheduleError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command begins anew")


if __name__ == "__main__":
    main()
