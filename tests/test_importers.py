"""Other tools' schedules become ours: held to known samplers written in the foreign form, and to the foreign samplers themselves."""

import importlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from oracle import CASES, anisotropic
from references import k_diffusion_sampling
from test_references import InDouble
from torch import Tensor

from solvers import Provenance, ScheduleError, SolverSchedule, compile, draw, load, preset, process, sample, save
from solvers import sigmas as grid
from solvers.__main__ import answer, parser
from solvers.adapters.scheduler_config import scheduler_config
from solvers.commands.diff import diff
from solvers.commands.interpolate import for_nfe, interpolated
from solvers.importers.black_box import from_diffusers, probe_k_diffusion, probe_scheduler
from solvers.importers.document import Asked, Betas, process_of, read
from solvers.importers.lists import from_dc_solver, from_ld3, from_sigmas, from_timesteps
from solvers.importers.tables import from_gs, from_neuralsolver
from solvers.importers.usf import from_usf

VP, TABLE, FLOW = process("vp-linear"), CASES["vp-discrete"].process, process("flow")
TIMES = [1.0, 0.71, 0.45, 0.22, 0.01]
F64 = torch.float64


def run(*words: Any) -> list[str]:
    return answer(parser().parse_args([str(w) for w in words]))


# ---------------------------------------------------------------------------------------------------------------- lists


def test_the_sigmas_and_timesteps_of_ays_are_the_preset_on_that_grid():
    sigmas = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.0]
    ve = process("ve")
    assert from_sigmas(sigmas, Asked(ve, "dpmpp-2m")) == preset("dpmpp-2m", grid(sigmas), ve)
    steps = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    assert from_timesteps(steps, Asked(TABLE, "unipc-2")).times == (*map(float, steps), -1.0)
    assert from_timesteps([1000, 500], Asked(FLOW, "euler")).times == (1.0, 0.5, 0.0)


@pytest.mark.parametrize("end", [14.615, 14.614647, 14.6146])
def test_a_sigma_that_is_rounded_over_the_end_of_a_table_is_that_end(end: float):
    sigmas = [end, 6.475, 1.396, 0.399, float(TABLE.sigma_of(0.0)) * (1 - 1e-7), 0.0]
    times = from_sigmas(sigmas, Asked(TABLE, "dpmpp-2m")).times
    assert times[0] == pytest.approx(999.0, abs=0.01)
    assert times[-2:] == (0.0, -1.0)
    with pytest.raises(ScheduleError, match="lies outside"):
        from_sigmas([14.7, *sigmas[1:]], Asked(TABLE))


def test_dc_solver_gives_the_last_steps_their_ratios_and_the_others_none():
    ratios = [0.9, 1.1]
    made = from_dc_solver({"times": TIMES, "dc_ratios": ratios}, Asked(VP))
    count = len(TIMES) - 1
    assert made == preset("dc-solver", TIMES, VP, ratios=[1.0] * (count - 2) + ratios)
    assert (
        compile(from_dc_solver({"times": TIMES, "dc_ratios": []}, Asked(VP)))
        .dense()
        .B.equal(compile(preset("unipc-3", TIMES, VP)).dense().B)
    )
    with pytest.raises(ScheduleError, match="ratios for"):
        from_dc_solver({"times": TIMES, "dc_ratios": [1.0] * (count + 1)}, Asked(VP))
    with pytest.raises(ScheduleError, match="order 1 to 3"):
        from_dc_solver({"times": TIMES, "dc_ratios": ratios, "order": 7}, Asked(VP))


def test_ld3_gives_every_step_its_label_and_needs_one_for_each():
    labels = [1.0, 0.69, 0.47, 0.2, 0.01]
    made = from_ld3({"best_t_steps": TIMES + labels}, Asked(VP, "unipc-3"))
    assert made.times == tuple(TIMES)
    assert [step.label for step in made.steps] == [None, 0.69, 0.47, 0.2]
    assert made == from_ld3(TIMES + labels, Asked(VP, "unipc-3"))
    with pytest.raises(ScheduleError, match="as many labels as times"):
        from_ld3(TIMES, Asked(VP))
    with pytest.raises(ScheduleError, match="'heun' does not make one evaluation a step"):
        from_ld3(TIMES + labels, Asked(VP, "heun"))


