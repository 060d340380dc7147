"""An opponent for learning by Adam: a small network that tells samples from the teacher's, and a term that makes it fail.

With D(x) what it says of a picture x, and pairs of a sample and the teacher's own of the same noise (R3GAN: Huang et al. 2024; for
solvers, GAS: Oganov et al. 2025):

    the sampler makes small    softplus(D(teacher's) - D(sample))
    the opponent makes small   softplus(D(sample) - D(teacher's)) + penalty / 2 (|grad D(teacher's)|^2 + |grad D(sample)|^2)

Every step of the sampler is preceded by one of its opponent. It is numbers in a vector, like what it plays against, and lives as long
as the fit.
"""

from typing import Annotated

import msgspec
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus
from torch.nn.utils import parameters_to_vector

WIDTHS = (16, 32, 64)  # channels, each at half the size of the one before


class Adversary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much it counts.

    weight   of the adversarial term beside the loss, which is 1 at the start; 0: there is no opponent
    rate     at which the opponent learns
    penalty  on how steep it is
    """

    weight: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    rate: Annotated[float, msgspec.Meta(gt=0, le=1e9)] = 2e-4
    penalty: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 1.0


class Opponent:
    """D of pictures [B, C, H, W], with its parameters as a vector."""

    def __init__(self, channels: int) -> None:
        layers = list[nn.Module]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for before, width in zip((channels, *WIDTHS), WIDTHS, strict=False):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.LeakyReLU(0.2), nn.AvgPool2d(2, ceil_mode=True)]
            self._network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], 1))

    @property
    def start(self) -> Tensor:
        """The parameters it begins with."""
        return parameters_to_vector(self._network.parameters()).detach()

    def says(self, parameters: Tensor, pictures: Tensor) -> Tensor:
        """D of each, [B]."""
        names, shapes = zip(*((name, own.shape) for name, own in self._network.named_parameters()), strict=True)
        parts = parameters.float().split([shape.numel() for shape in shapes])
        own = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return functional_call(self._network, own, (pictures.float(),))[:, 0]

    def term(self, parameters: Tensor, samples: Tensor, teachers: Tensor) -> Tensor:
        """What the sampler makes small, [B]."""
        return softplus(self.says(parameters, teachers).detach() - self.says(parameters, samples))

    def slope(self, parameters: Tensor, samples: Tensor, teachers: Tensor, penalty: float) -> Tensor:
        """The gradient of what the opponent makes small, like its parameters."""
        parameters = parameters.detach().requires_grad_()
        both = [pictures.detach().requires_grad_() for pictures in (samples, teachers)]
        said = [self.says(parameters, pictures) for pictures in both]
        loss = softplus(said[0] - said[1]).mean()
        for pictures, answer in zip(both, said, strict=True):
            (steep,) = torch.autograd.grad(answer.sum(), pictures, create_graph=True)
            loss = loss + penalty / 2 * steep.square().flatten(1).sum(1).mean()
        return torch.autograd.grad(loss, parameters)[0]
