"""What is left of a schedule where only a list of numbers is understood: sigmas, or integer timesteps."""

import math

import numpy as np

from ..base_process import name_of
from ..enter import entered
from ..errors import ScheduleError
from ..kinds import Field
from ..records import ScheduleFile


def state_times(file: ScheduleFile) -> list[float]:
    """The time of every state that is evaluated. Raises ScheduleError where no noise alone is the first, or where a sigma is not enough."""
    if file.process.anchored:
        raise ScheduleError("This schedule starts from noise around a picture mu, which no list of sigmas says.")
    layout = file.tableau.layout
    if layout is not None and layout.kind != Field.kind:
        raise ScheduleError(
            f"The states of this schedule are mixed by coefficients of kind {layout.kind!r}; no list of sigmas says their noise."
        )
    return list(entered(file.tableau).asked)


def sigmas_of(file: ScheduleFile) -> list[float]:
    """The sigma of every evaluated state as users of the process count it (flow: t; else sigma / alpha), and the terminal 0.

    The 0 says that the sample is done, also where the schedule leaves noise in it: programs rescale what ends elsewhere.
    """
    return [*grid_of(file)[:-1], 0.0]


def grid_of(file: ScheduleFile) -> list[float]:
    """The same for another sampler to go by: its last is where the schedule ends."""
    return [float(file.process.sigma_of(t)) for t in (*state_times(file), float(file.tableau.rows[-1].time))]


def plain(number: float) -> str:
    """The shortest decimal that reads back as the same float, without an exponent: some programs read 1e-05 as 1 and -5."""
    return np.format_float_positional(number, trim="-")


def timesteps_of(file: ScheduleFile) -> list[int]:
    """The times of the states as training steps, rounded. Raises ScheduleError where a process has none, or two of them meet."""
    kind = name_of(file.process)
    if kind not in ("vp-discrete", "flow"):
        raise ScheduleError(f"Process {kind!r} has no integer training steps; export its sigmas.")
    found = [round(t * (1000 if kind == "flow" else 1)) for t in state_times(file)]
    if len(set(found)) < len(found):
        raise ScheduleError("Two evaluations of this schedule fall on the same integer timestep; export its sigmas.")
    return found


def rounding(file: ScheduleFile) -> str:
    """What `timesteps_of` loses, in words."""
    scale = 1000 if name_of(file.process) == "flow" else 1
    pairs = [(t * scale, n) for t, n in zip(state_times(file), timesteps_of(file), strict=True)]
    moved = max(abs(t - n) for t, n in pairs)
    ratios = [float(file.process.sigma_of(t / scale) / file.process.sigma_of(n / scale)) for t, n in pairs if n]
    percent = 100 * max((abs(math.log(r)) for r in ratios), default=0.0)
    return f"rounding moves the states by up to {moved:.2g} training steps, their sigma by up to {percent:.2g} %"
