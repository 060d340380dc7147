"""Teachers by name.

    digits                 the embedded class-conditional U-Net (32x32 MNIST), knob `guidance`
    galaxies               the score network of the galaxygrad wheel (32x32 survey images), which the user installs
    diffusers:PATH         a local diffusers pipeline's folder, with its unet/ and scheduler/ (unconditional or class-conditional)
    gaussian, mixture      analytic and exact
    MODULE:FUNCTION        what a function of yours returns (docs/own-model.md); the module is looked for in the current folder too

A loader returns a `Teacher`. Nothing is ever downloaded.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from solvers import At, process
from teacher import galaxies, own
from teacher.analytic import analytic_teacher
from teacher.denoiser import Teacher, guided
from teacher.diffusers_folder import diffusers_teacher
from teacher.errors import TeacherError
from teacher.place import placed
from teacher.pretrain import HOME
from teacher.unet import NULL_CLASS, UNet, denoise

DIGITS = HOME / "weights.safetensors"


def digits(weights: str | Path = DIGITS, guidance: float = 1.0) -> Teacher:
    """The embedded teacher. cond is the class 0..9, by default the seed modulo 10."""
    weights = Path(weights)
    if not weights.is_file():
        raise TeacherError(f"The weights {weights} are missing: run `python -m teacher.pretrain`, or check out the repository whole.")
    try:
        with safetensors.safe_open(weights, "pt") as file:
            sigma_data = float(file.metadata()["sigma_data"])
        network = UNet()
        network.load_state_dict(safetensors.torch.load_file(weights))
    except (safetensors.SafetensorError, RuntimeError, KeyError, TypeError, ValueError):
        raise TeacherError(f"The weights {weights} are damaged or belong to another network.") from None
    network.eval().requires_grad_(False)

    def denoiser(x: Tensor, at: At, *, cond: Tensor | None = None) -> Tensor:
        labels = torch.full((len(x),), NULL_CLASS, device=x.device) if cond is None else cond
        return denoise(network, x, at.sigma, labels, sigma_data, told=at.label)

    return Teacher(
        name="digits",
        denoiser=guided(denoiser, NULL_CLASS),
        process=process("ve", sigma_max=80.0),
        start=80.0,
        end=0.02,
        shape=(1, 32, 32),
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        conditions=lambda seeds: torch.tensor([seed % 10 for seed in seeds]),
        knobs=(("guidance", float(guidance)),) if guidance != 1.0 else (),
        calls=1 if guidance == 1.0 else 2,
        licence="weights trained on MNIST (LeCun, Cortes)",
        network=network,
    )


def galaxies_teacher(weights: str | Path | None = None) -> Teacher:
    """Score network of SampsonML/galaxygrad on HSC survey images, in its own space log(image + 1) / 0.1."""
    path = Path(weights) if weights else galaxies.find_weights()
    network = galaxies.load(path)

    def denoiser(x: Tensor, at: At, *, cond: Tensor | None = None) -> Tensor:
        return galaxies.denoise(network, x, at.sigma, told=at.label)

    return Teacher(
        name="galaxies",
        denoiser=denoiser,
        process=process("ve", sigma_max=148.0),
        start=100.0,
        end=0.05,
        shape=(1, 32, 32),
        digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence="weights: none declared (galaxygrad)",
        network=network,
    )


LOADERS: dict[str, Callable[..., Teacher]] = {
    "digits": digits,
    "galaxies": galaxies_teacher,
    "gaussian": functools.partial(analytic_teacher, "gaussian", process("ve", sigma_max=80.0), 80.0, 0.02),
    "mixture": functools.partial(analytic_teacher, "mixture", process("vp-linear"), 1.0, 1e-3),
}


def ready(name: str, options: Mapping[str, Any], device: str = "cpu", chunk: int = 64) -> Teacher:
    """The teacher of that name, its network where it should be, and tried. Raises TeacherError in one sentence."""
    if not isinstance(options, Mapping):
        raise TeacherError(f"The options of a model are names and values, not {options!r}.")
    return own.tried(placed(load(name, **options), device, chunk))


def load(name: str, /, **options: Any) -> Teacher:
    """The teacher of that name. Raises TeacherError in one sentence if it is unknown, missing or damaged.

    MODULE:FUNCTION runs code: only a name that the user has typed may come here, never one that was read from a file.
    """
    if name.startswith("diffusers:"):
        loader = functools.partial(diffusers_teacher, Path(name.removeprefix("diffusers:")))
    elif ":" in name:
        return own.load(name, options)
    elif name in LOADERS:
        loader = LOADERS[name]
    else:
        raise TeacherError(f"There is no model {name!r}; there are {', '.join(LOADERS)}, diffusers:PATH and MODULE:FUNCTION.")
    own.require(loader, name, options)
    try:
        return loader(**options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TeacherError(f"Model {name!r} does not take these options: {error}.") from None
