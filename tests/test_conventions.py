"""Starts and ends as words."""

import pytest
from oracle import CASES, Case

from solvers import ScheduleError, preset
from solvers.conventions import FINALS, ending, orders


@pytest.mark.parametrize(
    ("count", "tail", "expected"),
    [
        (6, "full", [1, 2, 3, 3, 3, 3]),
        (6, "lower", [1, 2, 3, 3, 2, 1]),
        (6, "last", [1, 2, 3, 3, 3, 1]),
        (9, "lower-below-10", [1, 2, 3, 3, 3, 3, 3, 2, 1]),
        (10, "lower-below-10", [1, 2, *[3] * 8]),
        (14, "lower-below-15", [1, 2, *[3] * 10, 2, 1]),
        (15, "lower-below-15", [1, 2, *[3] * 13]),
        (1, "lower", [1]),
        (2, "lower", [1, 1]),
    ],
)
def test_orders_rise_from_one_and_end_as_the_word_says(count: int, tail: str, expected: list[int]):
    assert orders(3, count, tail) == expected


def test_a_grid_ends_at_zero_at_its_last_noisy_point_or_one_before(case: Case):
    noisy, clean = case.grid(5, clean=False), case.process.t_clean
    for given in (noisy, [*noisy, clean]):
        assert ending(given, case.process, "zero") == [*noisy, clean]
        assert ending(given, case.process, "sigma_min") == noisy
        assert ending(given, case.process, "truncate") == noisy[:-1]
        assert preset("unipc-2", given, case.process, final="truncate") == preset("unipc-2", noisy[:-1], case.process)


def test_a_final_may_not_leave_an_empty_grid():
    p = CASES["ve"].process
    with pytest.raises(ScheduleError, match="leaves no step"):
        ending([2.0, 1.0], p, "truncate")
    with pytest.raises(ScheduleError, match=", ".join(FINALS)):
        preset("ddim", [2.0, 1.0], p, final="sigma_max")


@pytest.mark.parametrize("name", ["unipc-3", "dpmpp-3m", "lms", "res-2m"])
def test_an_unknown_tail_is_answered_with_the_known_ones(name: str):
    with pytest.raises(ScheduleError, match="there are full, lower"):
        preset(name, [2.0, 1.0, 0.5], CASES["ve"].process, tail="short")
