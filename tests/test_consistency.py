"""The steps of consistency models: their limits and their boundary condition."""

import math

import pytest
from oracle import CASES, Case
from test_solver_laws import assert_same_sampler

from solvers import ScheduleError, SolverSchedule, Step, compile, preset


def test_lcm_gives_the_answer_all_the_signal_and_fresh_noise_all_the_noise(case: Case):
    times, p = case.grid(5, clean=False), case.process
    for i, row in enumerate(compile(preset("lcm", times, p)).rows[1:]):
        expected = {f"D{i}": float(p.alpha(times[i + 1])), f"z{i}": float(p.sigma(times[i + 1]))}
        assert row.terms == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("clean", [False, True])
def test_tcd_goes_from_ddim_to_lcm(clean: bool, case: Case):
    times = case.grid(5, clean)
    assert_same_sampler(compile(preset("tcd", times, case.process, gamma=0.0)), compile(preset("ddim", times, case.process)))
    assert_same_sampler(compile(preset("tcd", times, case.process, gamma=1.0)), compile(preset("lcm", times, case.process)))


def test_tcd_jumps_further_and_diffuses_back():
    p, gamma = CASES["flow"].process, 0.25
    terms = compile(preset("tcd", [0.9, 0.5, 0.1], p, gamma=gamma)).rows[1].terms
    quiet = (1 - gamma) * 0.5
    scale = 0.5 / (1 - quiet)
    keep = scale * quiet / 0.9
    expected = {"x0": keep, "D0": 0.5 - keep * 0.1, "z0": math.sqrt(0.25 - (scale * quiet) ** 2)}
    assert terms == pytest.approx(expected, rel=1e-12)


def test_the_boundary_condition_is_the_identity_at_time_zero_and_vanishes_above():
    p = CASES["vp-discrete"].process
    first, last = (compile(preset("lcm", [999.0, 0.0, -1.0], p, sigma_data=0.5)).rows[k].terms for k in (1, 2))
    assert last == pytest.approx({"x1": 1.0, "D1": 0.0}) or last == {"x1": 1.0}
    assert first["x0"] == pytest.approx(0.0, abs=1e-8)
    assert first["D0"] == pytest.approx(float(p.alpha(0.0)), rel=1e-8)


@pytest.mark.parametrize("gamma", [-0.1, 1.5])
def test_gamma_outside_its_range_is_one_sentence(gamma: float):
    schedule = SolverSchedule(CASES["ve"].process, 2.0, (Step(to=1.0, method="consistency", numbers={"gamma": gamma}),))
    with pytest.raises(ScheduleError, match="gamma lies between 0 and 1"):
        compile(schedule)
