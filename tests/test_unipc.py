"""UniP and UniPC: which of them are the same, and what the vary_coeff of uni_pc.py makes of its corrector."""

import math
from itertools import pairwise

import pytest
import torch
from oracle import CASES, Case
from test_solver_laws import SMOOTH, assert_same_sampler, slope
from torch import Tensor

from solvers import SolverSchedule, Step, compile, preset

F64 = torch.float64


def test_unip_3_is_the_exact_exponential_adams_method(case: Case):
    times = [t for t in case.grid(7, clean=True) if case.process.alpha(t) > 0]
    adams = [Step(to=t, order=min(3, i + 1), moment="exact" if i != 1 else "bh2") for i, t in enumerate(times[1:])]
    assert_same_sampler(
        compile(preset("unip-3", times, case.process, tail="full")), compile(SolverSchedule(case.process, times[0], tuple(adams)))
    )


def test_bh1_and_bh2_differ_only_in_formulas_of_two_points():
    p, times = CASES["vp-linear"].process, [0.9, 0.8, 0.65, 0.5, 0.3, 0.1]
    one, two = (
        {row.slot: row.terms for row in compile(preset("unipc-3", times, p, moment=moment, tail="full")).rows} for moment in ("bh1", "bh2")
    )
    for slot in one:
        same = all(one[slot][k] == pytest.approx(two[slot][k], rel=1e-12) for k in one[slot])
        assert same == (slot not in ("x2", "c1"))  # the predictor of two points, the corrector of one


def phis(h: Tensor, count: int) -> list[Tensor]:
    """h phi_1(-h), h phi_2(-h), ... of uni_pc.py, up to sign: expm1(-h), then each divided by -h, less 1 / k!."""
    found = [torch.expm1(-h)]
    for k in range(1, count):
        found.append(found[-1] / -h - 1 / math.factorial(k))
    return found


def vary_corrector(lam: Tensor, i: int, order: int) -> Tensor:
    """What the vary_coeff corrector of uni_pc.py gives D_k - D_i (k = i-1, ..., then i+1), per -alpha_t: its loops, written again."""
    h = lam[i + 1] - lam[i]
    rks = torch.stack([*((lam[i - k] - lam[i]) / h for k in range(1, order)), torch.ones((), dtype=F64)])
    inverse = torch.linalg.inv(torch.stack([rks**k / math.factorial(k + 1) for k in range(order)], 1))
    phi = phis(h, order + 1)
    weights = torch.zeros(order, dtype=F64)
    for k in range(order - 1):  # not to `order`: the last row never acts on history
        weights[:-1] += phi[k + 1] * inverse[k, :-1] / rks[:-1]
    weights[-1] = phi[order] * inverse[max(order - 2, 0), -1]  # and the loop's last k is the only row for the new point
    return weights


def test_vary_is_the_corrector_of_uni_pc_and_its_predictor_is_exact():
    p, times = CASES["vp-linear"].process, [0.95, 0.7, 0.52, 0.4, 0.26, 0.15, 0.1]
    lam, alpha = p.lambda_of(torch.tensor(times, dtype=F64)), p.alpha(torch.tensor(times, dtype=F64))
    table = {
        kind: {row.slot: row.terms for row in compile(preset("unipc-3", times, p, moment=kind, tail="full")).rows}
        for kind in ("vary", "exact")
    }
    for i in range(len(times) - 2):
        order, terms = min(3, i + 1), table["vary"][f"c{i + 1}"]
        slots = [*(f"D{i - k}" for k in range(1, order)), f"D{i + 1}"]
        found = torch.tensor([terms[slot] for slot in slots], dtype=F64)
        torch.testing.assert_close(found, -alpha[i + 1] * vary_corrector(lam, i, order), rtol=1e-10, atol=1e-13)
        for slot, weight in table["exact"][f"x{i + 1}"].items():
            assert table["vary"][f"x{i + 1}"][slot] == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("family", SMOOTH)
def test_varying_coefficients_have_full_order_only_when_every_row_acts(family: str):
    def measured(moment: str) -> float:
        steps = lambda times: preset("unipc-3", times, CASES[family].process, moment=moment, tail="full")  # noqa: E731
        return slope(family, steps, (96, 192), rough=False)

    assert measured("exact") >= 3.8
    assert 0.8 <= measured("vary") <= 1.2


def test_a_corrector_moves_the_state_and_not_the_evaluation(case: Case):
    rows = compile(preset("unipc-2", case.grid(4, clean=False), case.process)).rows
    assert [row.slot for row in rows if row.evaluation] == ["x0", "x1", "x2", "x3"]
    for before, after in pairwise(row for row in rows if row.slot.startswith("c")):
        assert before.slot in after.terms