# --------------------------------------------------------------------------------------------------------------- tables


def test_neuralsolver_with_adams_bashforth_weights_is_the_euler_and_the_two_step_method_on_flows():
    deltas = [0.1, 0.2, 0.3, 0.4]
    times = [1.0, 0.9, 0.7, 0.4, 0.0]
    euler, where = from_neuralsolver({"c": [[0.0] * 4] * 4, "timedeltas": deltas}, Asked())
    assert where == FLOW
    assert euler.apart(compile(preset("euler", times, FLOW))) < 1e-12

    def slope(x: Tensor, t: float) -> Tensor:  # flow velocity, data minus noise, from the answer of some denoiser
        return (anisotropic()(x, at_flow(t)) - x) / t

    c = [[0.0] * 4 for _ in range(4)]
    for i in range(1, 4):
        c[i][i - 1] = -0.5 * deltas[i] / deltas[i - 1]  # Adams-Bashforth of order 2 on uneven steps
    table, _ = from_neuralsolver({"c": c, "timedeltas": deltas}, Asked())
    x = first = draw([1, 2], (12,), "xT", dtype=F64)
    before: Tensor | None = None
    for i, dt in enumerate(deltas):
        v = slope(x, times[i])
        x = x + dt * (v if before is None else v + 0.5 * dt / deltas[i - 1] * (v - before))
        before = v
    assert (sample(anisotropic(), first, table) - x).abs().max() < 1e-12


def at_flow(t: float) -> Any:
    from solvers import At

    return At(*(torch.tensor(v, dtype=F64) for v in (t, 1 - t, t)))


@pytest.mark.parametrize("prediction", ["x0", "eps", "flow", "v"])
def test_a_general_table_that_spells_out_ddim_is_ddim(prediction: Any):
    a, c = [], []
    for n, (s, t) in enumerate(itertools.pairwise(TIMES)):
        als, ss, alt, st = (float(f(v)) for v in (s, t) for f in (VP.alpha, VP.sigma))
        # x_t = alt D + st e with D and e linear in (x, f)
        weights = {
            "x0": (st / ss, alt - st * als / ss),
            "eps": (alt / als, st - alt * ss / als),
            "flow": ((alt + st) / (als + ss), (st * als - alt * ss) / (als + ss)),
            "v": (alt * als + st * ss, st * als - alt * ss),
        }[prediction]
        a.append([0.0] * n + [weights[0]])
        c.append([0.0] * n + [weights[1]])
    labels = [0.99, 0.7, 0.45, 0.2]
    table, _ = from_gs({"times": TIMES, "a": a, "c": c, "labels": labels}, Asked(VP, prediction=prediction))
    assert [e.label for e in table.evals] == labels
    with pytest.raises(ScheduleError, match="no prediction"):
        from_gs({"times": TIMES, "a": a, "c": c}, Asked(VP))
    assert table.apart(compile(preset("ddim", TIMES, VP))) < 1e-12


# ------------------------------------------------------------------------------------------------------------------ USF


def difference(m: int, order: int, **more: Any) -> list[dict[str, Any]]:
    return [{"estimate": f"Difference_{m}", **(more if k == 0 else {})} for k in range(order - 1)]


def decision(orders: list[int], kind: str, corrector: str = "no_corrector", **more: Any) -> dict[str, Any]:
    steps = len(TIMES) - 1
    derivatives = [difference(p - 1, p, **(more if p == 2 else {})) for p in orders]
    correctors = []
    for i, p in enumerate(orders):
        points = [-1, *range(-3, -3 - (p - 1), -1)]
        kinds = [{"estimate": f"Difference_{p}", "active_points": points} for _ in range(p)]
        if p == 1:  # UniPC's first corrector weighs both ends by the same rule as its two-point predictor
            kinds[0]["relaxation"] = more.get("relaxation")
        on = corrector if i + 1 < steps else "no_corrector"
        correctors.append({"type": on, "start_point": -2, "taylor_order": p + 1, "derivative_type": kinds})
    return {
        "timesteps": TIMES,
        "orders": orders,
        "prediction_types": [kind] * steps,
        "derivative_types": derivatives,
        "start_points": [-1] * steps,
        "corrector_types": correctors,
        "afs": "no_afs",
    }


