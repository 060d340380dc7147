"""Where randomness comes from: one generator per (seed, name), so that no batch split can change a picture."""

import hashlib
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .errors import ScheduleError
from .tableau import Tableau

NoiseSource = Callable[[str], Tensor]


def draw(seeds: Sequence[int], shape: Sequence[int], name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal noise [len(seeds), *shape] on the CPU; sample i depends on seeds[i] and the name alone."""
    rows: list[Tensor] = []
    for seed in seeds:
        digest = hashlib.sha256(f"{int(seed)}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        rows.append(torch.randn(tuple(shape), generator=generator, dtype=torch.float32))
    return torch.stack(rows).to(dtype) if rows else torch.empty((0, *shape), dtype=dtype)


def initial(
    seeds: Sequence[int], shape: Sequence[int], tableau: Tableau, dtype: torch.dtype = torch.float32, mu: Tensor | None = None
) -> Tensor:
    """x_T [len(seeds), *shape]: sigma_T times standard normal noise.

    On a mean-reverting process it is added to mu, of the same shape or that of one sample.
    """
    noise = draw(seeds, shape, "xT", dtype) * float(tableau.initial_sigma)
    return noise if mu is None and not tableau.anchored else anchor(noise, mu).to(dtype) + noise


def anchor(x: Tensor, mu: Tensor | None) -> Tensor:
    """Mu for every sample of x; mu has x's shape or that of one sample. Raises ScheduleError."""
    if mu is None:
        raise ScheduleError("This table belongs to a mean-reverting process: give mu=, the picture where that process ends.")
    if mu.shape not in (x.shape, x.shape[1:]):
        raise ScheduleError(f"mu must have the state's shape {tuple(x.shape)} or that of one sample, not {tuple(mu.shape)}.")
    return mu.to(x.device).expand_as(x)


def noise_source(tableau: Tableau, x: Tensor, noise: Any, dtype: torch.dtype) -> NoiseSource:
    """A function from noise slots to tensors like x, from any of the three forms `sample` accepts."""
    names = tableau.noises
    if noise is None:
        if names:
            raise ScheduleError(f"This table is stochastic: give noise for {', '.join(names)}, as tensors or as one seed per sample.")
        return lambda name: x
    if isinstance(noise, Mapping):
        given = cast(Mapping[str, Tensor], noise)
    elif not isinstance(noise, Iterable):
        raise ScheduleError(f"Noise is tensors or one seed per sample, not {type(noise).__name__}.")
    else:
        items: list[Any] = [int(n) for n in noise] if isinstance(noise, Tensor) and noise.ndim == 1 else list(cast(Iterable[Any], noise))
        seeds = [int(item) for item in items if isinstance(item, numbers.Integral)]
        if len(seeds) == len(items) and (items or not len(x)):
            if len(seeds) != len(x):
                raise ScheduleError(f"Noise by seed needs one seed per sample: {len(x)} samples, {len(seeds)} seeds.")
            return lambda name: draw(seeds, x.shape[1:], name, dtype).to(x.device)
        if len(items) != len(names) or not all(isinstance(item, Tensor) for item in items):
            raise ScheduleError(
                f"This table reads {len(names)} noises ({', '.join(names)}), each a tensor like the state; {len(items)} things were given."
            )
        given = dict(zip(names, items, strict=True))
    for name in names:
        if name not in given or tuple(given[name].shape) != tuple(x.shape):
            raise ScheduleError(f"Noise {name!r} is missing or not of the state's shape {tuple(x.shape)}.")
    return lambda name: given[name].to(x.device, dtype)
