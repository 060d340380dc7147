"""Two-stage single steps: one more evaluation inside the step, interpolated by the same quadrature.

    heun      stage at the end of the step:  (eps, rho) is EDM's Heun (Karras et al. 2022, algorithm 1), (flow, t) flow Heun
    midpoint  stage halfway in the domain:   (x0, lambda) is DPM-Solver++ 2S (Lu et al. 2022b, algorithm 1), moment bh2
A step that ends at sigma = 0 cannot evaluate there: Heun is then first order, as EDM's is.
"""

from collections.abc import Sequence

import torch

from .adams import natural
from .build import Builder, Evaluated
from .family import Family, Method, Preset, each
from .process import Process
from .quadrature import Node, coordinate, node
from .schedule import Step


def heun(builder: Builder, i: int) -> None:
    """Step i with its stage at the end of the step."""
    t = builder.nodes[i + 1]
    _two_stages(builder, i, None if t.clean else t)


def midpoint(builder: Builder, i: int) -> None:
    """Step i with its stage where the domain's variable is halfway; towards an infinite one, halfway in time."""
    step, process, s, t = builder.steps[i], builder.schedule.process, builder.nodes[i], builder.nodes[i + 1]
    domain = step.domain
    infinite = (domain == "lambda" and t.clean) or (domain in ("lambda", "rho") and s.pure) or domain == "index"
    if infinite or domain == "t":
        time = (s.time + t.time) / 2
    else:
        middle = (coordinate(domain, process, s) + coordinate(domain, process, t)) / 2
        time = process.time_of(middle if domain == "lambda" else -middle.log())
    reference = (builder.schedule.times[i] + builder.schedule.times[i + 1]) / 2  # only to say that it is no end
    _two_stages(builder, i, node(process, i + 0.5, time, reference))


def _two_stages(builder: Builder, i: int, stage: Node | None) -> None:
    step, t, start = builder.steps[i], builder.nodes[i + 1], builder.state
    builder.keep(i)
    current = builder.history[-1]
    others: list[Evaluated] = []
    if stage is not None:
        form = builder.step_form(step, current, stage, [], start)
        others.append(builder.ask(f"s{i}", stage, form, torch.as_tensor(stage.time)))
    builder.arrive(i + 1, builder.step_form(step, current, t, others, start, step.relax))


def _heun_steps(times: Sequence[float], process: Process) -> list[Step]:
    return [Step(to=t, method="heun", **natural(process)) for t in times[1:]]


def _dpmpp_2s(times: Sequence[float], process: Process) -> list[Step]:
    steps = [Step(to=t, method="midpoint", moment="bh2") for t in times[1:]]
    return [*steps[:-1], Step(to=times[-1])] if times[-1] == process.t_clean else steps


FAMILY = Family(
    methods={"heun": Method(heun), "midpoint": Method(midpoint)},
    presets={
        "heun": Preset(_heun_steps, 2, 2, "Karras et al. 2022 (EDM), algorithm 1, without churn", nfe=each(2)),
        "dpmpp-2s": Preset(_dpmpp_2s, 2, 2, "Lu et al. 2022 (DPM-Solver++), algorithm 1", nfe=each(2)),
    },
)
