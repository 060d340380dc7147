"""The report: what its page says, that it is safe to mail, and that its pictures show something. All numbers are made up."""

import base64
import io
import math
import re
from dataclasses import replace  # noqa: F401
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from search import pictures, report
from search.result import Cost, Finished, Interval, Known, Result, Scored
from solvers import SolverSchedule, Step, compile, preset, process, save

NFE = 5
VE = process("ve", sigma_max=80.0)
TIMES = [80.0, 19.0, 5.2, 1.4, 0.31, 0.02]
KNOWN = preset("dpmpp-2m", TIMES, VE)
FOUND = SolverSchedule(
    VE,
    80.0,
    (
        Step(to=14.1, space="eps", corrector=1),
        Step(to=4.6, order=2, label=16.0, relax=1.07, corrector=2, moment="bh2"),
        Step(to=1.7, order=3, space="flow", domain="t", label=4.1),
        Step(to=0.42, order=2, domain="index", space="eps", corrector=3),
        Step(to=0.02, order=4, label=0.37, relax=0.93),
    ),
)


def scored(name: str, rmse: float, ratio: float, spread: float = 0.03) -> Scored:
    """One made-up row."""
    lpips = Interval(rmse / 2, rmse / 2.2, rmse / 1.8)
    return Scored(
        name,
        NFE,
        Interval(rmse, rmse * 0.94, rmse * 1.06),
        rmse * 0.8,
        Interval(ratio, ratio - spread, ratio + spread),
        lpips,
        Interval(ratio, ratio - spread, ratio + spread),
    )


def made_up(ratio: float = 0.55, baseline: str = "dpmpp-2m on karras (moment exact, rho 5.3)", model: str = "digits") -> Result:
    """A plausible campaign."""
    draw = np.random.default_rng(0)
    solvers = {"dpmpp-2m": 1.0, "unipc-2": 1.1, "ipndm": 1.25, "ddim": 3.0}
    curves = [
        Known(solver, {}, "karras", {"rho": 5.3}, n, 0.11 * factor, 0.11 * factor * (5 / n) ** (1 if solver == "ddim" else 2.1))
        for solver, factor in solvers.items()
        for n in range(2, 11)
    ]
    values = [*(0.11 * (1 + draw.exponential(0.8)) for _ in range(16)), *(0.115 * ratio + 0.1 * draw.exponential(1 - i / 900) for i in range(784))]
    trials = [Finished(i, float(v), origin="unipc-2 on karras" if i < 16 else "") for i, v in enumerate(values)]
    best = min(trials, key=lambda t: t.fit or math.inf).number
    trials[best] = msgspec.structs.replace(trials[best], select=0.06)
    trials[40], trials[41] = Finished(40, None), Finished(41, 80.0)
    return Result(
        model=model,
        nfe=NFE,
        objective="rmse",
        found=scored("found", 0.11 * ratio, ratio),
        baseline=scored(baseline, 0.11, 1.0, 0.0),
        others=(scored("unipc-2 on polynomial (power 3.1)", 0.121, 1.1), scored("ddim on uniform", 0.33, 3.0)),
        curves=tuple(curves),
        known=tuple(Known("dpmpp-2m", {}, "karras", {"rho": 1 + i / 40}, NFE, 0.11 + i / 1e4, 0.11) for i in range(1155)),
        trials=tuple(trials),
        schedule_file=f"/somewhere/private/{model}.schedule.json",
        schedule_id="5f0c" * 16,
        teacher_nfe=256,
        teacher_error=4.1e-4,
        seeds={"fit": 64, "select": 128, "test": 256},
        calls_per_evaluation=2,
        search_cost=Cost(256_000, 211_200),
        known_cost=Cost(372_000, 301_000),
        seconds=754.2,
        test_reads=1,
        machine="x86_64, 2 threads, torch 2.9",
    )


def images(*shape: int) -> dict[str, Tensor]:
    """Three blocks that differ a little."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(12, *shape, generator=generator)
    return {"teacher": teacher} | {k: teacher + s * torch.randn(teacher.shape, generator=generator) for k, s in (("baseline", 0.2), ("found", 0.1))}


def page(tmp_path: Path, result: Result | None = None, shape: tuple[int, ...] = (1, 16, 16), known: SolverSchedule | None = KNOWN) -> str:
    """The report's text."""
    return report.write(tmp_path, result or made_up(), FOUND, known, images(*shape)).read_text()
