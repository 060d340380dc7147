"""The space of schedules: every point is a legal schedule, and what lies in it comes back."""

import optuna
import pytest
import torch

from search.baselines import candidates, schedule
from search.space import Space, table_distance
from solvers import ScheduleError, compile, preset, process
from solvers.grids import named_grid
from teacher.models import load

PROCESSES = {
    "ve": (process("ve", sigma_max=80.0), 80.0, 0.02),
    "vp-linear": (process("vp-linear"), 1.0, 1e-3),
    "flow": (process("flow"), 1.0, 0.0),
}


def random_points(space, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [study.ask(space.distributions()).params for _ in range(count)]


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("nfe", [1, 2, 5, 9])
def test_every_point_of_the_space_compiles_to_that_many_evaluations(name, nfe):
    space = Space(*PROCESSES[name], nfe)
    for params in random_points(space, 20):
        table = compile(space.decode(params))
        assert table.nfe == nfe
        assert all(bool(torch.isfinite(part).all()) for part in table.dense())


@pytest.mark.parametrize("name", PROCESSES)
def test_a_decoded_schedule_encodes_to_a_point_with_the_same_table(name):
    space = Space(*PROCESSES[name], 6)
    for params in random_points(space, 20):
        there = space.decode(params)
        assert table_distance(compile(space.decode(space.encode(there))), compile(there)) < 1e-9


@pytest.mark.parametrize("solver", ["ddim", "euler", "dpmpp-2m", "unipc-2", "unipc-3", "ipndm", "deis-tab3"])
def test_known_multistep_solvers_lie_in_the_full_space(solver):
    where, start, end = PROCESSES["ve"]
    space = Space(where, start, end, 7)
    there = preset(solver, named_grid("karras", where, 7, start, end), where)
    assert table_distance(compile(space.decode(space.encode(there))), compile(there)) < 1e-9


def test_a_two_stage_solver_lies_outside_and_says_so():
    where, start, end = PROCESSES["ve"]
    with pytest.raises(ScheduleError, match="does not lie in the space"):
        Space(where, start, end, 6).encode(preset("heun", named_grid("karras", where, 3, start, end), where))


def test_a_word_that_is_switched_off_is_no_parameter_and_no_choice():
    space = Space(
        *PROCESSES["ve"], 5, order=(2,), space=("x0",), domain=("lambda",), moment=("bh2",), corrector=(0,), relax=(1, 1), label=(0, 0)
    )
    assert set(space.distributions()) == {"gap1", "gap2", "gap3", "gap4"}
    schedules = [space.decode(params) for params in random_points(space, 5)]
    assert all(step.order in (1, 2) and step.space == "x0" and step.relax == 1 for s in schedules for step in s.steps)


def test_an_empty_choice_or_a_bad_budget_is_refused():
    with pytest.raises(ScheduleError, match="leaves no order"):
        Space(*PROCESSES["ve"], 5, order=())
    with pytest.raises(ScheduleError, match="nfe"):
        Space(*PROCESSES["ve"], 0)


@pytest.mark.parametrize("nfe", [3, 5, 6])
def test_the_known_solvers_are_at_least_as_many_as_asked_and_spend_exactly_the_budget(nfe):
    teacher = load("gaussian")
    known = candidates(teacher, nfe, 200)
    assert len(known) >= 200
    assert len({(k.solver, str(k.options), k.grid, str(k.grid_options)) for k in known}) == len(known)
    assert all(compile(schedule(k, teacher)).nfe == nfe for k in known[::17])
