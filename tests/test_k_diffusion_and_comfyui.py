"""Schedules through k-diffusion's signature and ComfyUI's contract: the same picture as our runtime, labels and guidance included."""

import asyncio
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_comfyui
import msgspec
import pytest
import torch
from oracle import CASES, mixture
from torch import Tensor

from solvers import (
    At,
    Evaluation,
    FittedFor,
    Row,
    ScheduleError,
    ScheduleFile,
    SolverSchedule,
    Step,
    average_first,
    compile,
    draw,
    load,
    preset,
    process,
    sample,
    save,
)
from solvers.__main__ import answer, parser
from solvers.adapters.k_diffusion import sample_fewstep
from solvers.adapters.lists import plain, rounding, sigmas_of, timesteps_of
from solvers.commands.compatibility import compatibility
from solvers.commands.export import export
from solvers.enter import entered
from solvers.prediction import from_denoised, to_denoised

F64 = torch.float64
TABLE, FLOW = CASES["vp-discrete"].process, process("flow")
DECOUPLED = (Step(to=700.0, label=990.0), Step(to=400.0, order=2, corrector=2), Step(to=120.0, order=2, label=410.0), Step(to=-1.0))


def network(x: Tensor, t: Tensor, scale: float = 1.0) -> Tensor:
    """Any smooth function of input, time and guidance."""
    return (x * (1 + fake_comfyui.along(t.to(x), x) / 700)).sin() * scale + 0.1 * x


def of_network(kind: Any) -> Any:
    """The network as our denoiser, told its label."""
    return lambda x, at, guidance=1.0: to_denoised(kind, network(x, at.label.to(x), guidance), x, at.alpha, at.sigma)


def as_k_model(file: ScheduleFile, kind: Any) -> Any:
    """The network as k-diffusion wraps it: x0 from y = x / alpha (flow: x), with sigma's own time."""
    flow = isinstance(file.process, type(FLOW))

    def model(y: Tensor, sigma: Tensor) -> Tensor:
        t = file.process.time_of_sigma(sigma[0])
        alpha, s = file.process.alpha(t), file.process.sigma(t)
        x = y if flow else y * alpha
        return to_denoised(kind, network(x, t.to(x)), x, alpha, s)

    return model


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc-3", "heun", "ipndm"])
@pytest.mark.parametrize("where", ["ve", "vp-linear", "vp-discrete", "flow"])
def test_the_k_diffusion_function_draws_our_picture(name: str, where: str, written: Any):
    case = CASES[where]
    file = written(preset(name, case.grid(5, clean=True) if where != "ve" else [80.0, 20.0, 4.0, 1.0, 0.1, 0.0], case.process))
    n = draw([1, 2], (3, 4), "xT", dtype=F64)
    first = file.tableau.evals[0]
    ours = sample(of_network("x0"), n * first.sigma, file.tableau)
    theirs = sample_fewstep(as_k_model(file, "x0"), n * sigmas_of(file)[0], torch.tensor(sigmas_of(file)), schedule=file)
    assert (ours - theirs).abs().max() <= 1e-9 * ours.abs().max()


@pytest.mark.parametrize("answer", ["zero-x0", "unit-eps"])
@pytest.mark.parametrize("where", ["ve", "vp-linear", "vp-discrete", "flow"])
def test_a_first_step_without_the_network_is_noise_of_another_size(answer: Any, where: str, written: Any):
    case = CASES[where]
    times = case.grid(4, clean=True) if where != "ve" else [80.0, 20.0, 4.0, 1.0, 0.0]
    steps = [Step(to=t, order=min(3, i + 1), space="eps" if i == 2 else "x0") for i, t in enumerate(times[1:])]
    file = written(SolverSchedule(case.process, times[0], (msgspec.structs.replace(steps[0], answer=answer), *steps[1:])))
    assert file.tableau.rows[0].evaluation is None
    assert len(sigmas_of(file)) == 4
    n = draw([1, 2], (3, 4), "xT", dtype=F64)
    ours = sample(of_network("x0"), n * file.tableau.initial_sigma, file.tableau)
    theirs = sample_fewstep(as_k_model(file, "x0"), n * sigmas_of(file)[0], torch.tensor(sigmas_of(file)), schedule=file)
    assert (ours - theirs).abs().max() <= 1e-9 * ours.abs().max()
    begun = entered(file.tableau)
    torch.testing.assert_close(sample(of_network("x0"), n * begun.initial_sigma, begun), ours, rtol=1e-12, atol=1e-12)
    assert entered(begun) is begun
    assert compatibility(file)["diffusers"].startswith("cannot" if where == "flow" else "everything")
    assert compatibility(file)["comfyui"].startswith("everything")


