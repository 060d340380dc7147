"""SA-Solver: its limits, its windows, its noise."""

import itertools
import re

import pytest
import torch
from drift import drift_slope, sde
from oracle import CASES, Case, PointMass, sample
from test_solver_laws import SMOOTH, assert_same_sampler, point_mass_defect

from solvers import ScheduleError, compile, preset

F64 = torch.float64


@pytest.mark.parametrize("moment", ["bh1", "exact"])
def test_without_noise_it_is_unipc(moment: str, case: Case):
    times = case.grid(8, clean=True)
    ours = compile(preset("sa-solver", times, case.process, tau=0.0, moment=moment))
    assert_same_sampler(ours, compile(preset("unipc-3", times, case.process, moment=moment)))


def test_without_noise_and_corrector_it_is_exponential_adams(case: Case):
    times = case.grid(8, clean=True)
    ours = compile(preset("sa-solver", times, case.process, tau=0.0, corrector=0, moment="exact", tail="full"))
    assert_same_sampler(ours, compile(preset("res-3m", times, case.process)))


@pytest.mark.parametrize("name", ["sa-solver", "sa-solver-pece"])
def test_predictor_and_corrector_of_a_step_receive_the_same_noise(name: str, case: Case):
    table = compile(preset(name, case.grid(6, clean=True), case.process, window="whole"))
    rows = {row.slot: {slot: c for slot, c in row.terms.items() if re.fullmatch(r"z\d+", slot)} for row in table.rows}
    for i in range(1, 6):
        assert len(rows[f"x{i}"]) == 1
        assert rows[f"x{i}"] == rows[f"c{i}"]
    assert len(table.noises) == 5


def test_pece_asks_again_at_the_corrected_state_and_forgets_the_first_answer(case: Case):
    table = compile(preset("sa-solver-pece", case.grid(5, clean=False), case.process))
    asked = [row.slot for row in table.rows if row.evaluation]
    assert asked == ["x0", *itertools.chain.from_iterable((f"x{i}", f"c{i}") for i in range(1, 5))]
    for row in table.rows:
        for slot in row.terms:
            if slot.startswith("D") and asked[int(slot[1:])].startswith("x") and slot != "D0":
                assert row.slot == "c" + asked[int(slot[1:])][1:]  # a predicted state's answer serves its own corrector alone


@pytest.mark.parametrize("family", SMOOTH)
@pytest.mark.parametrize("name", ["sa-solver", "sa-solver-pece"])
def test_its_drift_has_the_order_of_predictor_and_corrector(name: str, family: str):
    # the last step has no noise in it whatever tau is, so tau_at="start" is the sampler of one SDE
    options = {"tau": 0.5**0.5, "window": "whole", "tau_at": "start", "tail": "full", "moment": "exact"}
    measured = drift_slope(lambda times: preset(name, times, CASES[family].process, **options), family, sde(0.5), 96)
    assert measured >= 4 - 0.2


@pytest.mark.parametrize(("family", "inside", "outside"), [("ve", (0.9, 0.06), (2.0, 0.03)), ("vp-linear", (0.7, 0.3), (0.85, 0.1))])
def test_noise_is_injected_inside_the_window_alone(family: str, inside: tuple, outside: tuple):
    p = CASES[family].process
    start = 5.0 if family == "ve" else 0.95
    times = sorted({start, *inside, *outside, p.t_clean}, reverse=True)
    for tau_at, shift in (("end", 1), ("start", 0)):
        steps = preset("sa-solver", times, p, tau_at=tau_at).steps
        assert {times[i + shift] for i, step in enumerate(steps) if step.eta} == set(inside)
    assert all(step.eta for step in preset("sa-solver", times, p, window="whole").steps[:-1])
    assert preset("sa-solver", times, p, window="whole").steps[-1].eta == 0
    assert preset("sa-solver", times, p, window="whole", tau_at="start").steps[-1].eta == 1


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_its_rows_carry_exactly_the_variance_of_a_point_mass(tau: float, case: Case):
    for name in ("sa-solver", "sa-solver-pece"):
        table = compile(preset(name, case.grid(7, clean=False), case.process, tau=tau, window="whole", tau_at="start"))
        assert point_mass_defect(table, case.process, case.start) < 1e-12


def test_the_noise_form_carries_it_only_in_the_limit_of_small_steps():
    p, defects = CASES["vp-linear"].process, []
    for count in (40, 80):
        times = torch.linspace(0.9, 0.2, count + 1, dtype=F64).tolist()
        table = compile(preset("sa-solver", times, p, tau=1.0, window="whole", space="eps", moment="exact"))
        defects.append(point_mass_defect(table, p, times[0]))
    assert defects[1] > 1e-4
    assert defects[0] > 2 * defects[1]


def test_a_clean_end_is_the_point_itself_in_the_noise_form_where_the_last_answer_was_given_at_the_last_state():
    case, point = CASES["ve"], torch.linspace(-1, 1, 4, dtype=F64)
    table = compile(preset("sa-solver-pece", case.grid(6, clean=True), case.process, window="whole", space="eps"))
    x = 80 * torch.ones(1, 4, dtype=F64)
    torch.testing.assert_close(sample(PointMass(point), x, table, noise=[3])[0], point, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"window": "late"}, {"tau_at": "middle"}, {"corrector": 1}, {"tail": "short"}])
def test_an_unknown_word_is_answered_with_the_known_ones(options: dict):
    with pytest.raises(ScheduleError, match="There is no"):
        preset("sa-solver", [1.0, 0.5, 0.1], CASES["ve"].process, **options)
