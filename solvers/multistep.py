"""Adams methods in any space and domain: predictor, corrector, noise.

Predictor of order p: nodes are the last p evaluations. Corrector of order c: the last c and the new one; the network is
asked once, at the predicted state, and the next step starts from the corrected one (PEC; Zhao et al. 2023, UniPC).
Exact in (x0, lambda): DPM-Solver++ and exponential Adams; (eps, t): DEIS; (eps, rho): LMS; (eps, index): iPNDM.

Noise, on the way to (alpha_t, sigma_t) with h = lambda_t - lambda_s > 0:
    ancestral  c = eta sigma_t sqrt(1 - e^(-2h)); the deterministic step goes to sigma_d = sqrt(sigma_t^2 - c^2)  (DDIM-eta, eq. 16)
    sde        c = sigma_t sqrt(1 - e^(-2 eta h)), with the drift of `quadrature`  (Xue et al. 2023)
"""

from dataclasses import replace

import torch

from .build import Builder, add
from .quadrature import Node


def rows(builder: Builder, i: int) -> None:
    """Step i, from node i to node i + 1."""
    step, s, t = builder.steps[i], builder.nodes[i], builder.nodes[i + 1]
    builder.keep(i)
    current, past = builder.history[-1], builder.history[-2::-1]
    target, noise = t, torch.zeros_like(t.sigma)
    if step.eta and not t.clean:
        gap = torch.where(torch.isfinite(s.lambda_), t.lambda_ - s.lambda_, torch.inf)
        if step.noise == "sde":
            noise = t.sigma * (-torch.expm1(-2 * step.eta * gap)).sqrt()
        else:
            noise = t.sigma * (step.eta * (-torch.expm1(-2 * gap)).sqrt()).clamp_max(1)
            target = _quieter(builder, t, noise)
    start = builder.state
    form = builder.step_form(step, current, target, past[: step.order - 1], start, step.relax)
    if step.eta and not t.clean:
        add(form, noise, {builder.noise(): torch.ones_like(noise)})
    last = i + 1 == len(builder.steps)
    builder.arrive(i + 1, form)
    if step.corrector and not last:
        new = builder.history[-1]
        builder.correct(builder.step_form(step, current, t, [*past[: step.corrector - 1], new], start))


def _quieter(builder: Builder, t: Node, noise: torch.Tensor) -> Node:
    """The node with t's alpha and the sigma that is left when `noise` is added afterwards."""
    sigma = (t.sigma**2 - noise**2).clamp_min(1e-300).sqrt()
    lambda_ = t.alpha.log() - sigma.log()
    return replace(t, sigma=sigma, lambda_=lambda_, time=builder.schedule.process.time_of(lambda_))
