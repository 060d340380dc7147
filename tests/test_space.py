"""The space of schedules: every point is a legal schedule, and what lies in it comes back."""

import itertools
from pathlib import Path

import msgspec
import numpy as np
import optuna
import pytest
import torch
from omegaconf import OmegaConf
from oracle import scaled_linear_table

from search.baselines import candidates, schedule
from search.features import describer, features
from search.s3 import Encoding
from search.space import Space, table_distance
from solvers import ScheduleError, SolverSchedule, Step, compile, preset, process
from solvers.grids import named_grid
from teacher.models import load

CONF = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in (Path(__file__).parents[1] / "conf" / "space").glob("*.yaml")}
SWITCHES = {  # what the full space leaves off, each switched on alone
    "taylor": {"method": "taylor", "counts": {"origin": [0, 1, 2], "estimate": [0, 1]}, "numbers": {"linear": [-0.5, 0.5], "exp": [0, 1]}},
    "first step": {"answer": ["network", "zero-x0", "unit-eps"]},
    "among": {"among": {"grid": "karras", "steps": 40}},
    "sde noise": {"eta": [0, 1], "space": ["x0", "eps"]},
    "ancestral noise": {"eta": [0, 1], "noise": ["ancestral", "rectified"], "corrector": [0]},
    "guidance": {"knobs": {"guidance": [1, 4]}, "given": {"guidance": 2.0}},
}
SPACES = CONF | {f"full with {name}": CONF["full"] | words for name, words in SWITCHES.items()}
PROCESSES = {
    "vp-discrete": (process("vp-discrete", alphas_cumprod=scaled_linear_table()), 999.0, 0.0),
    "vp-discrete, clean": (process("vp-discrete", alphas_cumprod=scaled_linear_table()), 999.0, -1.0),
    "ve": (process("ve", sigma_max=80.0), 80.0, 0.02),
    "vp-linear": (process("vp-linear"), 1.0, 1e-3),
    "flow": (process("flow"), 1.0, 0.0),
}