def test_a_first_state_that_is_more_than_noise_begins_nothing():
    picture = average_first(compile(preset("ddim", [80.0, 20.0, 4.0, 0.0], process("ve"))), 0.5)
    with pytest.raises(ScheduleError, match="more than a multiple of x_T"):
        entered(picture)
    upside_down = replace(picture, rows=(Row("x0", 80.0, {"xT": -1.0}, Evaluation(80.0, 1.0, 80.0)), Row("x1", 0.0, {"D0": 1.0})))
    with pytest.raises(ScheduleError, match="no noise to begin with"):
        entered(upside_down)


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_labels_apart_from_the_states_reach_the_network_exactly(kind: Any, written: Any):
    file = written(SolverSchedule(TABLE, 999.0, DECOUPLED))
    n = draw([1, 2], (3, 4), "xT", dtype=F64)
    ours = sample(of_network(kind), n * file.tableau.evals[0].sigma, file.tableau)
    theirs = sample_fewstep(as_k_model(file, kind), n * sigmas_of(file)[0], None, schedule=file, prediction=kind)
    assert (ours - theirs).abs().max() <= 1e-9 * ours.abs().max()
    with pytest.raises(ScheduleError, match="give prediction="):
        sample_fewstep(as_k_model(file, kind), n, None, schedule=file)


def test_k_diffusion_sees_every_evaluation_and_stochastic_schedules_use_its_noise(written: Any):
    file = written(preset("ddim", [14.6, 3.0, 0.5, 0.0], process("ve"), eta=1.0))
    n, seen, asked = draw([1], (4,), "xT", dtype=F64), [], []
    xi = [draw([1], (4,), f"z{m}", dtype=F64) for m in range(2)]

    def noise_sampler(a: Tensor, b: Tensor) -> Tensor:
        asked.append((float(a), float(b)))
        return xi[len(asked) - 1]

    exact = mixture()
    model = lambda x, s: exact(x, At(s[0], torch.ones((), dtype=F64), s[0]))  # noqa: E731
    theirs = sample_fewstep(model, n * 14.6, None, callback=seen.append, noise_sampler=noise_sampler, schedule=file)
    assert torch.equal(theirs, sample(exact, n * 14.6, file.tableau, xi))
    assert asked == [(14.6, 3.0), (3.0, 0.5)]
    assert [(d["i"], float(d["sigma"])) for d in seen] == [(0, 14.6), (1, 3.0), (2, 0.5)]
    assert all(d["x"].shape == d["denoised"].shape == n.shape for d in seen)


def test_a_network_of_another_prediction_is_refused(tmp_path: Path):
    made = preset("ddim", [14.6, 3.0, 0.5, 0.0], process("ve"))
    file = save(compile(made), tmp_path / "x.schedule.json", recipe=made, fitted_for=FittedFor(prediction="eps"))
    for word, said in (("v", "predicts eps, not v"), ("bogus", "no prediction 'bogus'")):
        with pytest.raises(ScheduleError, match=said):
            sample_fewstep(lambda x, s: x, torch.zeros(1, 2), None, schedule=file, prediction=word)  # pyright: ignore[reportArgumentType]