@pytest.mark.parametrize(
    ("words", "name", "options"),
    [
        (decision([1, 1, 1, 1], "noise_prediction"), "ddim", {}),
        (decision([1, 2, 2, 2], "data_prediction"), "dpmpp-2m", {"moment": "exact"}),
        (decision([1, 2, 2, 2], "data_prediction", relaxation="dpmsolver-2"), "dpmpp-2m", {}),
        (decision([1, 2, 2, 2], "data_prediction", "pseudo", relaxation="unipc-bh2"), "unipc-2", {"tail": "full"}),
        (decision([1, 2, 3, 3], "data_prediction", "pseudo", relaxation="unipc-bh2"), "unipc-3", {"tail": "full"}),
        (decision([1, 2, 3, 3], "data_prediction", "pseudo", relaxation="unipc-bh1"), "unipc-3", {"tail": "full", "moment": "bh1"}),
    ],
)
def test_known_samplers_written_as_usf_decisions_are_those_samplers(words: dict, name: str, options: dict):
    table, _ = from_usf(words, Asked(VP))
    assert table.apart(compile(preset(name, TIMES, VP, **options))) < 1e-10


def test_a_usf_step_relaxes_its_first_derivative_linearly_and_an_analytic_first_step_saves_an_evaluation():
    plain, _ = from_usf(decision([1, 2, 2, 2], "noise_prediction"), Asked(VP))
    relaxed, _ = from_usf(decision([1, 2, 2, 2], "noise_prediction", relaxation="linear", relaxation_coefficient=0.1), Asked(VP))
    h = float(VP.lambda_of(TIMES[2]) - VP.lambda_of(TIMES[1]))
    first = compile(preset("ddim", TIMES, VP)).dense().B[2]
    gain = (relaxed.dense().B[2] - first) / (plain.dense().B[2] - first)
    assert gain[:2].tolist() == pytest.approx([1 + 0.1 * h] * 2, rel=1e-9)
    saved, _ = from_usf(decision([1, 2, 2, 2], "noise_prediction") | {"afs": "zero_x0"}, Asked(VP))
    assert (plain.nfe, saved.nfe) == (4, 3)
    assert float(saved.initial_sigma) == float(VP.sigma(TIMES[0]))  # that of x_T, not of the first evaluation


@pytest.mark.parametrize(
    "change",
    [
        {"prediction_types": ["dpmsolver_v3_prediction"] * 4},
        {"afs": "average_x0"},
        {"skip_coefficients": [1.0, 0.9]},
        {"orders": [1, 2]},
        {"orders": [4, 2, 2, 2]},
        {"start_points": [-1, -7, -1, -1]},
        {"derivative_types": [[], [{"estimate": "Guess"}], [], []]},
        {"derivative_types": [[], [], [{"estimate": "Difference_1", "active_points": [-2, -2]}], []]},
        {"timesteps": "soon"},
        {"timesteps": [1.0, 0.71, 0.45, 0.22, 0.0]},
        {"timesteps": [1.0, 0.71, 0.71, 0.22, 0.01]},
        {"timesteps": [0.01, 0.22, 0.45, 0.71, 1.0]},
    ],
)
def test_what_a_usf_decision_does_not_hold_is_refused_in_one_sentence(change: dict):
    with pytest.raises(ScheduleError) as error:
        from_usf(decision([1, 2, 2, 2], "noise_prediction") | change, Asked(VP))
    assert "\n" not in str(error.value)