def random_points(space, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [study.ask(space.distributions()).params for _ in range(count)]


def space_of(words, where, nfe):
    return Space(*PROCESSES[where], nfe, **{name: tuple(value) if isinstance(value, list) else value for name, value in words.items()})


def budget(name, where):
    """One that the space can spend: steps of several evaluations cost one where they go to sigma = 0."""
    return 6 if name == "epd" and PROCESSES[where][2] == PROCESSES[where][0].t_clean else 5


@pytest.mark.parametrize("where", PROCESSES)
@pytest.mark.parametrize("nfe", [1, 2, 5, 9])
def test_every_point_of_the_default_space_compiles_to_that_many_evaluations(where, nfe):
    space = Space(*PROCESSES[where], nfe)
    assert space == space_of(CONF["full"], where, nfe)
    for params in random_points(space, 20):
        table = compile(space.decode(params))
        assert table.nfe == nfe
        assert all(bool(torch.isfinite(part).all()) for part in table.dense())


@pytest.mark.parametrize("where", PROCESSES)
@pytest.mark.parametrize("name", SPACES)
def test_a_point_of_any_space_costs_the_budget_and_its_schedule_comes_back_to_the_same_table(name, where):
    nfe = budget(name, where)
    space = space_of(SPACES[name], where, nfe)
    encoding = Encoding(space.distributions())
    for params in random_points(space, 8):
        there = space.decode(params)
        table, again = compile(there), space.encode(there)
        assert table.nfe == nfe
        assert table_distance(compile(space.decode(again)), table, space.given) < 1e-9
        assert set(again) == set(params)
        points = encoding.points([again])
        told = encoding.params(points.numbers[0], points.words[0])
        assert table_distance(compile(space.decode(told)), table, space.given) < 1e-6  # as the sampler would breed from it


def test_with_a_first_step_that_asks_nobody_a_candidate_takes_a_step_more():
    space = space_of(CONF["full"], "ve", 5)
    assert {"answer0", "gap5", "order5"} < set(space.distributions())
    lengths = {(s.steps[0].answer, len(s.steps)) for s in map(space.decode, random_points(space, 20))}
    assert lengths == {("network", 5), ("unit-eps", 6)}


def test_a_space_of_several_evaluations_a_step_takes_as_many_steps_as_the_budget_pays_for():
    assert len(space_of(CONF["epd"], "ve", 8).decode({}).steps) == 3  # 2 + 3 + 3
    with pytest.raises(ScheduleError, match="No number of steps of method 'parallel' spends exactly 7"):
        space_of(CONF["epd"], "ve", 7)


def test_every_time_that_autodiffusion_chooses_is_a_time_step_of_the_training():
    space = space_of(CONF["autodiffusion"], "vp-discrete", 9)
    for params in random_points(space, 20):
        times = space.decode(params).times
        assert all(t == round(t) for t in times)
        assert len(set(times)) == 10
    crowded = space.decode({f"gap{i}": 0.001 for i in range(1, 9)})
    assert crowded.times[:9] == tuple(range(999, 990, -1))
    with pytest.raises(ScheduleError, match="8 times cannot be chosen among 5"):
        space_of(CONF["autodiffusion"] | {"among": {"grid": "uniform", "steps": 6}}, "vp-discrete", 9)


@pytest.mark.parametrize(
    ("space", "solver", "options"),
    [
        ("usf", "usf", {"order": 3, "space": "eps", "estimate": 1, "linear": 0.2, "exp": -0.1, "corrector": 3, "answer": "zero-x0"}),
        ("usf", "dpmpp-2m", {}),
        ("usf", "unipc-3", {"moment": "bh1", "tail": "full"}),
        ("ld3", "unipc-3", {"tail": "full"}),
        ("autodiffusion", "ddim", {}),
        ("epd", "epd", {"answer": "unit-eps"}),
        ("full with sde noise", "sa-solver", {"corrector": 3, "moment": "exact"}),
        ("full with guidance", "dpmpp-2m", {}),
    ],
)
def test_a_published_solver_lies_in_the_space_of_its_authors(space, solver, options):
    where = "vp-discrete" if space == "autodiffusion" else "ve"
    here, start, end = PROCESSES[where]
    grid = (
        [999.0, 801.0, 500.0, 100.0, 20.0, 0.0]
        if space == "autodiffusion"
        else named_grid("karras", here, 3 if space == "epd" else 5, start, end)
    )
    there = preset(solver, grid, here, **options)
    space = space_of(SPACES[space], where, compile(there).nfe)
    assert table_distance(compile(space.decode(space.encode(there))), compile(there), space.given) < 1e-9


def test_knobs_belong_to_a_schedule_and_come_back():
    space = space_of(SPACES["full with guidance"], "ve", 3)
    steps = tuple(Step(to=to, knobs={"guidance": scale}) for to, scale in ((10.0, 3.0), (1.0, 1.5), (0.02, 1.0)))
    there = SolverSchedule(space.process, 80.0, steps)
    assert [s.knobs["guidance"] for s in space.decode(space.encode(there)).steps] == [3.0, 1.5, 1.0]
    other = SolverSchedule(space.process, 80.0, (*steps[:2], msgspec.structs.replace(steps[2], knobs={"guidance": 9.0})))
    with pytest.raises(ScheduleError, match="does not lie in the space"):
        space.encode(other)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"eta": [0, 1]}, "Noise of kind 'sde' is not defined in space 'flow'"),
        ({"eta": [0, 1], "noise": ["ancestral"]}, "A corrector cannot follow ancestral noise"),
        ({"method": "taylor", "space": ["x0"], "eta": [0, 1]}, "cannot inject noise"),
        ({"moment": ["bh1"]}, "bh1 moment is defined"),
        ({"knobs": {"guidance": [1, 4]}}, "not asked with a knob 'guidance'"),
        ({"relax": [1.5, 0.5]}, "The range of relax"),
        ({"method": "nowhere"}, "wants method 'nowhere'"),
        ({"numbers": {"linear": [0, 1]}}, "has no number linear"),
        ({"counts": {"origin": []}}, "leaves no origin"),
        ({"answer": []}, "leaves no answer"),
        ({"times": [0, 1]}, "between 0 and 1"),
        ({"times": [0.1]}, "The range of times"),
        ({"times": []}, "The range of times"),
        ({"label": [-5, 5]}, "space.label lies in -1 to 1"),
        ({"relax": [-100, 100]}, "cannot have this relax"),
        ({"among": {"grid": "karras"}}, "'steps' is missing"),
    ],
)
def test_words_that_exclude_each_other_are_refused_in_a_sentence(words, message):
    with pytest.raises(ScheduleError, match=message):
        space_of(CONF["full"] | words, "ve", 4)


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
    words = {"answer": ("network",), "order": (2,), "space": ("x0",), "domain": ("lambda",), "moment": ("bh2",), "corrector": (0,)}
    space = Space(*PROCESSES["ve"], 5, **words, relax=(1, 1), label=(0, 0))
    assert set(space.distributions()) == {"gap1", "gap2", "gap3", "gap4"}
    schedules = [space.decode(params) for params in random_points(space, 5)]
    assert all(step.order in (1, 2) and step.space == "x0" and step.relax == 1 for s in schedules for step in s.steps)


