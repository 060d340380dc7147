"""Files that version 1 once wrote are read for ever; nothing here may be regenerated."""

import json
from pathlib import Path

import pytest
import torch

from solvers import ScheduleError, draw, load, sample
from solvers.commands.check import check
from solvers.commands.show import show
from solvers.file import parse

FILES = sorted((Path(__file__).parent / "files").glob("*-v1.schedule.json"))
IDS = {"found": "892d170152bbe225", "learned": "63417aa30bf22c65", "rows-only": "a49b77edaa7595d2"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix("-v1.schedule.json"))
def test_a_file_of_version_1_loads_proves_itself_and_runs(path: Path):
    file = load(path)
    assert file.id.startswith(IDS[path.name.removesuffix("-v1.schedule.json")])
    assert check(file)
    assert f"{file.executable.nfe} evaluations" in show(file)[0]
    noise = {name: draw([1], (4,), name) for name in file.tableau.noises}
    x = sample(lambda x, at, **knobs: x.tanh(), draw([1], (4,), "xT"), file.tableau, noise or None)
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removesuffix("-v1.schedule.json"))
@pytest.mark.parametrize("version", [0, 2, 17])
def test_an_unknown_version_is_refused_by_its_number(path: Path, version: int):
    document = json.loads(path.read_bytes()) | {"version": version}
    with pytest.raises(ScheduleError, match=f"version {version}, and this release reads version 1"):
        parse(json.dumps(document).encode())


def test_a_field_with_a_default_that_a_later_release_adds_leaves_old_files_valid():
    """Hashes are of what is written: a step that lacks a newer field is the step it was."""
    found = json.loads(next(path for path in FILES if path.name.startswith("found")).read_bytes())
    assert "numbers" not in found["recipe"]["steps"][0]
    assert load(FILES[0]).recipe.steps[0].numbers == {}


def test_show_says_in_one_sentence_what_the_sampler_does():
    said = {path.name.removesuffix("-v1.schedule.json"): "\n".join(show(load(path))) for path in FILES}
    assert "multistep of orders 1 to 3 in x0; 4 steps are corrected; 4 of 5 evaluations tell the network another time" in said["found"]
    assert "noise is injected (z0); knobs: guidance; it ends on clean data" in said["rows-only"]
    for text in said.values():
        ruler = next(line for line in text.splitlines() if line.startswith("  noise "))
        assert ruler.count("o") - 1 >= 1  # the o of "noise" beside those of the states
