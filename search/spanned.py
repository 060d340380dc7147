"""A network's derivative along many directions, asked along the few that span them.

Under small changes of a sampler's numbers the state of a seed moves in few directions, since all that it is made of are a few answers.
With the tangents of one seed as rows of X [P, pixels], each scaled to length one over all seeds, and V [P, r] the leading eigenvectors
of X X^T,

    J X^T ~= (J (V^T X)^T) V^T,      |X - V V^T X|^2 <= tolerance |X|^2 on every seed,

so that r directions are asked for and not P (principal components; Golub and Van Loan, section 2.4). Where the network is told its
time, that moves too: in one or two directions, which are the same for all seeds and asked for as they are. tolerance 0 is exact.

It is a function of torch with rules of its own: under `torch.func.vmap` of `torch.func.jvp` it sees all tangents at once.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from solvers import At

TOLERANCE = 1e-4
TOGETHER = 4  # directions that go through the network at once: with a batch of seeds more than this leave the caches
TINY = 1e-30
Network = Callable[[Tensor, At], Tensor]


def spanned(network: Network, x: Tensor, at: At, tolerance: float) -> Tensor:
    """network(x, at), with that derivative."""
    return _Answer.apply(x, *at, (network, tolerance))  # pyright: ignore[reportReturnType]


class _Answer(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, label: Tensor, alpha: Tensor, sigma: Tensor, how: tuple[Network, float]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return how[0](x, At(label, alpha, sigma))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *ctx.where, ctx.how = inputs
        ctx.save_for_forward(*ctx.where)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, None]:
        return _Answer.forward(*inputs), None  # nothing but tangents is batched

    @staticmethod
    def jvp(ctx: Any, *moved: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Along.apply(*moved[:4], *ctx.where, ctx.how)  # pyright: ignore[reportReturnType]


class _Along(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        moved, where, (network, _) = inputs[:4], inputs[4:8], inputs[8]
        return _tangent(network, where, moved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        count, where, how = info.batch_size, inputs[4:8], inputs[8]
        moved = zip(inputs[:4], in_dims[:4], strict=True)
        states, *times = (t.expand(count, *t.shape) if dim is None else t.movedim(dim, 0) for t, dim in moved)
        return _along(states, torch.stack(times, 1), where, *how), 0


def _tangent(network: Network, where: tuple[Tensor, ...], moved: tuple[Tensor, ...]) -> Tensor:
    with forward_mode():
        return torch.func.jvp(lambda x, *at: network(x, At(*at)), where, moved)[1]


def forward_mode() -> AbstractContextManager[object]:
    """Attention as plain matrix products: its fused kernels have no forward-mode derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def _along(states: Tensor, times: Tensor, where: tuple[Tensor, ...], network: Network, tolerance: float) -> Tensor:
    """Of tangents [P, B, ...] of the state and [P, 3] of label, alpha and sigma: the answer's, [P, B, ...]."""
    rows = states.flatten(2).transpose(0, 1).nan_to_num(0.0, 0.0, 0.0)  # [B, P, pixels]
    size = rows.double().square().sum((0, 2)).sqrt().clamp_min(TINY)
    rows = rows / size.to(rows)[:, None]
    values, vectors = torch.linalg.eigh((rows @ rows.mT).double())
    left_out = values.clamp_min(0).cumsum(1)
    rank = int((left_out > tolerance * left_out[:, -1:]).sum(1).max())
    vectors = vectors[:, :, len(size) - rank :]  # [B, P, r]
    basis = (vectors.mT.to(rows) @ rows).transpose(0, 1)  # [r, B, pixels]

    unit = times.abs().amax(0).clamp_min(TINY)
    mixed, sizes, ways = torch.linalg.svd(times / unit, full_matrices=False)
    own = int((sizes > 1e-9 * sizes[0].clamp_min(TINY)).sum())
    if not rank + own:
        return torch.zeros_like(states)

    still, fixed = states.new_zeros(own, *states.shape[1:]), times.new_zeros(rank, 3)
    directions = torch.cat([basis.reshape(rank, *states.shape[1:]), still]), torch.cat([fixed, ways[:own] * unit])

    def one(state: Tensor, time: Tensor) -> Tensor:
        return _tangent(network, where, (state, *time.unbind()))

    asked = torch.func.vmap(one, chunk_size=TOGETHER)(*directions)
    mixing = (vectors * size[:, None]).to(states)
    found = (mixing @ asked[:rank].flatten(2).transpose(0, 1)).transpose(0, 1).reshape(states.shape)
    return found + torch.einsum("pr,r...->p...", (mixed[:, :own] * sizes[:own]).to(states), asked[rank:])
