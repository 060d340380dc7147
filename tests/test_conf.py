"""Every file in conf/ composes into settings that are accepted."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from search.learn import lesson
from search.settings import settings

CONF = Path(__file__).parents[1] / "conf"


def values(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(name, list(overrides)), resolve=True)


@pytest.mark.parametrize("file", sorted(p.relative_to(CONF) for p in CONF.glob("*/*.yaml") if p.parent.name != "learner"), ids=str)
def test_every_choice_of_a_search_is_accepted(file):
    assert settings(values("search", f"{file.parent}={file.stem}")).nfe == (5,)


@pytest.mark.parametrize("file", sorted((CONF / "learner").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_learner_is_accepted(file):
    assert file.stem.removesuffix("-adam") == lesson(values("train", f"learner={file.stem}", "schedule=x")).learner.level.replace("+", "-")


def test_a_search_takes_a_learner_and_training_a_model():
    assert settings(values("search")).learner is None
    assert settings(values("search", "learner=times-labels")).learner.level == "times+labels"
    asked = lesson(values("train", "model=galaxies", "nfe=5"))
    assert (asked.tuning.model.name, asked.tuning.directory) == ("galaxies", "campaigns/galaxies-nfe5-known")


def test_a_local_folder_can_be_named_as_a_model():
    assert settings(values("search", "model.name=diffusers:/a/folder")).model.name == "diffusers:/a/folder"
