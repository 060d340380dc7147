"""The `galaxies` teacher: a score network that others trained on deblended HSC survey images, read from the wheel they ship.

galaxygrad 0.1.9 (SampsonML/galaxygrad) holds MLP-mixers (Tolstikhin et al. 2021) as plain numpy arrays. They answer the
score of a variance-preserving SDE with beta = 1 at time t in (0, 10], alpha = exp(-t/2), sigma^2 = 1 - exp(-t). In the
variance-exploding coordinates used here, with a = sqrt(1 + sigma^2) and t = log(1 + sigma^2), Tweedie's formula gives

    D(x; sigma) = x + sigma^2 net(x / a, t) / a

in the network's own space y = log(image + 1) / 0.1. The package is found and read, never imported (it wants jax).
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from teacher.errors import TeacherError

T_MAX = 10.0
PIP = "pip install --no-deps galaxygrad==0.1.9"


class MixerBlock(nn.Module):
    """y + mix over patches, then y + mix over channels; each an MLP of one hidden layer after a norm over the whole plane."""

    def __init__(self, patches: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.patch_in, self.patch_out = nn.Linear(patches, hidden), nn.Linear(hidden, patches)
        self.channel_in, self.channel_out = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm_patch, self.norm_channel = nn.LayerNorm([channels, patches]), nn.LayerNorm([patches, channels])

    def forward(self, y: Tensor) -> Tensor:
        """y [B, channels, patches] -> the same shape."""
        y = y + self.patch_out(functional.relu(self.patch_in(self.norm_patch(y))))
        y = y.transpose(1, 2)
        y = y + self.channel_out(functional.relu(self.channel_in(self.norm_channel(y))))
        return y.transpose(1, 2)


class Mixer(nn.Module):
    """The score network for 32x32 images. x [B, 1, 32, 32], t [B] -> score [B, 1, 32, 32]."""

    def __init__(self, size: int = 32, patch: int = 4, channels: int = 64, hidden: int = 512, blocks: int = 4) -> None:
        super().__init__()
        side = size // patch
        self.conv_in = nn.Conv2d(2, channels, patch, stride=patch)
        self.conv_out = nn.ConvTranspose2d(channels, 1, patch, stride=patch)
        self.blocks = nn.ModuleList([MixerBlock(side * side, channels, hidden) for _ in range(blocks)])
        self.norm = nn.LayerNorm([channels, side * side])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The time is a second channel."""
        plane = (t / T_MAX)[:, None, None, None].expand_as(x)
        y = self.conv_in(torch.cat([x, plane], dim=1))
        shape = y.shape[2:]
        y = y.flatten(2)
        for block in self.blocks:
            y = block(y)
        return self.conv_out(self.norm(y).unflatten(2, shape))


def find_weights(name: str = "eqx_hsc_ScoreNet32.eqx") -> Path:
    """The file inside the installed package. Raises TeacherError naming the command that installs it."""
    package = importlib.util.find_spec("galaxygrad")
    path = Path(package.submodule_search_locations[0]) / name if package and package.submodule_search_locations else None
    if path is None or not path.is_file():
        raise TeacherError(f"The galaxies teacher reads its weights from a package that is not installed here: run `{PIP}`.")
    return path


def read_arrays(path: Path) -> list[np.ndarray]:
    """The arrays in the file, in order; nothing in it is unpickled. Raises TeacherError if it is cut short or something else."""
    arrays: list[np.ndarray] = []
    try:
        with path.open("rb") as file:
            while file.peek(1):
                arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        raise TeacherError(f"{path} cannot be read as galaxygrad weights: it is missing, damaged or another file.") from None
    return arrays


def load(path: Path | None = None) -> Mixer:
    """The network with its weights, frozen. Raises TeacherError if the number or the shape of the arrays does not fit."""
    path = path or find_weights()
    arrays, network = read_arrays(path), Mixer()
    slots = [network.conv_in.weight, network.conv_in.bias, network.conv_out.weight, network.conv_out.bias]
    for block in network.blocks:
        slots += [p for layer in block.children() for p in layer.parameters()]
    slots += list(network.norm.parameters())
    if len(arrays) != len(slots) + 1 or float(arrays[-1].reshape(-1)[0]) != T_MAX:
        raise TeacherError(f"{path} holds {len(arrays)} arrays, not the {len(slots) + 1} of this network: install it with `{PIP}`.")
    for index, (slot, array) in enumerate(zip(slots, arrays, strict=False)):
        value = torch.from_numpy(array)
        if index == 2:  # a transposed convolution here counts (in, out) and runs its kernel backwards
            value = value.permute(1, 0, 2, 3).flip(2, 3)
        if index in (1, 3):
            value = value.flatten()
        if slot is None or value.shape != slot.shape:
            raise TeacherError(f"{path} has an array of shape {tuple(array.shape)} at place {index}, which does not fit this network.")
        slot.data.copy_(value)
    return network.eval().requires_grad_(False)


def denoise(network: nn.Module, x: Tensor, sigma: Tensor, told: Tensor | None = None) -> Tensor:
    """D(x; sigma) of the module's formula. Shapes: x [B, 1, H, W], sigma and told [B] or []; `told` is the label's sigma."""
    sigma = sigma.to(x).expand(len(x))
    label = sigma if told is None else told.to(x).expand(len(x))
    a = (1 + sigma**2).sqrt()[:, None, None, None]
    return x + (sigma**2)[:, None, None, None] / a * network(x / a, torch.log1p(label**2))