def test_a_list_of_sigmas_of_another_length_is_refused(written: Any):
    file = written(preset("ddim", [14.6, 3.0, 0.5, 0.0], process("ve")))
    with pytest.raises(ScheduleError, match="3 evaluations"):
        sample_fewstep(lambda x, s: x, torch.zeros(1, 2), torch.ones(9), schedule=file)


def test_guidance_needs_a_place_to_go_and_other_knobs_have_none(written: Any):
    for knobs, match in (({"guidance": 3.0}, "set_guidance"), ({"skip": 0.5}, "no skip")):
        file = written(SolverSchedule(process("ve"), 14.0, (Step(to=1.0, knobs=knobs), Step(to=0.0))))
        with pytest.raises(ScheduleError, match=match):
            sample_fewstep(lambda x, s: x, torch.zeros(1, 2), None, schedule=file)


# -------------------------------------------------------------------------------------------------------------- ComfyUI


@pytest.fixture
def comfy(monkeypatch: Any) -> Any:
    """The modules that ComfyUI would provide, and our adapter."""
    for name, module in fake_comfyui.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    from solvers.adapters import comfyui

    return comfyui


def in_comfyui(comfyui: Any, path: Path, kind: type, space: Any, noise: Tensor) -> Tensor:
    sampler, _, _ = comfyui.load_schedule(path)
    sigmas = torch.tensor(sigmas_of(load(path)), dtype=noise.dtype)  # the node's own are float32, and scale x_T
    guider = fake_comfyui.CFGGuider(fake_comfyui.Model(network, kind, space))
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas)


GUIDED = tuple(
    Step(to=s.to, label=s.label, order=s.order, corrector=s.corrector, knobs={"guidance": 1.5 + i}) for i, s in enumerate(DECOUPLED)
)


@pytest.mark.parametrize(("kind", "word"), [(fake_comfyui.EPS, "eps"), (fake_comfyui.V_PREDICTION, "v")])
@pytest.mark.parametrize("steps", [DECOUPLED, GUIDED], ids=["labels", "labels and guidance"])
def test_comfyui_draws_our_picture(kind: type, word: Any, steps: Any, comfy: Any, written: Any, tmp_path: Path, caplog: Any):
    file = written(SolverSchedule(TABLE, 999.0, steps))
    n = draw([1, 2], (3, 4), "xT", dtype=F64)
    theirs = in_comfyui(comfy, tmp_path / "x.schedule.json", kind, fake_comfyui.Discrete(TABLE.alphas_cumprod), n)
    ours = sample(of_network(word), n * file.tableau.evals[0].sigma, file.tableau)
    assert (ours - theirs).abs().max() <= 1e-9 * ours.abs().max()
    assert not caplog.records


def test_comfyui_draws_our_picture_on_flows(comfy: Any, written: Any, tmp_path: Path):
    steps = (Step(to=0.8, label=0.97), Step(to=0.4, order=2), Step(to=0.2, order=2, label=0.5), Step(to=0.0))
    file = written(SolverSchedule(FLOW, 1.0, steps))
    n = draw([1, 2], (3, 4), "xT", dtype=F64)
    theirs = in_comfyui(comfy, tmp_path / "x.schedule.json", fake_comfyui.CONST, fake_comfyui.ContinuousFlow(), n)
    ours = sample(
        lambda x, at: to_denoised("flow", network(x, 1000 * at.label), x, at.alpha, at.sigma), n * file.tableau.evals[0].sigma, file.tableau
    )
    assert (ours - theirs).abs().max() <= 1e-9 * ours.abs().max()


