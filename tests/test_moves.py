"""Moves: what they keep, where they end, and what they refuse. Over random schedules of several processes."""

import pytest
from omegaconf import OmegaConf
from rich.progress import Progress
from test_campaign import ROOT, SMALL
from test_space import PROCESSES, random_points

from search.campaign import campaign
from search.errors import CampaignError
from search.gaps import LIMIT
from search.moves import deleted, evaluations, fitted, inserted, neighbours, transplanted
from search.proposals import enqueued
from search.settings import settings
from search.space import Space
from solvers import SolverSchedule, Step, compile, named_grid, preset, process, save

EPD = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "space" / "epd.yaml"))


def schedules(name: str, nfe: int = 5, count: int = 6) -> list[SolverSchedule]:
    space = Space(*PROCESSES[name], nfe)
    return [space.decode(params) for params in random_points(space, count)]


def levels(schedule: SolverSchedule) -> list[float]:
    most = float(schedule.process.lambda_of(0.0)) if schedule.process.t_clean < 0 else LIMIT
    return [min(max(float(schedule.process.lambda_of(t)), -LIMIT), most) for t in schedule.times]


@pytest.mark.parametrize("name", PROCESSES)
def test_what_is_inserted_can_be_deleted_again(name):
    for schedule in schedules(name):
        for i in range(5):
            longer = inserted(schedule, i)
            assert compile(longer).nfe == 6
            assert set(schedule.times) < set(longer.times)
            assert deleted(longer, i + 1) == schedule


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("nfe", [1, 3, 4, 5, 6, 9])
def test_a_schedule_fits_every_budget_between_the_same_ends_and_has_a_point_in_its_space(name, nfe):
    space = Space(*PROCESSES[name], nfe)
    for schedule in schedules(name):
        moved = fitted(schedule, nfe)
        assert compile(moved).nfe == nfe
        assert (moved.times[0], moved.times[-1]) == (schedule.times[0], schedule.times[-1])
        assert compile(space.decode(space.nearest(moved))).nfe == nfe
        for other in neighbours(schedule, nfe) if nfe != 5 else ():
            assert evaluations(other) == nfe


def test_the_widest_step_is_cut_and_the_narrowest_pair_is_joined():
    where = process("ve", sigma_max=80.0)
    grid = preset("ddim", [80.0, 70.0, 60.0, 0.1, 0.02], where)
    assert fitted(grid, 5).times == pytest.approx([80.0, 70.0, 60.0, 6.0**0.5, 0.1, 0.02])
    assert fitted(grid, 3).times == pytest.approx([80.0, 60.0, 0.1, 0.02])


def test_a_first_step_whose_answer_costs_nothing_is_no_evaluation():
    where = process("ve", sigma_max=80.0)
    schedule = SolverSchedule(where, 80.0, (Step(to=40.0, answer="zero-x0"), Step(to=5.0), Step(to=0.02)))
    assert evaluations(schedule) == compile(schedule).nfe == 2
    assert all(evaluations(fitted(schedule, nfe)) == compile(fitted(schedule, nfe)).nfe == nfe for nfe in (1, 2, 3, 4))


@pytest.mark.parametrize("there", PROCESSES)
@pytest.mark.parametrize("here", PROCESSES)
def test_a_schedule_on_another_process_keeps_its_noise_levels_between_the_ends(here, there):
    where, start, end = PROCESSES[here]
    for schedule in schedules(there):
        moved = transplanted(schedule, where, start, end)
        low, *inner, high = levels(moved)
        assert (moved.start, moved.times[-1]) == (start, end)
        assert inner == pytest.approx([level for level in levels(schedule)[1:-1] if low < level < high], abs=1e-6)
        assert {step.order for step in moved.steps} <= {step.order for step in schedule.steps}
    if here == there:
        assert all(transplanted(schedule, where, start, end) == schedule for schedule in schedules(there))


def warm(*paths):
    return campaign(settings(SMALL | {"nfe": 4, "warm": [str(path) for path in paths]}), Progress(disable=True)).warm


def test_files_and_directories_start_a_campaign_each_once_and_named(tmp_path):
    where = process("vp-linear")
    files = []
    for solver in ("ddim", "unipc-2"):
        schedule = preset(solver, named_grid("karras", where, 5, 1.0, 1e-3), where)
        files.append(save(compile(schedule), tmp_path / "a" / f"{solver}.schedule.json", recipe=schedule))
    save(compile(schedule), tmp_path / "a" / "learned.schedule.json", process=where)  # rows alone, as a learner leaves them
    found = warm(tmp_path / "a", tmp_path / "a" / "ddim.schedule.json")
    assert [start.origin for start in found] == ["warm: ddim", "warm: unipc-2"]
    assert [start.id for start in found] == [file.id for file in files]
    heun = preset("heun", named_grid("karras", where, 3, 1.0, 1e-3), where)
    save(compile(heun), tmp_path / "a" / "heun.schedule.json", recipe=heun)  # passed over in a directory, and so is what is in our own
    save(compile(schedule), tmp_path / "own" / "own.schedule.json", recipe=schedule)
    told = {"nfe": 4, "warm": [str(tmp_path)], "directory": str(tmp_path / "own")}
    assert [start.origin for start in campaign(settings(SMALL | told), Progress(disable=True)).warm] == ["warm: ddim", "warm: unipc-2"]


def test_a_guessed_first_answer_is_asked_for_where_the_space_has_none(tmp_path):
    where = process("vp-linear")
    times = named_grid("karras", where, 5, 1.0, 1e-3)
    steps = [Step(to=t, answer="network" if i else "unit-eps") for i, t in enumerate(times[1:])]
    save(compile(schedule := SolverSchedule(where, 1.0, tuple(steps))), tmp_path / "guess.schedule.json", recipe=schedule)
    ours = campaign(settings(SMALL | {"nfe": 4, "warm": [str(tmp_path / "guess.schedule.json")]}), Progress(disable=True))
    params, origin = enqueued(ours, [])[0]
    assert origin == "warm: guess"
    assert compile(ours.space.decode(params)).nfe == 4


def test_parallel_steps_are_refused_over_several_budgets():
    with pytest.raises(CampaignError, match="one NFE and no warm starts"):
        campaign(settings(SMALL | {"nfe": [5, 8], "space": EPD, "budget": {"trials": 64}}), Progress(disable=True))


def test_what_cannot_be_taken_along_is_refused_in_one_sentence(tmp_path):
    where = process("ve", sigma_max=80.0)
    heun = preset("heun", named_grid("karras", where, 3, 80.0, 0.02), where)
    save(compile(heun), tmp_path / "heun.schedule.json", recipe=heun)
    save(compile(heun), tmp_path / "rows.schedule.json", process=where)
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        ("heun.schedule.json", "steps of method heun"),
        ("rows.schedule.json", "rows but no recipe"),
        ("empty", "holds no .schedule.json"),
    ):
        with pytest.raises(CampaignError, match=sentence) as caught:
            warm(tmp_path / path)
        assert "\n" not in str(caught.value)
