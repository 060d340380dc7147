"""Shared by all tests: one thread, so that a busy machine and an idle one do the same arithmetic; the processes under test."""

import warnings
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from references import k_diffusion_sampling

from solvers import SolverSchedule, compile, load, save
from solvers.records import ScheduleFile

torch.set_num_threads(1)

# torch builds its forward-mode rules at the first use, with a call that it deprecates itself; not ours, once, here.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


@pytest.fixture(params=oracle.PLAIN, ids=str)
def case(request: pytest.FixtureRequest) -> oracle.Case:
    """Every process but the mean-reverting one, with where sampling starts and where it nearly ends."""
    return oracle.CASES[request.param]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """A function that writes a schedule and reads it back."""

    def write(schedule: SolverSchedule) -> ScheduleFile:
        save(compile(schedule), tmp_path / "x.schedule.json", recipe=schedule)
        return load(tmp_path / "x.schedule.json")

    return write


@pytest.fixture(scope="session")
def k_diffusion() -> Any:
    """k-diffusion's samplers, or a visible skip."""
    try:
        return k_diffusion_sampling()
    except ImportError as error:
        pytest.skip(str(error))