def test_comfyui_reports_every_label_it_rounds(comfy: Any, written: Any, tmp_path: Path, caplog: Any):
    file = written(SolverSchedule(TABLE, 999.0, (Step(to=700.0, label=990.4), Step(to=-1.0))))
    in_comfyui(
        comfy, tmp_path / "x.schedule.json", fake_comfyui.EPS, fake_comfyui.Discrete(TABLE.alphas_cumprod), torch.ones(1, 2, dtype=F64)
    )
    assert [r.message for r in caplog.records] == ["evaluation 0 asks for time 990.4, and the model is told 990: ComfyUI rounds it"]
    assert "fractional labels" in compatibility(file)["comfyui"]


def test_comfyui_refuses_a_model_of_another_kind_or_table(comfy: Any, written: Any, tmp_path: Path):
    written(SolverSchedule(TABLE, 999.0, DECOUPLED))
    path, n = tmp_path / "x.schedule.json", torch.ones(1, 2, dtype=F64)
    with pytest.raises(ScheduleError, match="eps, v or x0 models"):
        in_comfyui(comfy, path, fake_comfyui.CONST, fake_comfyui.ContinuousFlow(), n)
    with pytest.raises(ScheduleError, match="noise table"):
        in_comfyui(comfy, path, fake_comfyui.EPS, fake_comfyui.Discrete(TABLE.alphas_cumprod[:600]), n)
    recipe = SolverSchedule(TABLE, 999.0, DECOUPLED)
    save(compile(recipe), path, recipe=recipe, fitted_for=FittedFor(prediction="v"))
    with pytest.raises(ScheduleError, match="predicts v, not eps"):
        in_comfyui(comfy, path, fake_comfyui.EPS, fake_comfyui.Discrete(TABLE.alphas_cumprod), n)


def test_a_registered_schedule_is_a_sampler_and_a_scheduler_of_the_ksampler_node(comfy: Any, written: Any, tmp_path: Path):
    file = written(SolverSchedule(TABLE, 999.0, DECOUPLED))
    comfy.register("mine", tmp_path / "x.schedule.json")
    samplers, sampling = sys.modules["comfy.samplers"], sys.modules["comfy.k_diffusion.sampling"]
    assert samplers.KSampler.SAMPLERS == ["euler", "mine"]
    assert samplers.SCHEDULER_NAMES == ["simple", "mine"]
    sigmas = samplers.SCHEDULER_HANDLERS["mine"].handler(None, 4)
    assert sigmas.tolist() == pytest.approx(sigmas_of(file), rel=1e-6)
    assert callable(sampling.sample_mine)
    with pytest.raises(ScheduleError, match="exactly 4 steps"):
        samplers.SCHEDULER_HANDLERS["mine"].handler(None, 20)


@pytest.mark.parametrize("api", ["V3", "V1"])
def test_the_exported_folder_is_a_custom_node_that_loads_its_schedule(api: str, comfy: Any, written: Any, tmp_path: Path, monkeypatch: Any):
    file = written(SolverSchedule(TABLE, 999.0, DECOUPLED))
    export(file, tmp_path / "x.schedule.json", "comfyui", tmp_path / "node")
    if api == "V1":
        monkeypatch.setitem(sys.modules, "comfy_api.latest", None)
    spec = importlib.util.spec_from_file_location("node", tmp_path / "node" / "__init__.py")
    node = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(node)
    if api == "V1":
        kind = node.NODE_CLASS_MAPPINGS["FewstepLoadSchedule"]
        assert kind.INPUT_TYPES() == {"required": {"name": (["x.schedule.json"],)}}
        outputs, execute = kind.RETURN_TYPES, getattr(kind(), kind.FUNCTION)
    else:
        (kind,) = asyncio.run(asyncio.run(node.comfy_entrypoint()).get_node_list())
        schema = kind.define_schema()
        assert schema.inputs == [("COMBO", "name", {"options": ["x.schedule.json"]})]
        outputs, execute = tuple(port for port, _ in schema.outputs), kind.execute
    assert outputs == ("SAMPLER", "SIGMAS", "STRING")
    sampler, sigmas, report = execute("x.schedule.json")
    assert isinstance(sampler, fake_comfyui.KSAMPLER)
    assert len(sigmas) == 5
    assert file.id[:16] in report
    with pytest.raises(ScheduleError, match="no schedule"):
        execute("../x.schedule.json")


