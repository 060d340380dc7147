"""ComfyUI's contract as far as a sampler can see it: model_sampling, guider, KSAMPLER, registries and the V3 node classes.

Written from the documented behaviour: an EPS model gets x / sqrt(1 + s^2) and the nearest training step, a CONST model x and s;
an EDM model F gives D = x / (s^2 + 1) + s F / sqrt(s^2 + 1);
x_T is sqrt(1 + s^2) noise at the largest sigma, else s noise (CONST: s noise + (1 - s) latent).
"""

import types
from collections import namedtuple
from typing import Any

import torch
from torch import Tensor


def along(s: Tensor, x: Tensor) -> Tensor:
    return s.reshape(s.shape + (1,) * (x.ndim - s.ndim))


class EPS:
    def calculate_input(self, s: Tensor, x: Tensor) -> Tensor:
        return x / (along(s, x) ** 2 + 1).sqrt()

    def calculate_denoised(self, s: Tensor, f: Tensor, x: Tensor) -> Tensor:
        return x - f * along(s, x)

    def noise_scaling(self, s: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        return noise * (torch.sqrt(1 + s**2) if max_denoise else s) + latent

    def inverse_noise_scaling(self, s: Tensor, latent: Tensor) -> Tensor:
        return latent


class V_PREDICTION(EPS):
    def calculate_denoised(self, s: Tensor, f: Tensor, x: Tensor) -> Tensor:
        s = along(s, x)
        return x / (s**2 + 1) - f * s / (s**2 + 1).sqrt()


class EDM(V_PREDICTION):
    def calculate_denoised(self, s: Tensor, f: Tensor, x: Tensor) -> Tensor:
        s = along(s, x)
        return x / (s**2 + 1) + f * s / (s**2 + 1).sqrt()


class CONST:
    def calculate_input(self, s: Tensor, x: Tensor) -> Tensor:
        return x

    def calculate_denoised(self, s: Tensor, f: Tensor, x: Tensor) -> Tensor:
        return x - f * along(s, x)

    def noise_scaling(self, s: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        return s * noise + (1 - s) * latent

    def inverse_noise_scaling(self, s: Tensor, latent: Tensor) -> Tensor:
        return latent / (1 - s)


class Discrete:
    """The trained table; times are rounded to it."""

    def __init__(self, alphas_cumprod: Any) -> None:
        a = torch.tensor(alphas_cumprod, dtype=torch.float64)
        self.sigmas = ((1 - a) / a).sqrt()
        self.sigma_max = self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.double().log()[..., None] - self.sigmas.log()).abs().argmin(-1)


class ContinuousFlow:
    sigma_max = torch.tensor(1.0)

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * 1000


class ContinuousEDM:
    def __init__(self, sigma_max: float) -> None:
        self.sigma_max = torch.tensor(sigma_max, dtype=torch.float64)

    def timestep(self, sigma: Tensor) -> Tensor:
        return 0.25 * sigma.log()


class Model:
    """A BaseModel: network(x, t) behind a model_sampling."""

    def __init__(self, network: Any, kind: type, space: Any) -> None:
        self.network = network
        self.model_sampling = object.__new__(type("ModelSampling", (type(space), kind), {}))
        vars(self.model_sampling).update(vars(space))

    def apply_model(self, x: Tensor, s: Tensor, scale: float) -> Tensor:
        space = self.model_sampling
        return space.calculate_denoised(s, self.network(space.calculate_input(s, x), space.timestep(s), scale), x)


class CFGGuider:
    def __init__(self, model: Model, cfg: float = 1.0) -> None:
        self.inner_model, self.cfg = model, cfg

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def __call__(self, x: Tensor, s: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        return self.inner_model.apply_model(x, s, self.cfg)

    def sample(self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, callback: Any = None) -> Tensor:
        return sampler.sample(self, sigmas, {"model_options": {}, "seed": 1}, callback, noise, latent)


class KSamplerX0Inpaint:
    def __init__(self, model: CFGGuider, sigmas: Tensor) -> None:
        self.inner_model, self.sigmas = model, sigmas

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Any, model_options: Any = None, seed: int | None = None) -> Tensor:
        return self.inner_model(x, sigma, model_options=model_options, seed=seed)


class KSAMPLER:
    def __init__(self, function: Any, extra_options: dict[str, Any] | None = None) -> None:
        self.function, self.extra_options = function, extra_options or {}

    def sample(self, guider: CFGGuider, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, latent: Tensor) -> Tensor:
        space = guider.inner_model.model_sampling
        full = bool(torch.isclose(space.sigma_max.to(sigmas), sigmas[0], rtol=1e-5, atol=0.0) or sigmas[0] > space.sigma_max)
        x = space.noise_scaling(sigmas[0], noise, latent, full)
        seen = None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], len(sigmas) - 1)
        model = KSamplerX0Inpaint(guider, sigmas)
        done = self.function(
            model, x, sigmas, extra_args=extra_args | {"denoise_mask": None}, callback=seen, disable=True, **self.extra_options
        )
        return space.inverse_noise_scaling(sigmas[-1], done)


def modules() -> dict[str, Any]:
    """What `import comfy...` and `import comfy_api.latest` find."""
    made = {
        name: types.ModuleType(name)
        for name in ("comfy", "comfy.samplers", "comfy.k_diffusion", "comfy.k_diffusion.sampling", "comfy_api", "comfy_api.latest")
    }
    made["comfy"].samplers, made["comfy"].k_diffusion = made["comfy.samplers"], made["comfy.k_diffusion"]
    made["comfy.k_diffusion"].sampling = made["comfy.k_diffusion.sampling"]
    handler = namedtuple("SchedulerHandler", ["handler", "use_ms"], defaults=[True])
    vars(made["comfy.samplers"]).update(
        KSAMPLER=KSAMPLER,
        KSampler=type("KSampler", (), {"SAMPLERS": ["euler"]}),
        SCHEDULER_HANDLERS={},
        SCHEDULER_NAMES=["simple"],
        SchedulerHandler=handler,
    )

    def port(kind: str) -> Any:
        return types.SimpleNamespace(Input=lambda name, **more: (kind, name, more), Output=lambda **more: (kind, more))

    io = types.SimpleNamespace(
        ComfyNode=object,
        Schema=types.SimpleNamespace,
        NodeOutput=lambda *values: values,
        Combo=port("COMBO"),
        Sampler=port("SAMPLER"),
        Sigmas=port("SIGMAS"),
        String=port("STRING"),
    )
    vars(made["comfy_api.latest"]).update(io=io, ComfyExtension=object)
    return made
