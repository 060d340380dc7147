"""Real diffusers pipelines with tiny random weights, made here, without a network connection."""

import types
from typing import Any

import torch
from oracle import scaled_linear_table

from solvers import process
from teacher.torchvision_repair import repair_torchvision

repair_torchvision()
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLE = process("vp-discrete", alphas_cumprod=scaled_linear_table())
FLOW = process("flow")


def ready(network: torch.nn.Module, dtype: torch.dtype) -> Any:
    return network.eval().requires_grad_(False).to(dtype)


def seeded() -> None:
    torch.manual_seed(0)


def unconditional(dtype: torch.dtype = torch.float32) -> Any:
    """A U-Net that takes any number as its time."""
    from diffusers import UNet2DModel

    seeded()
    return ready(
        UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        ),
        dtype,
    )


def preconditioned(unet: Any) -> Any:
    """The same network F as a denoiser of ve: x / (s^2 + 1) + s F(x / n, ln s / 4) / n with n^2 = s^2 + 1. Karras et al. 2022."""
    raw = unet.forward

    def forward(x: Any, s: Any, **more: Any) -> Any:
        s = torch.as_tensor(s, dtype=torch.float64).reshape(-1)
        norm = ((s**2 + 1) ** 0.5).to(x).reshape(-1, 1, 1, 1)
        answer = raw(x / norm, 0.25 * s.log().expand(len(x))).sample
        return types.SimpleNamespace(sample=x / norm**2 + s.to(x).reshape(-1, 1, 1, 1) * answer / norm)

    unet.forward, unet.raw = forward, raw
    return unet


def stable_diffusion(scheduler: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Latents of 8 x 8; no tokenizer: it is called with prompt_embeds [1, 4, 8]."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    seeded()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    parts = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipe = StableDiffusionPipeline(
        vae=ready(vae, dtype), unet=ready(unet, dtype), scheduler=scheduler, requires_safety_checker=False, **parts
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_3(scheduler: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Called with prompt_embeds [1, 4, 16] and pooled_prompt_embeds [1, 16]."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline

    seeded()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, shift_factor=0.0)
    names = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    pipe = StableDiffusion3Pipeline(
        transformer=ready(transformer, dtype), vae=ready(vae, dtype), scheduler=scheduler, **dict.fromkeys(names)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(scheduler: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Called with prompt_embeds [1, 4, 16] and pooled_prompt_embeds [1, 16]; latents are packed [1, 16, 4]."""
    from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel

    seeded()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=1, shift_factor=0.0)
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipe = FluxPipeline(transformer=ready(transformer, dtype), vae=ready(vae, dtype), scheduler=scheduler, **dict.fromkeys(names))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def dit(scheduler: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A class-conditional transformer; the pipeline draws its own noise of unit variance from the generator."""
    from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

    seeded()
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipe = DiTPipeline(ready(transformer, dtype), ready(vae, dtype), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe
