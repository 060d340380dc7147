"""Derivatives along the few directions that many span: exact where nothing is left out, and never farther off than was allowed."""

import pytest
import torch

from search.spanned import TOLERANCE, spanned
from solvers import At

F64 = torch.float64
SEEDS, PIXELS, COUNT = 3, 40, 25


@pytest.fixture
def scene():
    """A network that bends and hears its time, a place, and tangents of falling size: most of them in few directions."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(PIXELS, PIXELS, dtype=F64, generator=generator) / PIXELS**0.5
    asked = []

    def network(x, at):
        asked.append(x)
        return torch.tanh(x @ mixing) * at.alpha + torch.sin(at.label) * x / at.sigma

    x = torch.randn(SEEDS, PIXELS, dtype=F64, generator=generator)
    at = At(*(torch.tensor(value, dtype=F64) for value in (0.3, 1.0, 2.0)))
    shapes = torch.randn(COUNT, SEEDS, PIXELS, dtype=F64, generator=generator) * 10.0 ** -torch.arange(COUNT)[:, None, None]
    states = torch.einsum("pq,qsn->psn", torch.randn(COUNT, COUNT, dtype=F64, generator=generator), shapes)
    times = torch.randn(COUNT, 3, dtype=F64, generator=generator)
    return network, x, at, states, times, asked


def along(scene, tolerance):
    network, x, at, states, times, _ = scene

    def one(state, time):
        return torch.func.jvp(lambda x, *at: spanned(network, x, At(*at), tolerance), (x, *at), (state, *time.unbind()))

    with torch.no_grad():
        return torch.func.vmap(one, out_dims=(None, 0))(states, times)


def exact(scene):
    network, x, at, states, times, _ = scene
    found = [torch.func.jvp(lambda x, *at: network(x, At(*at)), (x, *at), (s, *t.unbind())) for s, t in zip(states, times, strict=True)]
    return found[0][0], torch.stack([tangent for _, tangent in found])


def test_with_nothing_left_out_it_is_the_derivative(scene):
    for ours, theirs in zip(along(scene, 0.0), exact(scene), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("tolerance", [TOLERANCE, 1e-2, 0.5])
def test_what_is_left_out_is_a_share_of_the_tangents_and_no_more(scene, tolerance):
    network, x, at, states, _, asked = scene
    _, theirs = exact(scene)
    asked.clear()
    _, ours = along(scene, tolerance)
    assert len(asked) < COUNT  # the place itself, and in parts the few directions
    steepest = max(float(torch.linalg.matrix_norm(torch.func.jacrev(lambda one: network(one, at))(seed), 2)) for seed in x)
    size = states.square().sum((1, 2)).sqrt()
    off = (ours - theirs).square().sum(2) / size[:, None].square()  # [P, seeds], of tangents of length one
    whole = (states.square().sum(2) / size[:, None].square()).sum(0)
    assert bool((off.sum(0) <= tolerance * steepest**2 * whole * 1.0001).all())


def test_tangents_that_are_nothing_cost_nothing(scene):
    network, x, at, states, times, asked = scene
    _, moved = along((network, x, at, 0 * states, 0 * times, asked), TOLERANCE)
    assert not moved.any()
    assert len(asked) == 1  # the answer itself


def test_the_time_alone_is_asked_for_once_however_many_tell_it(scene):
    network, x, at, states, times, asked = scene
    here = network, x, at, 0 * states, times[:, :1] * torch.tensor([1.0, 0.0, 0.0], dtype=F64), asked
    torch.testing.assert_close(along(here, TOLERANCE)[1], exact(here)[1])


def test_what_has_gone_astray_breaks_nothing(scene):
    network, x, at, states, times, asked = scene
    astray = states.clone()
    astray[3, 1, 5] = torch.nan
    assert bool(along((network, x, at, astray, times, asked), TOLERANCE)[1].isfinite().all())
