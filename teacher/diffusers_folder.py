"""A local diffusers folder as a teacher: a U-Net with its scheduler's table of alphas, or a whole pipeline's U-Net.

The scheduler config says which process the network was trained on (alphas_cumprod) and what it predicts; the folder is
read with diffusers' own loaders, offline. Networks that need text are brought with `teacher.denoiser.wrap` instead.
"""

import json
from pathlib import Path
from typing import Any

import torch

from solvers import process
from solvers.importers.document import trained_on
from solvers.prediction import DIFFUSERS
from teacher.denoiser import Teacher, digest, guided, wrap
from teacher.errors import TeacherError
from teacher.torchvision_repair import repair_torchvision

PREDICTIONS = {word: kind for word, kind in DIFFUSERS.items() if kind != "flow"}  # of a table of alphas


def diffusers_teacher(
    folder: Path, guidance: float = 1.0, null_class: int | None = None, start: float | None = None, end: float = 0.0
) -> Teacher:
    """The teacher in `folder` (a pipeline with unet/ and scheduler/). Times are training indices; end 0 is the last trained noise.

    cond is the class of a class-conditional network, by default the seed modulo their number. null_class is the one that stands for
    "no class" where the network was trained with such a one: guidance needs it, and no seed has it.
    """
    if not (folder / "unet" / "config.json").is_file() or not (folder / "scheduler").is_dir():
        raise TeacherError(f"{folder} is no local diffusers pipeline: it needs the folders unet/ and scheduler/.")
    repair_torchvision()
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except ImportError:
        raise TeacherError("A diffusers folder needs diffusers: run `pip install diffusers`.") from None
    told = (folder / "unet" / "config.json").read_text()
    try:
        network_class = json.loads(told).get("_class_name")
        if network_class != "UNet2DModel":
            raise ValueError(f"its network is a {network_class}, and comes with teacher.denoiser.wrap, as docs/own-model.md shows.")
        # without accelerate the other way of loading ends in this one, and says so at length
        unet = UNet2DModel.from_pretrained(folder, subfolder="unet", local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False)
        config: Any = DDPMScheduler.load_config(folder, subfolder="scheduler", local_files_only=True)
        if trained_on(config) == "flow":
            raise ValueError("its network is of a flow, and comes with teacher.denoiser.wrap, as docs/own-model.md shows.")
        scheduler: Any = DDPMScheduler.from_config(config)
        table = process("vp-discrete", alphas_cumprod=scheduler.alphas_cumprod.double())
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise TeacherError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    kind = scheduler.config["prediction_type"]
    if kind not in PREDICTIONS:
        raise TeacherError(f"{folder} predicts {kind!r}; known are {', '.join(PREDICTIONS)}.")
    unet.eval().requires_grad_(False)
    count = unet.config["num_class_embeds"] or 0
    classes = [k for k in range(count) if k != null_class]
    if null_class is not None and (len(classes) == count or not classes):
        raise TeacherError(f"{folder} knows {count} classes, and class {null_class} cannot be the one that stands for none.")
    if guidance != 1.0 and null_class is None:
        needed = "say which class stands for none: model.options.null_class=..." if count else "its network knows no classes"
        raise TeacherError(f"{folder} cannot be guided: {needed}.")

    def network(x: torch.Tensor, t: torch.Tensor, **knobs: Any) -> torch.Tensor:
        return unet(x, t, **knobs).sample

    denoiser = wrap(network, table, PREDICTIONS[kind], "index", "class_labels" if count else None)  # pyright: ignore[reportArgumentType]
    return Teacher(
        name=f"diffusers:{folder.name}",
        denoiser=denoiser if null_class is None else guided(denoiser, null_class),
        process=table,
        start=table.t_max if start is None else start,
        end=end,
        shape=(unet.config["in_channels"], *_square(unet.config["sample_size"])),
        digest=digest(unet, kind, told, *([] if null_class is None else [null_class])),
        prediction=PREDICTIONS[kind],
        conditions=lambda seeds: torch.tensor([classes[seed % len(classes)] for seed in seeds]) if classes else None,
        knobs=(("guidance", float(guidance)),) if guidance != 1.0 else (),
        calls=1 if guidance == 1.0 else 2,
        network=unet,
    )


def _square(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
