"""The network of the embedded `digits` teacher: a small class-conditional U-Net behind EDM preconditioning.

    D(x; sigma) = c_skip x + c_out F(c_in x; ln(sigma)/4, class),        sigma_data = std of the training images

    c_skip = sigma_data^2 / (sigma^2 + sigma_data^2)      c_out = sigma sigma_data / sqrt(sigma^2 + sigma_data^2)
    c_in   = 1 / sqrt(sigma^2 + sigma_data^2)

Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (2022), table 1, last column.
A pixel-unshuffle stem halves the resolution before the first convolution: the cheapest speed-up a CPU can get.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

NULL_CLASS = 10
"""The class index that means "no class": what label dropout trains and guidance subtracts."""


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the embedding scales and shifts between the two."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(8, channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm_out = nn.GroupNorm(8, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x [B, channels_in, H, W], embedding [B, E] -> [B, channels, H, W]."""
        hidden = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv_out(functional.silu(self.norm_out(hidden) * (1 + scale) + shift))
        return self.skip(x) + hidden


class SelfAttention(nn.Module):
    """One head over all positions, written out: the fused kernels have no forward-mode derivative."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, dim=1)
        weights = torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, dim=-1)
        return x + self.out((v @ weights.transpose(1, 2)).unflatten(2, x.shape[2:]))


class UNet(nn.Module):
    """Two resolutions (half and quarter of the image), `F` of the module's formula.

    Shapes: x [B, 1, 32, 32], noise [B], labels [B] (0..9, or NULL_CLASS) -> [B, 1, 32, 32].
    """

    def __init__(self, wide: int = 32, deep: int = 64, embedding: int = 128) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(-2.0, 3.0, embedding // 2)))
        self.embed_noise = nn.Linear(embedding, embedding)
        self.embed_class = nn.Embedding(NULL_CLASS + 1, embedding)
        self.embed_out = nn.Linear(embedding, embedding)
        self.stem = nn.Conv2d(4, wide, 3, padding=1)
        self.down = nn.ModuleList([ResidualBlock(wide, wide, embedding) for _ in range(2)])
        self.reduce = nn.Conv2d(wide, deep, 3, stride=2, padding=1)
        self.middle = nn.ModuleList([ResidualBlock(deep, deep, embedding) for _ in range(4)])
        self.attention = nn.ModuleList([SelfAttention(deep) for _ in range(2)])
        self.expand = nn.Conv2d(deep, 4 * wide, 1)
        self.up = nn.ModuleList([ResidualBlock(2 * wide, wide, embedding) for _ in range(2)])
        self.norm = nn.GroupNorm(8, wide)
        self.head = nn.Conv2d(wide, 4, 3, padding=1)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor) -> Tensor:
        """F(x; noise, labels)."""
        phase = noise[:, None] * self.frequencies
        embedding = self.embed_noise(torch.cat([phase.sin(), phase.cos()], dim=1)) + self.embed_class(labels)
        embedding = functional.silu(self.embed_out(functional.silu(embedding)))
        hidden = self.stem(functional.pixel_unshuffle(x, 2))
        skips = []
        for block in self.down:
            hidden = block(hidden, embedding)
            skips.append(hidden)
        hidden = self.reduce(hidden)
        for index, block in enumerate(self.middle):
            hidden = block(hidden, embedding)
            if index % 2 == 0:
                hidden = self.attention[index // 2](hidden)
        hidden = functional.pixel_shuffle(self.expand(hidden), 2)
        for block in self.up:
            hidden = block(torch.cat([hidden, skips.pop()], dim=1), embedding)
        return functional.pixel_shuffle(self.head(functional.silu(self.norm(hidden))), 2)


def denoise(network: nn.Module, x: Tensor, sigma: Tensor, labels: Tensor, sigma_data: float, told: Tensor | None = None) -> Tensor:
    """D(x; sigma) in the EDM process x = x0 + sigma eps.  Shapes: x [B, C, H, W], sigma and told [B] or [], labels [B].

    `told` is the sigma that the network is told where it differs from that of the state (decoupled labels).
    """
    sigma = sigma.to(x).expand(len(x))
    noise = (sigma if told is None else told.to(x).expand(len(x))).log() / 4
    total = (sigma**2 + sigma_data**2).sqrt()
    c_in, c_out, c_skip = (c[:, None, None, None] for c in (1 / total, sigma * sigma_data / total, (sigma_data / total) ** 2))
    return c_skip * x + c_out * network(c_in * x, noise, labels)
