"""How far two sets of pictures are apart as sets, by the features that each picture has: nobody asks which belongs to which seed.

    frechet   |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), means and covariances of the features    Heusel et al. 2017, eq. 6
    mmd       mean k(x, y) + mean k(x', y') - 2 mean k(x, x'), over all pairs, k(x, y) = (x.y / d + 1)^3
              Gretton et al. 2012, eq. 5, with the kernel of Binkowski et al. 2018

The features are the picture's numbers (pixels) or the means over positions of the last convolutions of the classifiers that LPIPS
stands on: 256 of AlexNet (alex), 512 of VGG16 (vgg). These are not the network nor the numbers of samples of the FID and KID that
papers report, so the values compare with nothing but each other. Both are 0 where the sets are equal.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from search import perceptual

Features = Callable[[Tensor], Tensor]


@functools.lru_cache(maxsize=3)
def features(name: str) -> Features:
    """From pictures [B, ...] to features [B, d]: "pixels", "alex" or "vgg". Raises PerceptualError where weights are missing."""
    if name == "pixels":
        return lambda images: images.flatten(1)
    look = perceptual.load(name).pooled  # pyright: ignore[reportArgumentType]
    return functools.lru_cache(maxsize=2)(look)  # a tensor is its own key: the teacher's and the candidate's are looked at once


def frechet(pairs: Tensor) -> Tensor:
    """The squared Frechet distance of Gaussians. Shapes: [..., seeds, 2, d] -> [...]; infinite where a number is not finite.

    With centred features A, A' and the triangles R, R' of their QR decompositions, tr (C C')^(1/2) is the sum of the singular
    values of R R'^T / (seeds - 1): no root of a matrix that fewer seeds than features make singular.
    """

    def distance(one: Tensor, other: Tensor) -> Tensor:
        means = [x.mean(-2, keepdim=True) for x in (one, other)]
        triangles = [torch.linalg.qr(x - mean, mode="r").R for x, mean in zip((one, other), means, strict=True)]
        traces = sum(r.square().sum((-2, -1)) for r in triangles)
        mixed = torch.linalg.matrix_norm(triangles[0] @ triangles[1].mT, "nuc")
        return (means[0] - means[1]).square().sum((-2, -1)) + (traces - 2 * mixed) / (one.shape[-2] - 1)

    return _apart(pairs, distance)


def mmd(pairs: Tensor) -> Tensor:
    """The squared maximum mean discrepancy, the biased estimate. Shapes as in `frechet`."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.mT / x.shape[-1] + 1).pow(3).mean((-2, -1))

    return _apart(pairs, lambda one, other: kernel(one, one) + kernel(other, other) - 2 * kernel(one, other))


def _apart(pairs: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    finite = pairs.isfinite().all(-1).all(-1).all(-1)
    one, other = pairs.double().nan_to_num(0.0, 0.0, 0.0).unbind(-2)
    return torch.where(finite, distance(one, other).clamp_min(0), torch.inf)
