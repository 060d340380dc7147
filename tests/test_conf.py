"""Every file in conf/ composes into settings that are accepted."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf.entry import as_hydra_spells
from search.adam import Adam
from search.errors import CampaignError
from search.learn import lesson
from search.learner import Learner
from search.settings import settings

CONF = Path(__file__).parents[1] / "conf"


def values(name, *overrides) -> dict[Any, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        told = OmegaConf.to_container(compose(name, list(overrides)), resolve=True)
    assert isinstance(told, dict)
    return told


@pytest.mark.parametrize("file", sorted(p.relative_to(CONF) for p in CONF.glob("*/*.yaml") if p.parent.name != "learner"), ids=str)
def test_every_choice_of_a_search_is_accepted(file):
    assert settings(values("search", f"{file.parent}={file.stem}")).nfe == (5,)


@pytest.mark.parametrize("file", sorted((CONF / "learner").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_learner_is_accepted_and_has_all_settings_to_override(file):
    told = values("train", f"learner={file.stem}", "schedule=x")
    assert file.stem.removesuffix("-adam") == lesson(told).learner.level.replace("+", "-")
    assert set(told["learner"]) == set(Learner.__struct_fields__)
    assert set(told["learner"]["adam"]) == set(Adam.__struct_fields__)


def test_a_search_takes_a_learner_and_training_a_model():
    assert settings(values("search")).learner is None
    assert settings(values("search", "learner=times-labels")).learner.level == "times+labels"
    asked = lesson(values("train", "model=galaxies", "nfe=5"))
    assert (asked.tuning.model.name, asked.tuning.directory) == ("galaxies", "campaigns/galaxies-nfe5-known")


@pytest.mark.parametrize("script", ["search", "train"])
def test_a_folder_or_a_function_can_be_named_as_a_model(script):
    for name in ("diffusers:/a/folder", "my.models:flowers"):
        words = [word for said in (f"model={name}", "model.options.width=3") for word in as_hydra_spells(said)]
        assert values(script, *words)["model"] == {"name": name, "options": {"width": 3}}


@pytest.mark.parametrize(
    ("word", "where", "found"),
    [
        ("model.options.guidance=2", ("model", "options"), {"guidance": 2}),
        ("sampler.options.rounds=0", ("sampler", "options"), {"rounds": 0}),
        ("sampler.options={rounds: 0}", ("sampler", "options"), {"rounds": 0}),
        ("space.among={grid: karras, steps: 60}", ("space", "among"), {"grid": "karras", "steps": 60}),
        ("space.knobs.guidance=[1.0,4.0]", ("space", "knobs"), {"guidance": [1.0, 4.0]}),
        ("+space.counts={origin: [0, 1]}", ("space", "counts"), {"origin": [0, 1]}),
    ],
)
def test_what_may_hold_anything_takes_new_keys_from_the_command_line(word, where, found):
    group, name = where
    assert values("search", *as_hydra_spells(word))[group][name] == found


@pytest.mark.parametrize("group", ["learner", "space", "sampler"])
def test_null_leaves_a_group_out(group):
    assert group not in values("search", *as_hydra_spells(f"{group}=null"))
    assert as_hydra_spells("nfe=null") == ["nfe=null"]


@pytest.mark.parametrize("name", ["tolerance", "grace", "learner.gain", "learner.damping", "learner.adam.rate", "learner.shrink"])
def test_infinity_is_no_setting(name):
    word = f"{name}=[inf]" if name == "learner.shrink" else f"{name}=inf"
    with pytest.raises(CampaignError, match="settings do not fit"):
        settings(values("search", "learner=rows", f"++{word}"))


def test_other_words_are_left_to_hydra_to_refuse():
    assert as_hydra_spells("nfe=5") == ["nfe=5"]
    assert as_hydra_spells("space.amongst=3") == ["space.amongst=3"]
    assert as_hydra_spells("schedule=a,b", ["schedule"]) == ["schedule=[a,b]"]
