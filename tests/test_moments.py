"""Weights of few points: exact ones by another route, and what every word keeps."""

import itertools

import pytest
import torch
from oracle import CASES, Case
from test_solver_laws import point_mass_defect

from solvers import SolverSchedule, Step, compile
from solvers.moments import Formula
from solvers.quadrature import gauss_legendre, lagrange

F64 = torch.float64
WORDS = ["exact", "bh1", "bh2", "half", "slip", "difference", "gamma", "vary"]


@pytest.mark.parametrize("nodes", [[-0.7], [-0.4, -1.1], [-0.3, -1.5, 1.0], [-1.0, -2.0, -3.0, 1.0]])
def test_powers_are_the_coefficients_of_the_lagrange_polynomials(nodes: list[float]):
    thetas = [torch.tensor(n, dtype=F64) for n in nodes]
    one = torch.ones((), dtype=F64)
    formula = Formula(thetas, one, one, one, lambda: [], "past")
    theta, _ = gauss_legendre()
    for j in range(len(nodes)):
        powers = sum(c * theta ** (k + 1) for k, c in enumerate(formula.powers(j)))
        torch.testing.assert_close(powers, lagrange([torch.zeros((), dtype=F64), *thetas], j + 1, theta), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("space", "moment"), [pair for pair in itertools.product(("x0", "eps", "flow"), WORDS) if pair != ("flow", "bh1")])
def test_every_word_keeps_a_point_mass(space: str, moment: str, case: Case):
    for clean in (False, True):
        times = case.grid(5, clean)
        steps = [Step(to=t, space=space, order=min(4, i + 1), corrector=min(3, i + 1), moment=moment) for i, t in enumerate(times[1:])]
        assert point_mass_defect(compile(SolverSchedule(case.process, times[0], tuple(steps))), case.process, case.start) < 1e-12


@pytest.mark.parametrize("moment", WORDS)
def test_a_word_changes_only_formulas_of_the_points_it_speaks_of(moment: str):
    p, times = CASES["vp-linear"].process, [0.9, 0.75, 0.5, 0.4, 0.2]

    def rows(moment: str) -> list:
        steps = tuple(Step(to=t, order=min(4, i + 1), moment=moment) for i, t in enumerate(times[1:]))
        return [row.terms for row in compile(SolverSchedule(p, times[0], steps)).rows]

    changed = {i for i, (one, other) in enumerate(zip(rows(moment), rows("exact"), strict=True)) if one != pytest.approx(other, rel=1e-12)}
    expected = {"bh1": {2}, "bh2": {2}, "half": {3}, "slip": {3}, "difference": {3}, "gamma": {3}}
    assert changed == expected.get(moment, set())
