"""The page of what learning gains is that of its cells."""

import pytest
from learned_cells import CELLS, questions
from learned_page import page


def test_the_page_says_what_the_cells_say():
    assert (CELLS / "README.md").read_text() == page()


def test_every_cell_answers_a_question():
    assert {path.name for path in CELLS.glob("*.json")} <= {question.path.name for question in questions()}


def test_a_cells_test_error_is_that_of_the_seeds_it_keeps():
    for question in questions():
        if (cell := question.read()) and cell.errors:
            assert cell.test.value**2 == pytest.approx(sum(cell.errors) / len(cell.errors), rel=1e-4), question