# ----------------------------------------------------------------------------------------------------------- black boxes

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"clip_sample": False},
    "DEISMultistepScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverMultistepScheduler ": {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True, "solver_order": 3},
    "DPMSolverSinglestepScheduler": {},
    "EulerDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "UniPCMultistepScheduler": {},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "FlowMatchHeunDiscreteScheduler": {"shift": 3.0},
}


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_of_diffusers_are_imported_by_probing_and_replayed_by_ours(name: str, tmp_path: Path, monkeypatch: Any):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")
    from solvers.adapters.diffusers import FewstepScheduler

    kind, flow = getattr(diffusers, name.strip()), name.startswith("Flow")
    if name == "FlowMatchHeunDiscreteScheduler":  # its float32 arithmetic divides rounding errors by sigma: compared in float64
        module = importlib.import_module(kind.__module__)
        monkeypatch.setattr(module, "torch", InDouble(module.torch))
    stock = kind(**SCHEDULERS[name] if flow else CONFIG | SCHEDULERS[name])
    (tmp_path / "scheduler_config.json").write_text(json.dumps({k: v for k, v in stock.config.items()} | {"_class_name": name.strip()}))
    words = ["--nfe", 5, "--prediction", "flow" if flow else "eps"]
    run("import", tmp_path / "scheduler_config.json", "--from", "diffusers", tmp_path / "x.schedule.json", *words)
    ours = FewstepScheduler.from_config(scheduler_config(load(tmp_path / "x.schedule.json")))
    stock.set_timesteps(5)
    ours.set_timesteps(len(stock.timesteps))
    assert ours.timesteps.tolist() == pytest.approx(stock.timesteps.tolist(), rel=1e-9)
    n = draw([1, 2], (3, 4), "xT", dtype=F64)
    theirs = n * getattr(stock, "init_noise_sigma", 1.0)
    scales = hasattr(stock, "scale_model_input") and stock.init_noise_sigma != 1  # these keep x / alpha
    state = theirs / math.sqrt(1 + float(stock.sigmas[0]) ** 2) if scales else theirs

    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x + t.double() / 500)

    for told, t in zip(stock.timesteps, ours.timesteps, strict=True):
        seen = stock.scale_model_input(theirs, told) if hasattr(stock, "scale_model_input") else theirs
        theirs = stock.step(network(seen, told), told, theirs).prev_sample
        state = ours.step(network(state, t), t, state).prev_sample
    assert (state - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize(("final", "end"), [(True, -1.0), (False, 0.0)])
def test_a_probed_scheduler_ends_where_it_leaves_no_noise_or_at_its_cleanest_trained_time(final: bool, end: float):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")
    scheduler = diffusers.DDIMScheduler(**CONFIG, clip_sample=False, set_alpha_to_one=final)
    assert probe_scheduler(scheduler, 5, Betas(**CONFIG).process).rows[-1].time == end


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "config", "nfe"),
    [
        ("DDIMScheduler", {}, 0),
        ("DDIMScheduler", {}, 2000),
        ("DDIMScheduler", {"prediction_type": "guess"}, 5),
        ("DDIMScheduler", {"timestep_spacing": "wide"}, 5),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 5),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, 5),
        ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 500}, 5),
        ("DDIMScheduler", {"beta_start": -0.1}, 5),
        ("DDIMScheduler", {"trained_betas": [0.1, 1.5]}, 5),
    ],
)
def test_what_a_scheduler_does_not_run_is_refused_in_one_sentence(name: str, config: dict[str, Any], nfe: int):
    pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")
    with pytest.raises(ScheduleError) as error:
        from_diffusers({"_class_name": name} | ({} if name.startswith("Flow") else CONFIG) | config, Asked(nfe=nfe))
    assert "\n" not in str(error.value)