# ---------------------------------------------------------------------------------------------------------------- lists


def test_sigmas_are_plain_decimals_that_read_back_exactly_and_end_in_zero(written: Any, tmp_path: Path):
    file = written(preset("ddim", [14.6, 3.0, 1.25e-5, 0.0], process("ve")))
    export(file, tmp_path / "x", "sigmas", tmp_path / "sigmas.txt")
    text = (tmp_path / "sigmas.txt").read_text()
    assert "e" not in text
    assert [float(word) for word in text.split(",")] == sigmas_of(file) == [14.6, 3.0, 1.25e-5, 0.0]
    assert plain(1e-7) == "0.0000001"


def test_sigmas_for_another_sampler_end_where_the_schedule_does(tmp_path: Path):
    where = process("vp-linear")
    made = preset("ddim", [1.0, 0.5, 0.1], where)
    save(compile(made), tmp_path / "x.schedule.json", recipe=made)
    answer(parser().parse_args(["export", str(tmp_path / "x.schedule.json"), "--to", "sigmas", str(tmp_path / "x.txt")]))
    assert float((tmp_path / "x.txt").read_text().split(",")[-1]) == float(where.sigma_of(0.1))


def test_a_program_is_not_promised_a_schedule_around_a_picture_or_with_knobs_it_does_not_pass(tmp_path: Path):
    around = CASES["mean-reverting"]
    mrs = preset("mrs-ode-2", around.grid(4, clean=False), around.process)
    skipping = preset("ddim", [1.0, 0.5, 0.1], process("vp-linear"))
    skipping = msgspec.structs.replace(skipping, steps=(msgspec.structs.replace(skipping.steps[0], knobs={"skip": 0.9}), skipping.steps[1]))
    for made, programs in ((mrs, ("diffusers", "k-diffusion", "comfyui", "sigmas")), (skipping, ("diffusers", "k-diffusion", "comfyui"))):
        said = compatibility(save(compile(made), tmp_path / "x.schedule.json", recipe=made))
        assert all(said[program].startswith("cannot run") for program in programs)


def test_integer_timesteps_say_what_rounding_loses(written: Any, tmp_path: Path):
    file = written(preset("ddim", [999.0, 600.4, 100.0, -1.0], TABLE))
    export(file, tmp_path / "x", "timesteps", tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text()) == timesteps_of(file) == [999, 600, 100]
    assert "0.4 training steps" in rounding(file)
    with pytest.raises(ScheduleError, match="no integer training steps"):
        export(written(preset("ddim", [14.6, 3.0, 0.0], process("ve"))), tmp_path / "x", "timesteps", tmp_path / "t.json")
    with pytest.raises(ScheduleError, match="same integer"):
        timesteps_of(written(preset("ddim", [999.0, 600.4, 600.2, -1.0], TABLE)))


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp-2m", "unipc-2", "ipndm", "heun"])
def test_only_first_order_samplers_lose_nothing_as_sigmas(name: str, written: Any):
    file = written(preset(name, [999.0, 600.0, 100.0, -1.0], TABLE))
    expected = "everything" if name in ("ddim", "euler") else "loses the coefficients"
    assert compatibility(file)["sigmas"].startswith(expected)


def test_conversion_of_the_answer_is_the_identity_where_label_and_state_agree():
    x, d = draw([1], (5,), "x", dtype=F64), draw([1], (5,), "d", dtype=F64)
    alpha, sigma = TABLE.alpha(300.0), TABLE.sigma(300.0)
    for kind in ("eps", "v", "flow", "x0"):
        assert (to_denoised(kind, from_denoised(kind, d, x, alpha, sigma), x, alpha, sigma) - d).abs().max() < 1e-12
