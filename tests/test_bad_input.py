"""What cannot be used is refused with one ScheduleError that a user understands: one sentence, saying what was wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import CASES, EVERYWHERE
from torch import Tensor

import solvers.prediction as prediction
from solvers import (
    Evaluation,
    Row,
    ScheduleError,
    SolverSchedule,
    Step,
    Tableau,
    advance,
    begin,
    compile,
    lambdas,
    named_grid,
    preset,
    preset_for_nfe,
    process,
    sample,
    sigmas,
    times,
)

VE, VP, FLOW, DISCRETE = (CASES[name].process for name in ("ve", "vp-linear", "flow", "vp-discrete"))
GRID = [10.0, 3.0, 1.0, 0.0]
NAN, INF = float("nan"), float("inf")


every_preset = pytest.mark.parametrize("name", EVERYWHERE)


def refused(call: Callable[[], Any], *words: str) -> None:
    """`call` raises ScheduleError, in one sentence that holds every one of `words`."""
    with pytest.raises(ScheduleError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert not message.endswith("..")
    assert len(message) < 300
    for word in words:
        assert word in message


# --------------------------------------------------------------------------------------------------------------- grids


@every_preset
def test_every_preset_refuses_times_that_do_not_decrease(name: str):
    refused(lambda: preset(name, [10.0, 3.0, 3.0, 0.0], VE), "decrease")
    refused(lambda: preset(name, [1.0, 3.0], VE), "decrease")


@every_preset
def test_every_preset_refuses_times_outside_its_process(name: str):
    refused(lambda: preset(name, [1.1, 0.5], FLOW), "1.1", "flow")
    refused(lambda: preset(name, [1.0, -0.1], FLOW), "-0.1", "flow")
    refused(lambda: preset(name, [1000.0, 3.0], DISCRETE), "vp-discrete")
    refused(lambda: preset(name, [999.0, -0.5], DISCRETE), "vp-discrete")
    refused(lambda: preset(name, [1.0, NAN, 0.0], VP), "nan")
    refused(lambda: preset(name, [INF, 1.0], VE), "inf")


@pytest.mark.parametrize("grid", [[], [1.0]])
def test_fewer_than_two_points_are_no_grid(grid: list[float]):
    refused(lambda: preset("ddim", grid, VE), "two points")


def test_grids_in_other_units_are_checked_too():
    refused(lambda: preset("ddim", times([1.0, 2.0]), VE), "decrease")
    refused(lambda: preset("ddim", sigmas([3.0, -1.0]), VE))
    refused(lambda: preset("ddim", lambdas([1.0, -1.0]), VP), "decrease")
    refused(lambda: preset("ddim", sigmas([1.5, 0.5]), FLOW), "flow")


def test_named_grids_refuse_what_they_cannot_place():
    refused(lambda: named_grid("cosine", VE, 5, 10.0, 0.1), "cosine", "karras")
    refused(lambda: named_grid("karras", VE, 0, 10.0, 0.1), "step")
    refused(lambda: named_grid("karras", VE, -3, 10.0, 0.1), "step")
    refused(lambda: named_grid("karras", VE, 5, 0.1, 10.0), "noisier")
    refused(lambda: named_grid("uniform", FLOW, 5, 1.2, 0.0), "flow")
    refused(lambda: named_grid("log-snr", VE, 5, 10.0, 0.0), "sigma > 0")
    refused(lambda: named_grid("log-snr", FLOW, 5, 1.0, 0.1), "alpha > 0")


@pytest.mark.parametrize("options", [{"colour": 1.0}, {"rho": 0.0}, {"rho": NAN}, {"rho": -7.0}, {"power": 2.0}])
def test_named_grids_refuse_options_that_they_do_not_take(options: dict):
    refused(lambda: named_grid("karras", VE, 5, 10.0, 0.1, **options))


# ------------------------------------------------------------------------------------------------------ names and options


def test_unknown_names_are_answered_with_the_known_ones():
    refused(lambda: preset("dpmpp-9m", GRID, VE), "dpmpp-9m", "dpmpp-2m")
    refused(lambda: preset_for_nfe("dpmpp-9m", 3, "karras", VE, 10.0, 0.1), "dpmpp-9m", "dpmpp-2m")
    refused(lambda: preset_for_nfe("ddim", 3, "cosine", VE, 10.0, 0.1), "cosine", "karras")
    refused(lambda: process("vp-square"), "vp-square", "vp-linear")
    refused(lambda: compile(SolverSchedule(VE, 10.0, (Step(to=1.0, method="magic"),))), "magic", "multistep")
    early = (Step(to=1.0, method="restart", order=2), Step(to=0.5))
    refused(lambda: compile(SolverSchedule(VE, 10.0, early)), "Step 0", "1 steps before")
    refused(lambda: prediction.to_denoised("score", *[torch.ones(1)] * 4), "score", "eps")
    refused(lambda: prediction.from_denoised("score", *[torch.ones(1)] * 4), "score", "eps")


@every_preset
def test_every_preset_refuses_an_unknown_option(name: str):
    refused(lambda: preset(name, GRID, VE, colour="red"), name, "colour")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpmpp-2m", {"moment": "bh3"}),
        ("unipc-2", {"moment": "bh3"}),
        ("unipc-3", {"tail": "long"}),
        ("ipndm", {"order": 0}),
        ("ipndm", {"order": 9}),
        ("ipndm", {"order": 1.5}),
        ("ddim", {"eta": -0.1}),
        ("ddim", {"eta": NAN}),
        ("ddim", {"eta": INF}),
        ("ddim", {"eta": "full"}),
    ],
    ids=str,
)
def test_a_preset_refuses_a_value_that_its_option_cannot_have(name: str, options: dict):
    refused(lambda: preset(name, [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], VE, **options))


@pytest.mark.parametrize("nfe", [0, -1, 2.5])
def test_a_budget_is_a_positive_whole_number(nfe: Any):
    refused(lambda: preset_for_nfe("ddim", nfe, "karras", VE, 10.0, 0.1), "nfe")


def test_a_budget_that_a_method_cannot_spend_exactly_is_refused():
    refused(lambda: preset_for_nfe("heun", 4, "karras", VE, 10.0, 0.0), "exactly 4")
    refused(lambda: preset_for_nfe("heun", 5, "karras", VE, 10.0, 0.1), "exactly 5")


@pytest.mark.parametrize(
    "words",
    [
        {"to": NAN},
        {"relax": INF},
        {"eta": NAN},
        {"eta": -1.0},
        {"label": NAN},
        {"knobs": {"guidance": NAN}},
        {"space": "x1"},
        {"domain": "sigma"},
        {"moment": "bh3"},
        {"noise": "white", "eta": 1.0},
        {"order": 0},
        {"order": 5},
        {"order": -1},
        {"order": 1.5},
        {"corrector": -1},
        {"corrector": 5},
        {"eta": 1.0, "noise": "sde", "space": "flow"},
        {"eta": 1.0, "noise": "er", "space": "eps"},
        {"eta": 1.0, "corrector": 2},
        {"mode": "pecec"},
        {"moment": "bh1", "space": "flow"},
        {"moment": "bh1", "domain": "rho"},
    ],
    ids=str,
)
def test_a_step_refuses_words_and_numbers_that_mean_nothing(words: dict):
    refused(lambda: Step(**{"to": 1.0, **words}))


@pytest.mark.parametrize(
    "options",
    [
        ("vp-linear", {"beta_min": 0.0}),
        ("vp-linear", {"beta_min": 3.0, "beta_max": 1.0}),
        ("vp-linear", {"beta_max": INF}),
        ("vp-linear", {"beta_max": "20"}),
        ("vp-linear", {"colour": 1.0}),
        ("vp-cosine", {"s": 0.0}),
        ("vp-cosine", {"s": NAN}),
        ("vp-discrete", {}),
        ("vp-discrete", {"alphas_cumprod": [0.9]}),
        ("vp-discrete", {"alphas_cumprod": [0.5, 0.9]}),
        ("vp-discrete", {"alphas_cumprod": [0.9, 0.9]}),
        ("vp-discrete", {"alphas_cumprod": [1.0, 0.5]}),
        ("vp-discrete", {"alphas_cumprod": [0.9, 0.0]}),
        ("vp-discrete", {"alphas_cumprod": [0.9, NAN]}),
        ("ve", {"sigma_max": 0.0}),
        ("ve", {"sigma_max": -1.0}),
        ("ve", {"sigma_max": NAN}),
        ("flow", {"shift": 3.0}),
    ],
    ids=str,
)
def test_a_process_refuses_numbers_that_are_no_process(options: tuple):
    refused(lambda: process(options[0], **options[1]))


def test_alphas_cumprod_may_be_a_list_an_array_or_a_tensor():
    table = [0.9, 0.5, 0.1]
    found = [
        process("vp-discrete", alphas_cumprod=a) for a in (table, tuple(table), np.array(table), torch.tensor(table, dtype=torch.float64))
    ]
    assert all(p == found[0] for p in found)


# ----------------------------------------------------------------------------------------------------------- schedules


def test_a_schedule_refuses_times_it_cannot_step_through():
    refused(lambda: SolverSchedule(VE, 10.0, ()), "steps")
    refused(lambda: SolverSchedule(VE, 10.0, tuple(Step(to=10.0 - i / 200) for i in range(1, 1030))), "1024")
    refused(lambda: SolverSchedule(VE, 10.0, (Step(to=10.0),)), "decrease")
    refused(lambda: SolverSchedule(VE, 10.0, (Step(to=0.0), Step(to=0.0))), "decrease")
    refused(lambda: SolverSchedule(FLOW, 1.5, (Step(to=0.0),)), "start")
    refused(lambda: SolverSchedule(FLOW, 1.0, (Step(to=0.5), Step(to=-0.5))), "step 1")
    refused(lambda: SolverSchedule(FLOW, 1.0, (Step(to=0.5, label=1.5),)), "label")
    refused(lambda: SolverSchedule(VE, 0.0, (Step(to=0.0),)))


def test_compile_refuses_times_and_labels_of_another_length():
    schedule = preset("ddim", GRID, VE)
    refused(lambda: compile(schedule, times=torch.ones(3)), "4 times", "3")
    refused(lambda: compile(schedule, labels=torch.ones(4)), "3 labels", "4")
    refused(lambda: compile(schedule, times=torch.ones(2, 5)), "4 times", "5")


def test_a_table_refuses_rows_that_cannot_be_run():
    start = Row("x0", 1.0, {"xT": 1.0}, Evaluation(1.0, 1.0, 1.0))
    refused(lambda: Tableau(()), "row")
    refused(lambda: Tableau((start, start)), "x0")
    refused(lambda: Tableau((Row("x0", 1.0, {}),)), "no terms")
    refused(lambda: Tableau((Row("x0", 1.0, {"D0": 1.0}, Evaluation(1.0, 1.0, 1.0)),)), "D0")
    refused(lambda: Tableau((start, Row("x1", 0.0, {"x2": 1.0}))), "x2")
    refused(lambda: Tableau((start, Row("x1", 0.0, {"z1": 1.0}))), "z0")
    refused(lambda: Tableau((start, Row("x1", 0.0, {"x0": NAN}))), "nan")
    refused(lambda: Tableau((start, Row("x1", 0.0, {"x0": 1e9}))), "1e+09")
    refused(lambda: Tableau((Row("x0", 1.0, {"xT": 1.0}, Evaluation(1.0, 1.0, 0.0)),)), "sigma")
    refused(lambda: Tableau((Row("x0", 1.0, {"xT": 1.0}, Evaluation(NAN, 1.0, 1.0)),)), "label")
    for slot in ("D0", "z1", "xT", "mu", "", "a b", "0x", "y" * 33, "x\u00e9!", "x1\n"):
        refused(lambda slot=slot: Tableau((start, Row(slot, 0.0, {"x0": 1.0}))))


# ------------------------------------------------------------------------------------------------------------ denoisers


def run(answer: Callable[[Tensor], Any], x: Tensor | None = None, name: str = "dpmpp-2m", **options: Any) -> Tensor:
    return sample(
        lambda x, at: answer(x), torch.ones(2, 3) if x is None else x, compile(preset(name, GRID, VE)), **{"noise": [1, 2]} | options
    )


@every_preset
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_an_answer_that_is_not_finite_is_refused(bad: float, name: str):
    refused(lambda: run(lambda x: torch.full_like(x, bad), name=name), "not finite")
    refused(lambda: run(lambda x: torch.cat([x[:1], torch.full_like(x[1:], bad)]), name=name), "not finite")


@every_preset
def test_an_answer_that_is_not_a_tensor_is_refused(name: str):
    refused(lambda: run(lambda x: None, name=name), "tensor", "NoneType")
    refused(lambda: run(lambda x: x.numpy(), name=name), "tensor", "ndarray")
    refused(lambda: run(lambda x: (x, x), name=name), "tensor", "tuple")
    refused(lambda: run(lambda x: 0.0, name=name), "tensor", "float")


@every_preset
def test_an_answer_of_another_shape_is_refused(name: str):
    refused(lambda: run(lambda x: x[:1], name=name), "(2, 3)", "(1, 3)")
    refused(lambda: run(lambda x: x[..., None], name=name), "(2, 3)", "(2, 3, 1)")
    refused(lambda: run(lambda x: x.sum(), name=name), "(2, 3)", "()")


def test_the_stepper_refuses_to_go_on_without_the_answer_it_asked_for():
    table = compile(preset("ddim", GRID, VE))
    state, request = advance(begin(table, torch.ones(1, 2)))
    assert request is not None
    refused(lambda: advance(state, None), "tensor")


def test_an_eps_network_is_refused_where_there_is_no_data_to_see():
    x, one = torch.ones(2, 3), torch.ones(2, 1)
    refused(lambda: prediction.to_denoised("eps", x, x, 0 * one, one), "alpha = 0")
    refused(lambda: prediction.to_denoised("eps", x, x, torch.tensor([[1.0], [0.0]]), one), "alpha = 0")
    assert prediction.to_denoised("flow", x, x, 0 * one, one).isfinite().all()
    assert prediction.to_denoised("v", x, x, 0 * one, one).isfinite().all()

    def network(x: Tensor, at: Any) -> Tensor:
        return prediction.to_denoised("eps", x, x, at.alpha, at.sigma)

    refused(lambda: sample(network, x, compile(preset("euler", [1.0, 0.5, 0.0], FLOW))), "alpha = 0")


def test_a_callback_may_not_replace_a_state_by_something_else():
    refused(lambda: run(lambda x: x, callback=lambda row, x, d: x[:1]), "shape")
    refused(lambda: run(lambda x: x, callback=lambda row, x, d: 3.0), "float")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_sampling_starts_from_floating_point_numbers(dtype: torch.dtype):
    refused(lambda: run(lambda x: x, x=torch.ones(2, 3).to(dtype)))


# ----------------------------------------------------------------------------------------------------------------- noise


def noisy(noise: Any) -> Tensor:
    return sample(lambda x, at: 0.5 * x, torch.ones(2, 3), compile(preset("ddim", GRID, VE, eta=1.0)), noise=noise)


X = torch.ones(2, 3)


def test_a_stochastic_table_refuses_to_run_without_noise():
    refused(lambda: noisy(None), "stochastic", "z0", "z1")


@pytest.mark.parametrize(
    "noise",
    [
        7,
        torch.Generator(),
        [],
        [1],
        [1, 2, 3],
        [1.0, 2.0],
        [X],
        [X, X, X],
        [X, X[:1]],
        {"z0": X},
        {"z0": X, "z2": X},
        {"z0": X, "z1": X[:, :2]},
    ],
    ids=lambda noise: type(noise).__name__,
)
def test_noise_that_does_not_fit_the_table_or_the_batch_is_refused(noise: Any):
    refused(lambda: noisy(noise))


@pytest.mark.parametrize(
    "seeds", [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), [np.int64(1), np.int64(2)], torch.tensor([1, 2])], ids=str
)
def test_seeds_may_be_any_whole_numbers(seeds: Any):
    assert torch.equal(noisy(seeds), noisy([1, 2]))
