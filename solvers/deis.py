"""DEIS, LMS and iPNDM: Adams methods of the noise prediction in t, rho, lambda or by the number of the step (Zhang and Chen 2023).

    tAB-q     polynomial of degree q in t, eq. 15        rhoAB-q   in rho, which is LMS with q + 1 points and the exact iPNDM-v
    log-rho   in log rho = -lambda: what diffusers calls DEIS
    iPNDM     the constant Adams-Bashforth coefficients of uniform steps
The method "ipndm-v" has the coefficients that diff-sampler and ComfyUI give to steps that vary, in which the formulas of three
and four points are wrong; those of four do not even sum to 1, so a point mass is not kept.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .build import Builder, Form, add
from .conventions import steps_of
from .family import Family, Method, Preset, StepsOf
from .process import Process
from .quadrature import transfer
from .schedule import Step


def ipndm_v(builder: Builder, i: int) -> None:
    """Step i of ipndm_v: x' = (alpha' / alpha) x + alpha' (rho' - rho) sum_j w_j eps_j."""
    step, t, state = builder.steps[i], builder.nodes[i + 1], builder.state
    builder.keep(i)
    usable = [evaluated for evaluated in builder.history[::-1][: step.order] if not evaluated.node.pure]
    if not usable:  # eps says nothing at alpha = 0
        builder.arrive(i + 1, builder.step_form(step, builder.history[-1], t, [], state))
        return
    rho = [n.sigma / n.alpha for n in (t, *(evaluated.node for evaluated in usable))]
    keep, gain = transfer("eps", usable[0].node, t)
    form: Form = {state: keep}
    for evaluated, w in zip(usable, _ipndm_v_weights([b - a for a, b in pairwise(rho)]), strict=True):
        add(form, gain * w, builder.output(evaluated, "eps"))
    builder.arrive(i + 1, form)


def _ipndm_v_weights(widths: Sequence[Tensor]) -> list[Tensor]:
    """The weights of eps_i, eps_{i-1}, ... for step widths h_i, h_{i-1}, ..., with the two slips.

    First to third differences enter by a, b and c; in b the division by 3 (h + h1) reaches only the first factor, and in c one
    sign is turned.
    """
    h, *past = widths
    one = torch.ones_like(h)
    if not past:
        return [one]
    h1 = past[0]
    a = h / h1 / 2
    if len(past) == 1:
        return [1 + a, -a]
    h2 = past[1]
    b, r = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2, h1 / h2
    if len(past) == 2:
        return [1 + a + b, -a - (1 + r) * b, r * b]
    h3 = past[2]
    c = (1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
    c = c * (h * (h + h1) * (h + h1 + h2)) / (h1 * (h1 + h2) * (h1 + h2 + h3))
    q = h1 * (h1 + h2) / (h2 * (h2 + h3))
    return [1 + a + b + c, -a - (1 + r) * b - (1 + r + q) * c, r * b + (r + q * (1 + h2 / h3)) * c, -c * q * r]


def _adams(domain: str, order: int, method: str = "multistep") -> StepsOf:
    def steps(times: Sequence[float], process: Process, order: int = order, tail: str = "full") -> list[Step]:
        return steps_of(times, order, tail, space="eps", domain=domain, method=method)

    return steps


_DEIS = "Zhang and Chen 2023 (DEIS)"
_LMS = Preset(_adams("rho", 4), 4, 4, f"{_DEIS}, rhoAB of degree 3; LMS of k-diffusion; iPNDM-v made exact; options order, tail")

FAMILY = Family(
    methods={"ipndm-v": Method(ipndm_v)},
    presets={
        "deis-tab1": Preset(_adams("t", 2), 2, 2, f"{_DEIS}, eq. 15, linear in t; options order, tail"),
        "deis-tab2": Preset(_adams("t", 3), 3, 3, f"{_DEIS}, eq. 15, quadratic in t; options order, tail"),
        "deis-tab3": Preset(_adams("t", 4), 4, 4, f"{_DEIS}, eq. 15, cubic in t; options order, tail"),
        "deis-log-rho": Preset(_adams("lambda", 3), 3, 3, f"{_DEIS}, quadratic in log rho; DEIS of diffusers; options order, tail"),
        "deis-rhoab3": _LMS,
        "lms": _LMS,
        "ipndm": Preset(_adams("index", 4), 2, 1, f"{_DEIS}, section 3.3; Liu et al. 2022 (PNDM); options order, tail"),
        "ipndm-v": _LMS,
        "ipndm-v-compat": Preset(
            _adams("rho", 4, "ipndm-v"),
            1,
            0,
            "Zhou et al. 2024 (AMED-Solver), ipndm_v as in diff-sampler; options order, tail",
            point_mass=False,
        ),
    },
)
