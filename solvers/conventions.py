"""How the field starts and ends a multistep sampler: a choice of words, in one place.

Start: step i has i + 1 evaluations to look at, so orders rise 1, 2, ... up to the method's. A clean end needs no word: in the
domain lambda the step to sigma = 0 is of first order by itself.

    tail            the order of the last steps
    full            the method's
    lower           at most the steps left: ..., 3, 2, 1  (UniPC, SA-Solver)
    lower-below-10  so in a grid of fewer than 10 steps   (dpm_solver_pytorch's lower_order_final)
    lower-below-15  so in a grid of fewer than 15 steps   (diffusers' lower_order_final)
    last            1 in the last step                    (diffusers' euler_at_final)

    final           where a grid that was made without regard to its end shall stop
    zero            one step further, at sigma = 0                   (k-diffusion, diffusers' final_sigmas_type="zero")
    sigma_min       at its last noisy point                          (EDM without the appended zero, "sigma_min")
    truncate        one point before that, which saves an evaluation and leaves noise on purpose (k-diffusion, issue 43)
"""

from collections.abc import Sequence
from typing import Any

from .errors import ScheduleError
from .family import one_of
from .process import Process
from .schedule import Step

TAILS = {"full": 0, "lower": 1025, "lower-below-10": 10, "lower-below-15": 15, "last": 0}
FINALS = ("zero", "sigma_min", "truncate")


def orders(order: int, count: int, tail: str = "full") -> list[int]:
    """The order of each of `count` steps. Raises ScheduleError for an unknown tail."""
    one_of("tail", tail, list(TAILS))
    rising = [min(order, i + 1) for i in range(count)]
    if count < TAILS[tail]:
        return [min(p, count - i) for i, p in enumerate(rising)]
    return [*rising[:-1], 1] if tail == "last" else rising


def closing(times: Sequence[float], process: Process) -> str:
    """The tail of samplers whose step to sigma = 0 is of first order by their own rule, not by their domain's limit."""
    return "last" if times[-1] == process.t_clean else "full"


def steps_of(times: Sequence[float], order: int, tail: str = "full", **words: Any) -> list[Step]:
    """One multistep step per interval, of rising order, with the given words."""
    return [Step(to=t, order=p, **words) for t, p in zip(times[1:], orders(order, len(times) - 1, tail), strict=True)]


def ending(times: Sequence[float], process: Process, word: str) -> list[float]:
    """The grid with its end as the word says. Raises ScheduleError for an unknown word, or where no step would be left."""
    one_of("final", word, FINALS)
    noisy = [t for t in times if t != process.t_clean]
    found = {"zero": [*noisy, process.t_clean], "sigma_min": noisy, "truncate": noisy[:-1]}[word]
    if len(found) < 2:
        raise ScheduleError(f"Final {word!r} leaves no step of a grid of {len(times)} points.")
    return found
