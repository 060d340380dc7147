"""`import SOURCE --from KIND`: another tool's schedule as a file of ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..compile import compile
from ..errors import ScheduleError
from ..file import FittedFor, Provenance, save
from ..importers.black_box import from_diffusers
from ..importers.document import Asked, read
from ..importers.lists import from_dc_solver, from_ld3, from_sigmas, from_timesteps
from ..importers.tables import from_gs, from_neuralsolver
from ..importers.usf import from_usf
from ..schedule import SolverSchedule

KINDS: dict[str, Callable[[Any, Asked], Any]] = {
    "dc-solver": from_dc_solver,
    "diffusers": from_diffusers,
    "gs": from_gs,
    "ld3": from_ld3,
    "neuralsolver": from_neuralsolver,
    "sigmas": from_sigmas,
    "timesteps": from_timesteps,
    "usf": from_usf,
}


def import_(source: Path, kind: str, asked: Asked, destination: Path) -> list[str]:
    """Read `source`, a JSON file of `kind`, and write a schedule file. Raises ScheduleError."""
    if kind not in KINDS:
        raise ScheduleError(f"There is no import from {kind!r}; there are {', '.join(KINDS)}.")
    found = KINDS[kind](read(source), asked)
    provenance = Provenance(note=f"imported from {kind}: {source.name}")
    card = FittedFor(prediction=asked.prediction) if asked.prediction else None
    if isinstance(found, SolverSchedule):
        file = save(compile(found), destination, recipe=found, provenance=provenance, fitted_for=card)
    else:
        table, process = found
        file = save(table, destination, process=process, provenance=provenance, fitted_for=card)
    return [f"wrote {destination}: {file.executable.nfe} evaluations, id {file.id[:16]}"]
