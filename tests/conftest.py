"""Shared by all tests: one thread, so that a busy machine and an idle one do the same arithmetic; the processes under test."""

import warnings

import oracle
import pytest
import torch

torch.set_num_threads(1)

# torch builds its forward-mode rules at the first use, with a call that it deprecates itself; not ours, once, here.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


@pytest.fixture(params=oracle.PLAIN, ids=str)
def case(request: pytest.FixtureRequest) -> oracle.Case:
    """Every process but the mean-reverting one, with where sampling starts and where it nearly ends."""
    return oracle.CASES[request.param]
