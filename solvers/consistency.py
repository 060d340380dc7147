"""Sampling of consistency models: jump towards the data, then add the noise of the next time.

    x' = DDIM from s to t_g = (1 - gamma) t;   x_t = (alpha_t / alpha_g) x' + sqrt(sigma_t^2 - (alpha_t sigma_g / alpha_g)^2) xi

gamma = 1 jumps all the way: multistep consistency sampling, LCM (Luo et al. 2023); less is strategic stochastic
sampling, TCD (Zheng et al. 2024). sigma_data > 0 puts LCM's boundary condition around the answer,
c_out D + c_skip x with c_skip = sigma_data^2 / (T^2 + sigma_data^2), c_out = T / sqrt(T^2 + sigma_data^2), T = timescale * t
(`LCMScheduler`). Both are for distilled networks: with an ordinary one they do not converge to anything as steps multiply.
"""

from collections.abc import Sequence

from .build import Builder, Form, add
from .conventions import steps_of
from .errors import ScheduleError
from .family import Family, Method, Preset
from .process import Process
from .quadrature import node
from .schedule import Step


def rows(builder: Builder, i: int) -> None:
    """Step i: a first-order step to t_g, then noise up to t."""
    step, s, t, process = builder.steps[i], builder.nodes[i], builder.nodes[i + 1], builder.schedule.process
    gamma, sigma_data = step.numbers["gamma"], step.numbers["sigma_data"]
    if not 0 <= gamma <= 1:
        raise ScheduleError(f"Step {i}: gamma lies between 0 and 1, not at {gamma:g}.")
    end = builder.schedule.times[i + 1]
    nearest = process.t_clean if gamma == 1 or t.clean else (1 - gamma) * end
    quiet = node(process, i + 1, (1 - gamma) * t.time, nearest) if nearest != end else t
    state, current = builder.state, builder.history[-1]
    jump = builder.step_form(step, current, quiet, [], state)
    scaled = step.numbers["timescale"] * s.time
    if sigma_data:
        whole = scaled**2 + sigma_data**2
        answer = jump.pop(current.answer)
        add(jump, answer, {current.answer: scaled / whole.sqrt(), state: sigma_data**2 / whole})
    form: Form = {}
    add(form, t.alpha / quiet.alpha, jump)
    if quiet is not t:
        form[builder.noise()] = (t.sigma**2 - (t.alpha * quiet.sigma / quiet.alpha) ** 2).sqrt()
    builder.arrive(i + 1, form)


def _lcm(times: Sequence[float], process: Process, sigma_data: float = 0.0, timescale: float = 10.0) -> list[Step]:
    return steps_of(times, 1, method="consistency", numbers={"sigma_data": sigma_data, "timescale": timescale})


def _tcd(times: Sequence[float], process: Process, gamma: float = 0.3) -> list[Step]:
    return steps_of(times, 1, method="consistency", numbers={"gamma": gamma})


FAMILY = Family(
    methods={"consistency": Method(rows, {"gamma": 1.0, "sigma_data": 0.0, "timescale": 10.0})},
    presets={
        "lcm": Preset(_lcm, 0, 0, "Luo et al. 2023 (LCM), multistep consistency sampling; options sigma_data, timescale", noise="injected"),
        "tcd": Preset(_tcd, 0, 0, "Zheng et al. 2024 (TCD), strategic stochastic sampling; option gamma", noise="injected"),
    },
)
