"""Adams methods in any space and domain: predictor, corrector, noise.

Predictor of order p: nodes are the last p evaluations. Corrector of order c: the last c and the new one; the network is
asked at the predicted state, and the next step starts from the corrected one (PEC; Zhao et al. 2023, UniPC); in mode PECE it
is asked again there (Xue et al. 2023, SA-Solver). Both formulas receive the same noise.
Exact in (x0, lambda): DPM-Solver++ and exponential Adams; (eps, t): DEIS; (eps, rho): LMS; (eps, index): iPNDM.

Ancestral noise follows a deterministic step to a quieter point: `ancestral.py`. The other kinds change the drift: `diffusion.py`.
"""

from collections.abc import Mapping

from torch import Tensor

from .ancestral import quieter
from .build import Builder, Form
from .diffusion import ANCESTRAL, Diffusion
from .quadrature import injected


def rows(builder: Builder, i: int) -> None:
    """Step i, from node i to node i + 1."""
    step, s, t = builder.steps[i], builder.nodes[i], builder.nodes[i + 1]
    builder.keep(i)
    current, past = builder.history[-1], builder.history[-2::-1]
    target, start, noise = t, builder.state, Form()
    if step.eta and not t.clean:
        if step.noise in ANCESTRAL:
            target, width = quieter(builder.schedule.process, step, s, t)
        else:
            width = injected(step.space, s, t, Diffusion.of(step, t.clean))
        noise[builder.noise()] = width
    form = builder.step_form(step, current, target, past[: step.order - 1], start, step.relax)
    builder.arrive(i + 1, form | noise)
    correct(builder, i, noise)


def correct(builder: Builder, i: int, noise: Mapping[str, Tensor]) -> None:
    """The corrector of step i, after the evaluation at its end, if it has one."""
    step, t = builder.steps[i], builder.nodes[i + 1]
    if step.corrector and i + 1 < len(builder.steps):
        new, current, past = builder.history[-1], builder.history[-2], builder.history[-3::-1]
        form = builder.step_form(step, current, t, [*past[: step.corrector - 1], new], builder.states[-2])
        builder.correct(form | dict(noise), step.mode)
