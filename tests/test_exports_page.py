"""docs/exports.md: its table, made again, and its commands."""

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers transformers)")
pytest.importorskip("transformers", reason="transformers is not installed (pip install transformers)")
import exports

from solvers.__main__ import parser

PAGE = (Path(__file__).parents[1] / "docs" / "exports.md").read_text()

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


def test_one_schedule_draws_one_picture_in_every_program(tmp_path: Path):
    rows = exports.table(tmp_path)
    for name, program, dtype, difference in rows:
        assert difference <= exports.BOUNDS[dtype], (name, program)
    shown = re.findall(r"^\| (.+?) \| (.+?) \| (\d\.\de[+-]\d\d) \| (\d\.\de[+-]\d\d) \|$", PAGE, re.M)
    assert [row[:2] for row in shown] == list(dict.fromkeys(row[:2] for row in rows))
    for _, _, double, single in shown:
        assert float(double) <= exports.BOUNDS[torch.float64]
        assert float(single) <= exports.BOUNDS[torch.float32]


def test_every_command_and_kind_of_the_page_exists():
    actions = {a.dest: a for a in parser()._actions}
    known = actions["command"].choices
    assert isinstance(known, dict)
    for command in re.findall(r"python -m solvers (\w+)", PAGE):
        assert command in known
    kinds = {a.dest: a.choices for a in known["import"]._actions}["kind"]
    listed = re.search(r"\| KIND \|.*?\n\n", PAGE, re.S).group()
    assert set(re.findall(r"^\| (.+?) \|", listed, re.M)[1:]) == {
        "`sigmas`, `timesteps`",
        *(f"`{k}`" for k in set(kinds) - {"sigmas", "timesteps"}),
    }