def test_what_a_scheduler_clips_is_said_and_its_prediction_is_taken_or_contradicted(tmp_path: Path):
    pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")
    source, made = tmp_path / "scheduler_config.json", tmp_path / "x.schedule.json"
    source.write_text(json.dumps({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"} | CONFIG))
    words = ("import", source, "--from", "diffusers", made, "--nfe", "5")
    _, said = run(*words)
    assert "clip_sample" in said
    file = load(made)
    assert "clip_sample" in file.provenance.note
    assert file.fitted_for.prediction == "v"
    with pytest.raises(ScheduleError, match="predicts v, not eps"):
        run(*words, "--prediction", "eps")


def test_options_that_a_source_or_a_program_does_not_take_are_refused(tmp_path: Path):
    (tmp_path / "x.json").write_text(json.dumps(TIMES))
    for kind, option, value in (
        ("timesteps", "nfe", 4),
        ("dc-solver", "sampler", "ddim"),
        ("neuralsolver", "process", "ve"),
        ("diffusers", "process", "ve"),
        ("diffusers", "sampler", "unipc-3"),
    ):
        with pytest.raises(ScheduleError, match=f"from {kind} takes no --{option}"):
            run("import", tmp_path / "x.json", "--from", kind, tmp_path / "y.schedule.json", f"--{option}", value)
    made = preset("ddim", TIMES, VP)
    save(compile(made), tmp_path / "z.schedule.json", recipe=made)
    with pytest.raises(ScheduleError, match="to sigmas takes no --prediction"):
        run("export", tmp_path / "z.schedule.json", "--to", "sigmas", tmp_path / "s.txt", "--prediction", "v")


def test_betas_that_a_config_lists_are_its_process():
    betas = [0.1, 0.2, 0.3]
    assert Betas(trained_betas=betas).process.alphas_cumprod == pytest.approx([0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])


@pytest.mark.parametrize("function", ["sample_euler", "sample_heun", "sample_dpmpp_2m", "sample_lms", "sample_dpm_2"])
def test_samplers_of_k_diffusion_are_imported_by_probing(function: str):
    try:
        theirs = getattr(k_diffusion_sampling(), function)
    except ImportError as error:
        pytest.skip(str(error))
    sigmas = [14.6, 7.0, 3.1, 0.9, 0.11, 0.0]
    table, where = probe_k_diffusion(theirs, sigmas)
    x = draw([1, 2], (12,), "xT", dtype=F64) * 14.6
    exact = anisotropic()
    model = lambda x, s: exact(x, table.evals[0].at._replace(label=s[0], sigma=s[0]))  # noqa: E731
    direct = theirs(model, x, torch.tensor(sigmas, dtype=F64), disable=True)
    assert where == process("ve", sigma_max=14.6)
    assert (sample(exact, x, table) - direct).abs().max() <= 1e-9 * direct.abs().max()


def test_probing_takes_a_scheduler_object_too():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")
    table = probe_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 5, FLOW)
    assert table.nfe == 5


# ------------------------------------------------------------------------------------------------------------- documents


def test_a_file_that_only_unpickling_could_read_is_refused_unread(tmp_path: Path):
    (tmp_path / "best.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ScheduleError, match="unpickled"):
        read(tmp_path / "best.pt")


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[1, null]", "[]", "[NaN, 0]", '"x"', "[[[[", "[1, 2, 3]", "[Infinity, 0]"])
@pytest.mark.parametrize("kind", ["dc-solver", "sigmas", "timesteps", "ld3", "gs", "neuralsolver", "usf", "diffusers"])
def test_documents_of_another_shape_end_in_one_sentence(kind: str, text: str, tmp_path: Path):
    (tmp_path / "x.json").write_text(text)
    more = {"neuralsolver": (), "diffusers": ("--nfe", "5")}.get(kind, ("--process", "ve"))
    with pytest.raises(ScheduleError) as error:
        run("import", tmp_path / "x.json", "--from", kind, tmp_path / "y.schedule.json", *more)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "y.schedule.json").exists()


def test_a_process_is_a_name_or_the_table_of_a_scheduler_config(tmp_path: Path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(CONFIG))
    assert process_of("vp-linear") == VP
    made = process_of(str(tmp_path / "scheduler_config.json"))
    assert made.alphas_cumprod == pytest.approx(TABLE.alphas_cumprod, rel=1e-12)
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    for config in (flow, {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True} | CONFIG):
        (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
        assert process_of(str(tmp_path / "scheduler_config.json")) == FLOW
    for config in ({"_class_name": "EDMEulerScheduler", "sigma_min": 0.002}, {"in_channels": 4}, {}):
        (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
        with pytest.raises(ScheduleError, match="no scheduler config"):
            process_of(str(tmp_path / "scheduler_config.json"))
    with pytest.raises(ScheduleError, match="zero SNR"):
        _ = Betas(rescale_betas_zero_snr=True).process


# ------------------------------------------------------------------------------------------------- interpolate and diff


@pytest.mark.parametrize("name", ["ve", "vp-linear", "vp-discrete", "flow"])
@pytest.mark.parametrize("steps", [2, 3, 6, 11])
def test_interpolation_keeps_the_ends_and_gives_the_same_schedule_back_for_its_own_budget(name: str, steps: int):
    case = CASES[name]
    grid = [80.0, 20.0, 4.0, 1.0, 0.1, 0.0] if name == "ve" else case.grid(5, clean=True)
    known = preset("unipc-3", grid, case.process, tail="full")
    other = interpolated(known, steps)
    assert (other.times[0], other.times[-1], len(other.steps)) == (known.times[0], known.times[-1], steps)
    assert compile(other).nfe == steps
    assert interpolated(known, 5).times == pytest.approx(known.times, rel=1e-9)
    assert [s.order for s in interpolated(known, 5).steps] == [s.order for s in known.steps]


def test_a_parallel_step_keeps_its_evaluations_and_a_label_its_process_when_a_schedule_is_interpolated():
    ve = process("ve", sigma_max=80.0)
    epd = preset("epd", grid([80.0, 5.0, 0.6, 0.02]), ve)
    assert compile(for_nfe(epd, compile(epd).nfe)).apart(compile(epd)) < 1e-9
    known = preset("ddim", [900.0, 500.0, 300.0, 100.0, 30.0, -1.0], TABLE)
    told = (*(msgspec.structs.replace(step, label=t - 10.0) for step, t in zip(known.steps, known.times, strict=False)),)
    assert all(0 <= step.label <= 999 for step in interpolated(SolverSchedule(TABLE, 900.0, told), 2).steps if step.label is not None)


def test_an_interpolated_file_keeps_the_licence_and_the_calls_of_its_source(tmp_path: Path):
    made = preset("ddim", grid([80.0, 5.0, 0.6, 0.02]), process("ve", sigma_max=80.0))
    source = Provenance(licence="MIT", calls_per_evaluation=2, trial=7, test_reads=3)
    save(compile(made), tmp_path / "a.schedule.json", recipe=made, provenance=source)
    run("interpolate", tmp_path / "a.schedule.json", tmp_path / "b.schedule.json", "--nfe", "5")
    kept = load(tmp_path / "b.schedule.json").provenance
    assert (kept.licence, kept.calls_per_evaluation, kept.trial, kept.test_reads) == ("MIT", 2, None, 0)


def test_the_interpolate_command_says_that_its_expectation_is_not_measured(tmp_path: Path):
    lines = run("interpolate", Path(__file__).parent / "files" / "found-v1.schedule.json", tmp_path / "x.schedule.json", "--nfe", "8")
    assert load(tmp_path / "x.schedule.json").executable.nfe == 8
    assert "not measured" in lines[1]


def test_interpolating_rows_without_a_recipe_is_refused(tmp_path: Path):
    with pytest.raises(ScheduleError, match="recipe"):
        run("interpolate", Path(__file__).parent / "files" / "rows-only-v1.schedule.json", tmp_path / "x", "--nfe", "4")


def test_diff_finds_equal_samplers_and_names_what_differs(tmp_path: Path):
    def written(name: str, recipe: Any, **more: Any) -> Any:
        save(compile(recipe), tmp_path / name, **more or {"recipe": recipe})
        return load(tmp_path / name)

    ddim, rows = preset("ddim", TIMES, VP), preset("ddim", TIMES, VP)
    assert diff(written("a", ddim), written("b", rows, process=VP)) == ["the same sampler: equal evaluations, knobs and coefficients"]
    lines = diff(written("a", ddim), written("c", preset("dpmpp-2m", [1.0, 0.7, 0.45, 0.22, 0.01], VP)))
    assert "evaluation 1: label 0.71 and 0.7" in lines
    assert any(line.startswith("coefficients differ") for line in lines)
    assert any("order 1 and 2" in line for line in lines)
    assert diff(written("a", ddim), written("d", preset("ddim", TIMES[:3], VP)))[-1] == "evaluations: 4 and 2"
