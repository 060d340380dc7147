"""Ancestral noise: a deterministic step to a quieter point of the same alpha, then noise up to sigma_t.

With h = lambda_t - lambda_s, sigma_d what is left and c the noise, sigma_d^2 + c^2 = sigma_t^2:

    ancestral   c = eta sigma_t sqrt(1 - exp(-2h))                        Song et al. 2021 (DDIM), eq. 16; k-diffusion's sigma_up
    rectified   tau_d = tau_t (1 + eta (tau_t / tau_s - 1)), tau = sigma / (alpha + sigma), sigma_d = alpha_t tau_d / (1 - tau_d)
                                                                          ComfyUI's ancestral step of a rectified flow, tau = t
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .base_process import name_of
from .family import Family, Preset
from .process import Process
from .quadrature import Node
from .schedule import Step


def quieter(process: Process, step: Step, s: Node, t: Node) -> tuple[Node, Tensor]:
    """The node that the deterministic part of the step goes to, and the c that follows."""
    if step.noise == "rectified":
        tau_s, tau_t = (n.sigma / (n.alpha + n.sigma) for n in (s, t))
        tau = (tau_t * (1 + step.eta * (tau_t / tau_s - 1))).clamp_min(1e-150)
        sigma = t.alpha * tau / (1 - tau)
        noise = (t.sigma**2 - sigma**2).sqrt()
    else:
        gap = torch.where(torch.isfinite(s.lambda_), t.lambda_ - s.lambda_, torch.inf)
        noise = t.sigma * (step.eta * (-torch.expm1(-2 * gap)).sqrt()).clamp_max(1)
        sigma = (t.sigma**2 - noise**2).clamp_min(1e-300).sqrt()
    lambda_ = t.alpha.log() - sigma.log()
    return replace(t, sigma=sigma, lambda_=lambda_, time=process.time_of(lambda_)), noise


def natural_noise(process: Process) -> str:
    """The word of the process."""
    return "rectified" if name_of(process) == "flow" else "ancestral"


def _euler_ancestral(times: Sequence[float], process: Process, eta: float = 1.0) -> list[Step]:
    return [Step(to=t, eta=eta, noise=natural_noise(process)) for t in times[1:]]  # pyright: ignore[reportArgumentType]


FAMILY = Family(
    presets={
        "euler-ancestral": Preset(_euler_ancestral, 1, 1, "k-diffusion, DDIM-eta; on flow as in ComfyUI; option eta", noise="injected"),
    },
)
