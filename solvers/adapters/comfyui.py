# pyright: basic, reportMissingImports=false
"""Schedules in ComfyUI: a node that loads one, and registration under a name of its own.

The model that ComfyUI hands to a sampler is k-diffusion's, so this is `sample_fewstep` plus what is ComfyUI's own: which
coordinates the model lives in, how it scales the first noise, where the guidance scale is kept, and that eps and v models
round the time they are told to a training step.
"""

import functools
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base_process import name_of
from ..errors import ScheduleError
from ..file import load
from ..prediction import Prediction
from ..records import ScheduleFile
from .k_diffusion import sample_fewstep
from .lists import sigmas_of

PREDICTIONS: dict[str, Prediction] = {"EPS": "eps", "V_PREDICTION": "v", "CONST": "flow", "EDM": "x0"}
# EDM: its preconditioning belongs to the denoiser, so what the network "predicts" at a label is the data itself.
log = logging.getLogger("fewstep")


def sample_in_comfyui(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None, *, schedule: ScheduleFile
) -> Tensor:
    """What a SAMPLER of ComfyUI calls. Refuses a model of another kind than the schedule's; raises ScheduleError.

    At the largest sigma ComfyUI makes x_T as sqrt(1 + sigma^2) noise for models that are not flows; a schedule starts from
    sigma noise, and x is scaled back to that.
    """
    guider = model.inner_model
    space = guider.inner_model.model_sampling
    kinds = [kind.__name__ for kind in type(space).__mro__]  # EDM derives from V_PREDICTION, that from EPS: the first counts
    prediction: Prediction | None = next((PREDICTIONS[name] for name in kinds if name in PREDICTIONS), None)
    schedule.predicted(prediction or "")
    flow = name_of(schedule.process) == "flow"
    if flow != ("CONST" in kinds):
        raise ScheduleError(f"This schedule is for {'flow' if flow else 'eps, v or x0'} models, and the model is not one.")
    if name_of(schedule.process) == "vp-discrete":
        ours, theirs = float(schedule.process.sigma_of(schedule.process.t_max)), float(space.sigma_max)
        if abs(ours - theirs) > 1e-2 * ours:
            raise ScheduleError(f"This schedule is for a noise table that ends at sigma {ours:.4g}; the model's ends at {theirs:.4g}.")
        for line in label_rounding(schedule, space):
            log.warning(line)
    first = sigmas[0]
    if not flow and (first > space.sigma_max or torch.isclose(first, torch.as_tensor(space.sigma_max).to(first), rtol=1e-5, atol=0.0)):
        x = x * (first / (1 + first**2).sqrt()).to(x)
    return sample_fewstep(
        model, x, sigmas, extra_args, callback, disable, schedule=schedule, prediction=prediction, set_guidance=guider.set_cfg
    )


def label_rounding(schedule: ScheduleFile, space: Any) -> list[str]:
    """A sentence for every evaluation whose label the model rounds by more than a thousandth of a training step."""
    lines = []
    for i, evaluation in enumerate(schedule.tableau.evals):
        asked = float(evaluation.label)
        told = float(space.timestep(schedule.process.sigma_of(asked).float()))
        if abs(told - asked) > 1e-3:
            lines.append(f"evaluation {i} asks for time {asked:.4g}, and the model is told {told:.4g}: ComfyUI rounds it")
    return lines


def load_schedule(path: Path) -> tuple[Any, Tensor, str]:
    """SAMPLER, SIGMAS and a text that says what the schedule is."""
    import comfy.samplers

    file = load(path)
    sampler = comfy.samplers.KSAMPLER(sample_in_comfyui, extra_options={"schedule": file})
    return sampler, torch.tensor(sigmas_of(file), dtype=torch.float32), f"{file.executable.nfe} evaluations, id {file.id[:16]}"


def register(name: str, path: Path) -> None:
    """Add the schedule under `name` to the samplers and the schedulers of the KSampler node; use both, with steps = NFE."""
    import comfy.k_diffusion.sampling
    import comfy.samplers

    file = load(path)

    def handler(space: Any, steps: int) -> Tensor:
        if steps != file.executable.nfe:
            raise ScheduleError(f"Schedule {name!r} makes exactly {file.executable.nfe} steps, not {steps}, at denoise 1.")
        return torch.tensor(sigmas_of(file), dtype=torch.float32)

    setattr(comfy.k_diffusion.sampling, f"sample_{name}", functools.partial(sample_in_comfyui, schedule=file))
    comfy.samplers.KSampler.SAMPLERS.append(name)
    comfy.samplers.SCHEDULER_HANDLERS[name] = comfy.samplers.SchedulerHandler(handler, use_ms=True)
    comfy.samplers.SCHEDULER_NAMES.append(name)


def names(folder: Path) -> list[str]:
    """The schedules in a folder."""
    return sorted(path.name for path in folder.glob("*.schedule.json"))


def chosen(folder: Path, name: str) -> tuple[Any, Tensor, str]:
    """`load_schedule` of a file of the folder and of nothing else."""
    if name not in names(folder):
        raise ScheduleError(f"There is no schedule {name!r} in {folder}.")
    return load_schedule(folder / name)


def extension(folder: Path) -> Any:
    """The node "Load schedule" in the V3 API."""
    from comfy_api.latest import ComfyExtension, io

    class FewstepLoadSchedule(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(
                node_id="FewstepLoadSchedule",
                display_name="Load schedule",
                category="sampling/fewstep",
                inputs=[io.Combo.Input("name", options=names(folder))],
                outputs=[io.Sampler.Output(), io.Sigmas.Output(), io.String.Output(display_name="report")],
            )

        @classmethod
        def execute(cls, name: str) -> Any:
            return io.NodeOutput(*chosen(folder, name))

    class Fewstep(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return [FewstepLoadSchedule]

    return Fewstep()


def mappings(folder: Path) -> dict[str, type]:
    """The same node for a ComfyUI without the V3 API: its NODE_CLASS_MAPPINGS."""

    class FewstepLoadSchedule:
        RETURN_TYPES = ("SAMPLER", "SIGMAS", "STRING")
        RETURN_NAMES = ("sampler", "sigmas", "report")
        FUNCTION, CATEGORY = "execute", "sampling/fewstep"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"name": (names(folder),)}}

        def execute(self, name: str) -> tuple[Any, Tensor, str]:
            return chosen(folder, name)

    return {"FewstepLoadSchedule": FewstepLoadSchedule}