@pytest.mark.parametrize("where", PROCESSES)
@pytest.mark.parametrize("name", SPACES)
def test_the_features_of_a_space_are_as_many_for_every_point_finite_and_those_of_the_table(name, where):
    space = space_of(SPACES[name], where, budget(name, where))
    describe = describer(space)
    found = [describe(params) for params in random_points(space, 8)]
    assert len({len(one) for one in found}) == 1
    assert np.isfinite(found).all()
    for params, one in zip(random_points(space, 8), found, strict=True):
        again = space.encode(space.decode(params))
        np.testing.assert_allclose(describe(again), one, rtol=1e-7, atol=1e-7)


def test_words_that_make_the_same_sampler_have_the_same_features():
    where, start, end = PROCESSES["vp-linear"]
    times = named_grid("karras", where, 4, start, end)
    schedules = [SolverSchedule(where, start, tuple(Step(to=t, space=space) for t in times[1:])) for space in ("x0", "eps", "flow")]
    first, *others = [features(compile(made), where) for made in schedules]
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nfe", [10, 64])
@pytest.mark.parametrize("where", PROCESSES)
@pytest.mark.parametrize("end", [0, 1])
def test_times_decrease_however_far_each_step_goes(where, nfe, end):
    space = Space(*PROCESSES[where], nfe)
    (params,) = random_points(space, 1)
    times = space.decode(params | {name: space.times[end] for name in params if name.startswith("gap")}).times
    assert all(after < before for before, after in itertools.pairwise(times))


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


@pytest.mark.parametrize("where", PROCESSES)
@pytest.mark.parametrize(("grid", "options"), [("karras", {"rho": 7.0}), ("polynomial", {"power": 12.0})])
def test_every_known_solver_has_a_nearest_point_however_steep_its_grid(where, grid, options):
    p, start, end = PROCESSES[where]
    known = preset("dpmpp-2m", named_grid(grid, p, 9, start, end, **options), p)
    space = Space(p, start, end, len(known.steps))
    assert compile(space.decode(space.nearest(known))).nfe == space.nfe


def test_a_grid_whose_last_noise_is_the_last_trained_one_lies_in_the_space():
    p, start, end = PROCESSES["vp-discrete, clean"]
    known = preset("unipc-2", named_grid("karras", p, 6, start, end), p)
    space = Space(p, start, end, 6)
    assert known.times[-2:] == (0.0, -1.0)
    assert space.decode(space.encode(known)).times == pytest.approx(known.times, abs=1e-9)
