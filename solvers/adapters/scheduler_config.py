"""The scheduler_config.json of a schedule, without importing diffusers."""

from typing import Any

import msgspec

from ..base_process import name_of
from ..enter import entered
from ..errors import ScheduleError
from ..prediction import DIFFUSERS
from ..process import VPDiscrete
from ..records import ScheduleFile, record
from ..tableau import Tableau

TYPES = {kind: word for word, kind in DIFFUSERS.items()}


def scheduler_config(file: ScheduleFile, prediction: str = "", timestep_scale: float | None = None) -> dict[str, Any]:
    """What `FewstepScheduler.from_config` takes.

    prediction      what the pipeline's network answers: "eps", "x0", "v" or "flow"; by default what the file was fitted for
    timestep_scale  the network is told timestep_scale * label; by default 1000 for flow (as diffusers counts), else 1
    Raises ScheduleError if the prediction is neither given nor in the file, or another one than there.
    """
    if file.executable.coefficients != "scalar":
        raise ScheduleError("The coefficients of this schedule are tensors, and a scheduler_config.json holds numbers.")
    known = file.predicted(prediction) or ("flow" if name_of(file.process) == "flow" else "")
    if known not in TYPES:
        raise ScheduleError(f"This file does not say what its network predicts; give one of {', '.join(TYPES)}, not {known!r}.")
    table = begun(file)
    scale = timestep_scale if timestep_scale is not None else 1000.0 if name_of(file.process) == "flow" else 1.0
    trained = len(file.process.alphas_cumprod) if isinstance(file.process, VPDiscrete) else 1000
    return {
        "_class_name": "FewstepScheduler",
        "rows": msgspec.to_builtins([record(row) for row in table.rows]),
        "prediction_type": TYPES[known],
        "timestep_scale": scale,
        "num_train_timesteps": trained,
        "schedule_id": file.id,
        "initial_sigma": table.sigma,
    }


def begun(file: ScheduleFile) -> Tableau:
    """The table as a pipeline runs it, from its first evaluation on. Raises ScheduleError where a pipeline cannot begin there."""
    if file.process.anchored:
        raise ScheduleError("This schedule starts from noise around a picture mu, which no pipeline passes to its scheduler.")
    strange = sorted(file.tableau.knobs - {"guidance"})
    if strange:
        raise ScheduleError(f"A pipeline takes no {', '.join(strange)} from its scheduler.")
    table = entered(file.tableau)
    if name_of(file.process) == "flow" and abs(float(table.initial_sigma) - 1) > 1e-6:
        raise ScheduleError(
            f"A flow pipeline starts from noise of its own size, 1, and this schedule from {float(table.initial_sigma):.4g} of it."
        )
    return table
