"""The galaxies teacher, where its wheel is installed; without it these tests skip and say so."""

import importlib.util

import numpy as np
import pytest
import torch

from solvers import compile, initial, preset, sample
from solvers.grids import named_grid
from teacher.errors import TeacherError
from teacher.galaxies import Mixer, denoise, find_weights, load
from teacher.models import load as load_teacher

needs_wheel = pytest.mark.skipif(
    importlib.util.find_spec("galaxygrad") is None, reason="the galaxygrad wheel is not installed (pip install --no-deps galaxygrad==0.1.9)"
)


def test_without_the_wheel_the_teacher_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TeacherError, match=r"pip install --no-deps galaxygrad==0\.1\.9") as caught:
        load_teacher("galaxies")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_such_network_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "w.eqx").write_bytes(b"something else")
    with pytest.raises(TeacherError, match="damaged or another file"):
        load(tmp_path / "w.eqx")


def test_an_archive_of_arrays_is_no_file_of_weights(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with pytest.raises(TeacherError, match="cannot be read as galaxygrad weights"):
        load(tmp_path / "w.npz")


@needs_wheel
def test_weights_cut_short_are_refused(tmp_path):
    data = find_weights().read_bytes()
    for part in (data[:-10], data[: len(data) // 2], data[:-136]):
        (tmp_path / "w.eqx").write_bytes(part)
        with pytest.raises(TeacherError):
            load(tmp_path / "w.eqx")


def test_the_network_has_as_many_parameters_as_its_authors_count():
    assert sum(p.numel() for p in Mixer().parameters()) == 605_761


@needs_wheel
def test_the_denoiser_is_one_each_sample_is_answered_alone_and_little_noise_changes_little():
    network, x = load(), torch.randn(4, 1, 32, 32)
    sigma = torch.tensor([0.01, 0.5, 5.0, 100.0])
    noisy = x * sigma[:, None, None, None]
    together = denoise(network, noisy, sigma)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], denoise(network, noisy[i : i + 1], sigma[i]), rtol=1e-4, atol=1e-4)
    still = torch.randn(1, 1, 32, 32)
    assert float((denoise(network, still, torch.tensor(1e-3)) - still).abs().max()) < 1e-2


@needs_wheel
def test_the_denoiser_removes_noise_from_the_images_it_draws():
    teacher = load_teacher("galaxies")
    table = compile(preset("heun", named_grid("karras", teacher.process, 24, teacher.start, teacher.end), teacher.process))
    with torch.no_grad():
        clean = sample(teacher.denoiser, initial(range(8), teacher.shape, table), table)
        assert 0.4 < float(clean.std()) < 1.0  # survey images have a standard deviation of about 0.65 here
        for sigma in (0.3, 1.0):
            noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
            left = denoise(load(), noisy, torch.tensor(sigma)) - clean
            assert float(left.square().mean().sqrt()) < 0.6 * sigma
