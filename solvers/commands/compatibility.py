"""What each program can run of a schedule, in one sentence each."""

from ..adapters.lists import rounding, state_times
from ..adapters.scheduler_config import begun
from ..base_process import name_of
from ..compile import compile
from ..enter import entered
from ..errors import ScheduleError
from ..grids import times
from ..presets import preset
from ..records import ScheduleFile


def compatibility(file: ScheduleFile) -> dict[str, str]:
    """A sentence for every backend."""
    return {
        "numpy, torch": "everything" + ("; numpy with the lines for operators in docs/schedule-file.md" if file.tableau.layout else ""),
        "diffusers": _diffusers(file),
        "k-diffusion": _k_diffusion(file),
        "comfyui": _comfyui(file),
        "sigmas": _lists(file),
        "timesteps": _timesteps(file),
    }


def _diffusers(file: ScheduleFile) -> str:
    if file.tableau.layout is not None:
        return "cannot run: its coefficients are tensors, and a scheduler_config.json holds numbers"
    try:
        begun(file)
    except ScheduleError as error:
        return f"cannot run: {error}"
    return "everything" + ("; guidance per evaluation through the callback `scheduler.guide`" if file.tableau.knobs else "")


def _k_diffusion(file: ScheduleFile) -> str:
    try:
        state_times(file)
    except ScheduleError as error:
        return f"cannot run: {error}"
    strange = sorted(file.tableau.knobs - {"guidance"})
    if strange:
        return f"cannot run: no {', '.join(strange)} there"
    return "everything" + ("; guidance per evaluation needs set_guidance=" if file.tableau.knobs else "")


def _comfyui(file: ScheduleFile) -> str:
    said = _k_diffusion(file)
    if said.startswith("cannot"):
        return said
    off = max(abs(float(e.label) - round(float(e.label))) for e in file.tableau.evals)
    if name_of(file.process).startswith("vp") and not (name_of(file.process) == "vp-discrete" and off == 0):
        return "everything but fractional labels: eps and v models there round the time to a training step"
    return "everything"


def lost_by_sigmas(file: ScheduleFile) -> list[str]:
    """What a plain list of sigmas leaves out."""
    lost: list[str] = []
    if any(e.label != t for e, t in zip(file.tableau.evals, file.tableau.asked, strict=True)):
        lost.append("the labels")
    if file.tableau.knobs:
        lost.append("the knobs")
    return ["the coefficients", *lost] if not _is_first_order(file) else lost


def _is_first_order(file: ScheduleFile) -> bool:
    """Whether these rows are what a first-order sampler does on the same states."""
    try:
        states = [*state_times(file), float(file.tableau.rows[-1].time)]
        euler = compile(preset("ddim", times(states), file.process))
    except ScheduleError:  # states that repeat, or go up
        return False
    table = entered(file.tableau)
    alike = abs(float(table.initial_sigma) / float(table.evals[0].sigma) - 1) < 1e-10
    return alike and len(euler.rows) == len(table.rows) and table.apart(euler) < 1e-10


def _lists(file: ScheduleFile) -> str:
    try:
        state_times(file)
    except ScheduleError as error:
        return f"cannot run: {error}"
    lost = lost_by_sigmas(file)
    return f"loses {', '.join(lost)}" if lost else "everything, for a sampler of first order (euler, ddim)"


def _timesteps(file: ScheduleFile) -> str:
    try:
        return f"{_lists(file)}; {rounding(file)}"
    except ScheduleError as error:
        return f"cannot run: {error}"
