"""Schedules in real diffusers pipelines (tiny random weights): the same picture as our runtime, and the refusals users meet."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from solvers import ScheduleError, SolverSchedule, Step, preset, process, sample
from solvers.adapters.scheduler_config import scheduler_config
from solvers.commands.export import export
from solvers.prediction import to_denoised
from teacher.denoiser import wrap

pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers transformers)")
pytest.importorskip("transformers", reason="transformers is not installed (pip install transformers)")
import pipelines

from solvers.adapters.diffusers import FewstepScheduler

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]
BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-5}
F64 = torch.float64
GUIDED = (
    Step(to=700.0, label=990.5, knobs={"guidance": 3.0}),
    Step(to=400.0, order=2, corrector=2, knobs={"guidance": 1.0}),
    Step(to=120.0, order=2, space="eps", label=410.25, knobs={"guidance": 5.5}),
    Step(to=-1.0, knobs={"guidance": 2.0}),
)
PLAIN = (Step(to=700.0, label=990.5), Step(to=400.0, method="heun"), Step(to=120.0, order=3, label=410.25, corrector=2), Step(to=-1.0))


def on_table(steps: tuple[Step, ...]) -> SolverSchedule:
    return SolverSchedule(pipelines.TABLE, 999.0, steps)


def on_flow(name: str = "dpmpp-2m") -> SolverSchedule:
    return preset(name, [1.0, 0.83, 0.51, 0.2, 0.0], pipelines.FLOW)


def noise(*shape: int, dtype: torch.dtype = F64, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert (ours - theirs).abs().max() <= BOUNDS[ours.dtype] * ours.abs().max()


@pytest.mark.parametrize("dtype", BOUNDS)
def test_stable_diffusion_draws_our_picture_with_labels_and_guidance_of_every_evaluation(dtype: torch.dtype, written: Any):
    file = written(on_table(GUIDED))
    scheduler = FewstepScheduler.from_config(scheduler_config(file, "eps"))
    pipe = pipelines.stable_diffusion(scheduler, dtype)
    words, no_words, x = noise(1, 4, 8, dtype=dtype), noise(1, 4, 8, dtype=dtype, seed=4), noise(1, 4, 8, 8, dtype=dtype)
    theirs = pipe(
        prompt_embeds=words,
        negative_prompt_embeds=no_words,
        latents=x,
        num_inference_steps=4,
        guidance_scale=scheduler.guidance[0],
        callback_on_step_end=scheduler.guide,
        output_type="latent",
        height=8,
        width=8,
    ).images

    def guided(x: Tensor, t: Tensor, guidance: float) -> Tensor:
        without, with_words = pipe.unet(torch.cat([x, x]), t.to(F64).repeat(2), encoder_hidden_states=torch.cat([no_words, words]))[
            0
        ].chunk(2)
        return without + guidance * (with_words - without)

    denoiser = wrap(guided, file.process, "eps", "index")
    assert_same(sample(denoiser, x * scheduler.init_noise_sigma, file.tableau), theirs)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc-3", "euler"])
def test_stable_diffusion_3_draws_our_picture(dtype: torch.dtype, name: str, written: Any):
    file = written(on_flow(name))
    pipe = pipelines.stable_diffusion_3(FewstepScheduler.from_config(scheduler_config(file)), dtype)
    words, pooled, x = noise(1, 4, 16, dtype=dtype), noise(1, 16, dtype=dtype), noise(1, 4, 8, 8, dtype=dtype)
    theirs = pipe(
        prompt_embeds=words,
        pooled_prompt_embeds=pooled,
        latents=x,
        num_inference_steps=4,
        guidance_scale=1.0,
        output_type="latent",
        height=8,
        width=8,
    ).images

    def network(x: Tensor, t: Tensor) -> Tensor:
        return pipe.transformer(hidden_states=x, timestep=t, encoder_hidden_states=words, pooled_projections=pooled)[0]

    assert_same(sample(wrap(network, file.process, "flow", "index"), x, file.tableau), theirs)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_flux_draws_our_picture_and_its_own_sigmas_and_shift_change_nothing(dtype: torch.dtype, written: Any):
    file = written(on_flow())
    pipe = pipelines.flux(FewstepScheduler.from_config(scheduler_config(file)), dtype)
    words, pooled, x = noise(1, 4, 16, dtype=dtype), noise(1, 16, dtype=dtype), noise(1, 16, 4, dtype=dtype)
    theirs = pipe(
        prompt_embeds=words, pooled_prompt_embeds=pooled, latents=x, num_inference_steps=4, output_type="latent", height=8, width=8
    ).images
    ids = pipe._prepare_latent_image_ids(1, 4, 4, "cpu", dtype)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return pipe.transformer(
            hidden_states=x,
            timestep=t / 1000,
            encoder_hidden_states=words,
            pooled_projections=pooled,
            txt_ids=torch.zeros(4, 3, dtype=dtype),
            img_ids=ids,
        )[0]

    assert_same(sample(wrap(network, file.process, "flow", "index"), x, file.tableau), theirs)


@pytest.mark.parametrize("kind", ["DDIMPipeline", "DDPMPipeline"])
def test_unconditional_pipelines_draw_our_picture(kind: str, written: Any):
    import diffusers

    file, unet = written(on_table(PLAIN)), pipelines.unconditional()
    pipe = getattr(diffusers, kind)(unet, diffusers.DDPMScheduler())
    pipe.scheduler = FewstepScheduler.from_config(scheduler_config(file, "eps"))
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        batch_size=2, generator=torch.Generator().manual_seed(5), num_inference_steps=file.executable.nfe, output_type="np"
    ).images
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))  # these pipelines start from unit variance
    ours = sample(wrap(lambda x, t: unet(x, t).sample, file.process, "eps", "index"), x, file.tableau)
    assert_same((ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(theirs))


def test_a_class_conditional_transformer_draws_our_picture(written: Any):
    file = written(on_table((Step(to=600.0), Step(to=200.0, order=2), Step(to=-1.0))))
    pipe = pipelines.dit(FewstepScheduler.from_config(scheduler_config(file, "eps")))
    theirs = pipe([7], guidance_scale=1.0, generator=torch.Generator().manual_seed(5), num_inference_steps=3, output_type="np").images
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(5))

    def network(x: Tensor, t: Tensor) -> Tensor:
        return pipe.transformer(x, timestep=t, class_labels=torch.tensor([7])).sample

    latents = sample(wrap(network, file.process, "eps", "index"), x, file.tableau)
    decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    assert_same((decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1), torch.from_numpy(theirs))


# ------------------------------------------------------------------------------------------------------------- config and file


def test_every_coefficient_survives_the_config_file_bit_for_bit(written: Any, tmp_path: Path):
    file = written(on_table(GUIDED))
    FewstepScheduler.from_config(scheduler_config(file, "v")).save_pretrained(tmp_path)
    again = FewstepScheduler.from_pretrained(tmp_path)
    assert again.tableau == file.tableau
    assert again.config["schedule_id"] == file.id
    assert again.config["prediction_type"] == "v_prediction"


def test_an_exported_folder_holds_the_same_config_as_saving_the_scheduler(written: Any, tmp_path: Path):
    file = written(on_table(PLAIN))
    export(file, tmp_path / "x.schedule.json", "diffusers", tmp_path / "out", "eps")
    FewstepScheduler.from_config(scheduler_config(file, "eps")).save_pretrained(tmp_path / "saved")
    exported, saved = (json.loads((tmp_path / d / "scheduler_config.json").read_text()) for d in ("out", "saved"))
    assert exported == {k: v for k, v in saved.items() if k != "_diffusers_version"}


def test_the_exported_single_file_loads_with_trust_remote_code_and_draws_the_same_picture(written: Any, tmp_path: Path, monkeypatch: Any):
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline

    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    file, unet = written(on_table(PLAIN)), pipelines.unconditional()
    folder = tmp_path / "pipeline"
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(folder)
    export(file, tmp_path / "x.schedule.json", "diffusers", folder / "scheduler", "eps")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"_class_name": "DDPMPipeline", "scheduler": ["fewstep_scheduler", "FewstepScheduler"]})
    )
    theirs = DDPMPipeline.from_pretrained(folder, trust_remote_code=True)
    assert type(theirs.scheduler).__module__.startswith("diffusers_modules")
    assert "solvers." not in (folder / "scheduler" / "fewstep_scheduler.py").read_text().split("class ", 1)[0]
    ours = DDPMPipeline(theirs.unet, FewstepScheduler.from_config(scheduler_config(file, "eps")))
    pictures = []
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
        pictures.append(pipe(generator=torch.Generator().manual_seed(1), num_inference_steps=5, output_type="np").images)
    assert (pictures[0] == pictures[1]).all()


def test_stochastic_schedules_draw_from_the_generator_of_the_pipeline(written: Any):
    from diffusers import DDPMPipeline, DDPMScheduler

    file = written(on_table((Step(to=600.0, eta=0.7), Step(to=200.0, eta=1.0, noise="sde"), Step(to=-1.0))))
    pipe = DDPMPipeline(pipelines.unconditional(), DDPMScheduler())
    pipe.scheduler = FewstepScheduler.from_config(scheduler_config(file, "eps"))
    pipe.set_progress_bar_config(disable=True)
    one, same, other = (pipe(generator=torch.Generator().manual_seed(s), num_inference_steps=3, output_type="np").images for s in (1, 1, 2))
    assert (one == same).all()
    assert not (one == other).all()


# ---------------------------------------------------------------------------------------------------------------- contract


def scheduler_for(written: Any, steps: tuple[Step, ...] = PLAIN) -> FewstepScheduler:
    return FewstepScheduler.from_config(scheduler_config(written(on_table(steps)), "x0"))


def test_another_number_of_steps_is_refused_with_the_right_one(written: Any):
    scheduler = scheduler_for(written)
    assert scheduler.nfe == len(scheduler.timesteps) == 5
    for asked in ({"num_inference_steps": 50}, {"sigmas": [1.0, 0.5]}, {"timesteps": [3, 2, 1]}):
        with pytest.raises(ScheduleError, match="exactly 5 evaluations"):
            scheduler.set_timesteps(**asked)


def test_image_to_image_part_way_is_refused_in_one_sentence(written: Any):
    scheduler = scheduler_for(written)
    scheduler.set_begin_index(0)
    with pytest.raises(ScheduleError, match="part-way"):
        scheduler.set_begin_index(2)


def test_image_to_image_at_full_strength_starts_from_the_noised_picture(written: Any):
    scheduler = scheduler_for(written)
    picture, n = noise(1, 3, 8, 8), noise(1, 3, 8, 8, seed=9)
    at = scheduler.tableau.evals[0].at
    assert torch.equal(scheduler.add_noise(picture, n, scheduler.timesteps[:1]), at.alpha * picture + at.sigma * n)


def test_one_call_too_many_is_refused_and_set_timesteps_starts_over(written: Any):
    scheduler, x = scheduler_for(written), noise(1, 3, 2, 2)

    def run() -> Tensor:
        state = x
        for t in scheduler.timesteps:
            state = scheduler.step(state.tanh(), t, state).prev_sample
        return state

    first = run()
    with pytest.raises(ScheduleError, match="done"):
        scheduler.step(x, 0, x)
    scheduler.set_timesteps(5)
    assert torch.equal(run(), first)


def test_a_state_edited_between_steps_is_what_the_sampler_goes_on_with(written: Any):
    scheduler, x = scheduler_for(written), noise(1, 3, 2, 2)
    first = scheduler.step(x.tanh(), 0, x, return_dict=False)[0]
    edited = first * 0.5
    after = scheduler.step(edited.tanh(), 0, edited, return_dict=False)[0]
    seen: list[Tensor] = []

    def replace(row: Any, state: Tensor, denoised: Tensor | None) -> Tensor | None:
        seen.append(state)
        return edited if len(seen) == 2 else None

    answers = iter([x.tanh(), edited.tanh(), x, x, x])
    states: list[Tensor] = []

    def denoiser(state: Tensor, at: Any) -> Tensor:
        states.append(state)
        return next(answers)

    sample(denoiser, x, scheduler.tableau, callback=replace)
    assert torch.equal(states[1], first)
    assert torch.equal(states[2], after)


def test_guidance_below_one_is_refused_and_one_becomes_the_next_larger_number(written: Any):
    steps = (Step(to=700.0, knobs={"guidance": 3.0}), Step(to=400.0, knobs={"guidance": 1.0}), Step(to=-1.0, knobs={"guidance": 0.5}))
    scheduler = scheduler_for(written, steps)

    class Pipe:
        _guidance_scale = 3.0
        guidance_scale = property(lambda self: self._guidance_scale)

    pipe = Pipe()
    assert scheduler.guide(pipe, 0, 0, {"a": 1}) == {"a": 1}
    assert pipe.guidance_scale == math.nextafter(1.0, 2.0)
    with pytest.raises(ScheduleError, match="at least 1"):
        scheduler.guide(pipe, 1, 0, {})


def test_a_flow_that_starts_below_its_end_is_not_promised_to_pipelines_which_start_there(written: Any):
    with pytest.raises(ScheduleError, match=r"size, 1, and this schedule from 0\.9"):
        scheduler_config(written(preset("dpmpp-2m", [0.9, 0.6, 0.3, 0.0], process("flow"))))


def test_a_config_without_rows_or_with_an_unknown_prediction_is_refused_in_one_sentence(written: Any):
    from diffusers import DDIMScheduler

    with pytest.raises(ScheduleError, match="at least one row"):
        FewstepScheduler.from_config(DDIMScheduler().config)
    with pytest.raises(ScheduleError, match="prediction_type"):
        FewstepScheduler.from_config(scheduler_config(written(on_table(PLAIN)), "eps") | {"prediction_type": "words"})
    with pytest.raises(ScheduleError, match="does not say"):
        scheduler_config(written(on_table(PLAIN)))


@pytest.mark.parametrize(
    "damage", [{"terms": [["xT"]]}, {"time": "soon"}, {"evaluation": {"label": 1.0}}, {"terms": [["D7", 1.0]]}, {"slot": "D0"}]
)
def test_a_damaged_config_is_refused_in_one_sentence(damage: dict, written: Any):
    config = scheduler_config(written(on_table(PLAIN)), "eps")
    config["rows"] = [*config["rows"][:2], config["rows"][2] | damage, *config["rows"][3:]]
    with pytest.raises(ScheduleError) as error:
        FewstepScheduler.from_config(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pipelines_combine_states_in_float32_as_our_runtime_does(dtype: torch.dtype, written: Any):
    file = written(on_table(PLAIN))
    scheduler = FewstepScheduler.from_config(scheduler_config(file, "eps"))
    x = state = noise(2, 3, 4, 4, dtype=dtype)
    for t in scheduler.timesteps:
        state = scheduler.step(state.sin(), t, state).prev_sample
    assert state.dtype == dtype

    def denoiser(x: Tensor, at: Any) -> Tensor:
        return to_denoised("eps", x.sin().float(), x.float(), at.alpha, at.sigma)

    assert torch.equal(sample(denoiser, x, file.tableau), state)


def test_a_saved_pipeline_loads_with_the_scheduler_given(written: Any, tmp_path: Path):
    from diffusers import DDPMPipeline

    scheduler = FewstepScheduler.from_config(scheduler_config(written(on_table(PLAIN)), "eps"))
    DDPMPipeline(pipelines.unconditional(), scheduler).save_pretrained(tmp_path / "p")
    again = FewstepScheduler.from_pretrained(tmp_path / "p", subfolder="scheduler")
    assert DDPMPipeline.from_pretrained(tmp_path / "p", scheduler=again).scheduler.tableau == scheduler.tableau
