"""Training the embedded teacher: it goes on where it was killed, and never takes something else's place."""

from pathlib import Path
from typing import Any

import pytest
import torch

from teacher import pretrain
from teacher.errors import TeacherError
from teacher.pretrain import Recipe, train


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.rand(20, 1, 32, 32, generator=draw) * 2 - 1, torch.arange(20) % 10
    monkeypatch.setattr(pretrain, "load_images", lambda: (images, labels, "of no file"))
    monkeypatch.setattr(pretrain, "EVERY", 1)


def stop_at_the_first_snapshot(recipe: Recipe, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pretrain.snapshot

    def snapshot(*words: Any) -> None:
        whole(*words)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "snapshot", snapshot)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder / "state.safetensors", folder)


def test_a_training_that_was_stopped_ends_in_the_same_weights(tmp_path, monkeypatch):
    recipe, (whole, stopped) = Recipe(steps=2, batch=4, warmup=1), (tmp_path / "whole", tmp_path / "stopped")
    train(recipe, whole / "state.safetensors", whole)
    stop_at_the_first_snapshot(recipe, stopped, monkeypatch)
    assert not (stopped / "weights.safetensors").exists()
    train(recipe, stopped / "state.safetensors", stopped)
    for name in ("weights.safetensors", "recipe.json"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()


def test_a_training_neither_goes_on_from_another_recipe_nor_writes_over_weights(tmp_path, monkeypatch):
    stop_at_the_first_snapshot(Recipe(steps=2, batch=4), tmp_path, monkeypatch)
    with pytest.raises(TeacherError, match="another recipe"):
        train(Recipe(steps=3, batch=4), tmp_path / "state.safetensors", tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"of somebody")
    with pytest.raises(TeacherError, match="there already"):
        train(Recipe(steps=2, batch=4), tmp_path / "state.safetensors", tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == b"of somebody"


@pytest.mark.parametrize("words", [["--steps", "0"], ["--out", str(pretrain.HOME)]])
def test_the_command_refuses_what_would_spoil_the_weights(words: list[str], monkeypatch):
    monkeypatch.setattr("sys.argv", ["teacher.pretrain", *words])
    with pytest.raises(SystemExit) as ended:
        pretrain.main()
    assert ended.value.code
