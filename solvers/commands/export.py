"""`export FILE --to KIND DEST`: write what another program reads."""

import json
from collections.abc import Callable
from pathlib import Path

from ..adapters.lists import grid_of, plain, timesteps_of
from ..adapters.scheduler_config import scheduler_config
from ..atomic import write_atomically
from ..errors import ScheduleError
from ..records import ScheduleFile
from .compatibility import compatibility
from .standalone import standalone


def export(file: ScheduleFile, source: Path, kind: str, destination: Path, prediction: str = "") -> list[str]:
    """Write `file` (read from `source`) for a program of `kind` to `destination`; returns what to tell the user. Raises ScheduleError."""
    if kind not in KINDS:
        raise ScheduleError(f"There is no export to {kind!r}; there are {', '.join(KINDS)}.")
    if prediction and kind != "diffusers":
        raise ScheduleError(f"An export to {kind} takes no --prediction.")
    said = compatibility(file)[kind]
    if said.startswith("cannot"):
        raise ScheduleError(f"{kind} {said}")
    try:
        lines = KINDS[kind](file, source, destination, prediction)
    except OSError as error:
        raise ScheduleError(f"{str(destination)!r} cannot be written: {error.strerror}.") from None
    return [*lines, f"{kind}: {said}"]


def _diffusers(file: ScheduleFile, source: Path, folder: Path, prediction: str) -> list[str]:
    config = json.dumps(scheduler_config(file, prediction), indent=1, allow_nan=False) + "\n"
    write_atomically(folder / "scheduler_config.json", config.encode())
    write_atomically(folder / "fewstep_scheduler.py", standalone().encode())
    return [
        f"wrote {folder / 'scheduler_config.json'} and {folder / 'fewstep_scheduler.py'}",
        f'in a pipeline\'s scheduler/ folder, with "scheduler": ["fewstep_scheduler", "FewstepScheduler"] in model_index.json, '
        f"from_pretrained(..., trust_remote_code=True) loads it; call the pipeline with num_inference_steps={file.executable.nfe}",
    ]


def _comfyui(file: ScheduleFile, source: Path, folder: Path, prediction: str) -> list[str]:
    name = source.name.removesuffix(".json").removesuffix(".schedule")
    write_atomically(folder / "__init__.py", COMFYUI.encode())
    if file.executable.coefficients != "scalar":  # a file and its sidecar stay side by side
        sidecar = source.resolve().parent / file.executable.coefficients.name  # where `load` looks
        write_atomically(folder / "schedules" / sidecar.name, sidecar.read_bytes())
    write_atomically(folder / "schedules" / f"{name}.schedule.json", source.read_bytes())
    return [
        f"wrote {folder}; put it into ComfyUI/custom_nodes, where Python must find the package `solvers`",
        "node: Load schedule (sampling/fewstep), its SAMPLER and SIGMAS for SamplerCustom",
    ]


COMFYUI = '''"""Schedules of Fewstep as a ComfyUI node; put further NAME.schedule.json files into schedules/."""

from pathlib import Path

from solvers.adapters import comfyui

FOLDER = Path(__file__).parent / "schedules"
try:
    import comfy_api.latest  # noqa: F401
except ImportError:
    NODE_CLASS_MAPPINGS = comfyui.mappings(FOLDER)
else:

    async def comfy_entrypoint():
        return comfyui.extension(FOLDER)
'''


def _sigmas(file: ScheduleFile, source: Path, path: Path, prediction: str) -> list[str]:
    found = list(map(plain, grid_of(file)))
    write_atomically(path, (", ".join(found) + "\n").encode())
    return [f"wrote {path}: {file.executable.nfe} sigmas and the end, {found[-1]}"]


def _timesteps(file: ScheduleFile, source: Path, path: Path, prediction: str) -> list[str]:
    write_atomically(path, (json.dumps(timesteps_of(file)) + "\n").encode())
    return [f"wrote {path}: {file.executable.nfe} timesteps"]


Writer = Callable[[ScheduleFile, Path, Path, str], list[str]]
KINDS: dict[str, Writer] = {"diffusers": _diffusers, "comfyui": _comfyui, "sigmas": _sigmas, "timesteps": _timesteps}
