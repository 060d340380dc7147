"""The list of errata names presets and tests that exist, and for every preset called compat a test of each kind."""

import re
from pathlib import Path

import pytest
from errata import ERRATA, Erratum

from solvers import PRESETS

HERE = Path(__file__).parent


def presets(words: str) -> list[str]:
    return [word.split()[0] for word in words.split(", ")] if words else []


@pytest.mark.parametrize("erratum", ERRATA, ids=lambda erratum: erratum.where)
def test_an_erratum_names_presets_and_tests_that_exist(erratum: Erratum):
    assert erratum.compat_tests
    assert erratum.exact_tests
    for test in (*erratum.compat_tests, *erratum.exact_tests):
        file, name = test.split("::")
        assert re.search(rf"^def test_{name}\(", (HERE / f"test_{file}.py").read_text(), re.MULTILINE), test
    assert set(presets(erratum.compat)) <= set(PRESETS)
    assert erratum.exact.startswith("every") or set(presets(erratum.exact)) <= set(PRESETS)


def test_every_preset_named_compat_stands_in_the_list():
    listed = {name for erratum in ERRATA for name in presets(erratum.compat)}
    assert {name for name in PRESETS if name.endswith("compat")} <= listed
