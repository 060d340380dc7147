"""Single-step DPM-Solver whose stages are points of the grid, so that it costs one evaluation a step: diffusers' singlestep.

A step of order p starts from the state p - 1 steps ago and interpolates all evaluations since, so orders run 1, 2, 3, 1, 2, 3, ...:
the states in between are stages of the third. Solver types are those of `dpm_solver_single`. With noise (kind "sde") the state has
of each interval since that start what Ito gives it, and shares it with the states in between. diffusers draws anew for every state
("restart-compat"), which is of weak order 1, and in its third order of type "heun" has a sign wrong (moment "slip"): the second
derivative, D2 = h^2 f'', gets alpha_t less, which carries the noise of the stages into the state and does not converge.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from .build import Builder, Evaluated, add
from .diffusion import SDE, Diffusion
from .dpm_solver import SOLVER_TYPES
from .errors import ScheduleError
from .family import Family, Method, Preset, StepsOf, one_of
from .moments import powers
from .process import Process
from .quadrature import Node, coordinate, weights
from .schedule import Step
from .single_step import Place, composed, ito


def shared(place: Place, nodes: Sequence[Node]) -> list[Tensor]:
    """What the last node has of the noise of each interval."""
    return ito(place, nodes)[-1]


def anew(place: Place, nodes: Sequence[Node]) -> list[Tensor]:
    """The same, all of it in the last noise, as diffusers draws it."""
    return ito(place, nodes[-1:])[-1]


def rows(shares: Callable[[Place, Sequence[Node]], list[Tensor]]) -> Callable[[Builder, int], None]:
    """Step i of order p, from the state p - 1 steps ago, through all evaluations since."""

    def write(builder: Builder, i: int) -> None:
        step, t = builder.steps[i], builder.nodes[i + 1]
        if step.order > i + 1:
            raise ScheduleError(f"Step {i} of order {step.order} needs {step.order - 1} steps before it.")
        base, *inner = builder.history[-step.order :]
        diffusion = Diffusion.of(step, t.clean)
        if any((before.eta, before.noise) != (step.eta, step.noise) for before in builder.steps[i + 1 - step.order : i]):
            raise ScheduleError(f"Step {i} and those that are its stages need the same noise.")
        others, found = inner, None
        if step.order == 3 and step.moment == "bh2":  # the last stage alone, by phi_2
            step, others = msgspec.structs.replace(step, moment="exact"), inner[1:]
        elif step.order == 3 and step.moment == "slip":
            found = _slipped(builder, step, base, t, inner, diffusion)
        form = builder.step_form(step, base, t, others, builder.states[-step.order], step.relax, found)
        written = {row.slot: {slot: torch.as_tensor(c) for slot, c in row.terms.items()} for row in builder.rows[-2 * step.order :]}
        for stage in inner:
            form = composed(form, stage.state, written[stage.state])
        if diffusion.eta:
            place = Place(builder.schedule.process, step.space, step.domain, base.node, diffusion)
            builder.noise()
            for back, share in enumerate(reversed(shares(place, [*(stage.node for stage in inner), t])), start=1):
                add(form, 1.0, {f"z{builder.noises - back}": share})
        builder.arrive(i + 1, form)

    return write


def _slipped(builder: Builder, step: Step, s: Evaluated, t: Node, inner: Sequence[Evaluated], diffusion: Diffusion) -> list[Tensor]:
    process, nodes = builder.schedule.process, [stage.node for stage in inner]
    start, end = (coordinate("lambda", process, n) for n in (s.node, t))
    thetas = [(n.lambda_ - start) / (end - start) for n in nodes]
    right = weights(step.space, "lambda", "exact", process, s.node, t, nodes, diffusion)
    return [c - 2 * t.alpha * powers(thetas, j)[1] for j, c in enumerate(right)]


def _singlestep(space: str, solver_type: str = "midpoint", method: str = "restart", third: Mapping[str, str] = {}, **words: Any) -> StepsOf:
    def steps(
        times: Sequence[float], process: Process, order: int = 3, moment: str = solver_type, tail: str = "lower", **more: float
    ) -> list[Step]:
        if set(more) - set(words):
            raise TypeError(f"unexpected {', '.join(more)}")
        one_of("order of a singlestep solver", order, (1, 2, 3))
        one_of("tail", tail, ("lower", "full"))
        count = len(times) - 1
        skipped = int(process.alpha(times[0]) == 0)  # from alpha = 0, where lambda is infinite, no stage helps
        found = [1] * skipped + [i % order + 1 for i in range(count - skipped)]
        if times[-1] == process.t_clean or (tail == "lower" and (count - skipped) % order == 0):
            found[-1] = 1
        plain = SOLVER_TYPES.get(moment, moment)
        kind: dict[str, Any] = {"method": method, "space": space, **words, **more}
        moments: list[Any] = [third.get(moment, plain) if p == 3 else plain for p in found]
        return [Step(to=t, order=p, moment=m, **kind) for t, p, m in zip(times[1:], found, moments, strict=True)]

    return steps


_PAPER, _PLUS = "Lu et al. 2022 (DPM-Solver), algorithm 2", "Lu et al. 2022 (DPM-Solver++), algorithm 1"
_NOISE: dict[str, Any] = {"eta": 1.0, "noise": "sde"}

FAMILY = Family(
    methods={
        "restart": Method(rows(shared), noises=SDE),
        "restart-compat": Method(rows(anew), noises=SDE),
    },
    presets={
        "dpm-solver-singlestep": Preset(_singlestep("eps"), 2, 2, f"{_PAPER}, stages on the grid; options order, moment, tail"),
        "dpmpp-singlestep": Preset(_singlestep("x0"), 2, 2, f"{_PLUS}, stages on the grid; options order, moment, tail"),
        "dpmpp-singlestep-sde": Preset(
            _singlestep("x0", "heun", **_NOISE),
            2,
            2,
            f"{_PLUS}, with noise, stages on the grid; options order, moment, tail, eta",
            noise="injected",
        ),
        "dpmpp-singlestep-sde-compat": Preset(
            _singlestep("x0", method="restart-compat", third={"heun": "slip"}, **_NOISE),
            1,
            1,
            f"{_PLUS}, with noise as in diffusers; options order, moment, tail, eta",
            noise="injected",
        ),
    },
)
