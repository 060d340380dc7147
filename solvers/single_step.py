"""Explicit exponential Runge-Kutta by tableau: the step's own evaluations are all it looks at.

A tableau lists stages 1, 2, ... and last the step itself. The state of stage k lies at the fraction c_k of the step, in the variable
of the domain, and is the first-order step there plus a sum over earlier stages of

    coefficient * phi_n * (f_j - f_s),        phi_n that of `quadrature.phi` from s to the stage (or to another one)

so that the weight of f_s is what consistency leaves. In (x0 or eps, lambda) these are the phi functions of Hochbruck and Ostermann
(2005); in (eps, rho) and (flow, t) phi_n = 1 / n! of the step and the same tableaus are the classical ones.

A step to sigma = 0 is of first order in the domain lambda, and where a stage would lie there. A step from alpha = 0, where lambda
and rho are infinite, is taken in t, and the space eps in x0. Noise: ancestral kinds aim at a quieter point; the others add
increments of one path, by default Ito's, so that what a stage has seen is part of what the step adds (`Increments`).
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from .ancestral import quieter
from .build import Builder, Form, add
from .diffusion import ANCESTRAL, Diffusion
from .errors import ScheduleError
from .process import Process
from .quadrature import Node, coordinate, injected, node, phi, transfer
from .schedule import Step

UNIT = -1


class Term(NamedTuple):
    """coefficient * phi_n * (f_of - f_s); phi to the stage `until`, counted from 1, or to the own one (0). phi_UNIT is 1 / h."""

    coefficient: float
    n: int
    of: int
    until: int = 0


class Stage(NamedTuple):
    """Where, as a fraction of the step, and what it adds to the first-order step there."""

    c: float
    terms: Sequence[Term] = ()


@dataclass(frozen=True)
class Place:
    """One step in the words of the formulas: where it starts, and in which space and domain, with which noise it runs."""

    process: Process
    space: str
    domain: str
    s: Node
    diffusion: Diffusion


Tableau = Callable[[Step], Sequence[Stage]]
Increments = Callable[[Place, Sequence[Node]], list[list[Tensor]]]


def ito(place: Place, nodes: Sequence[Node]) -> list[list[Tensor]]:
    """What each node, in the order of time, has of the noise of each interval so far: its deviation, carried on by the drift."""
    widths = [injected(place.space, a, b, place.diffusion) for a, b in itertools.pairwise((place.s, *nodes))]
    return [
        [width * transfer(place.space, b, q, place.diffusion)[0] for b, width in zip(nodes[:k], widths[:k], strict=True)]
        for k, q in enumerate(nodes, start=1)
    ]


def sigma_tree(place: Place, nodes: Sequence[Node]) -> list[list[Tensor]]:
    """The right deviations at every node, but the correlations of a Brownian motion over sigma: k-diffusion's BrownianTreeNoiseSampler."""
    sigmas = [place.process.sigma_of(n.time) for n in (place.s, *nodes)]
    gaps = [a - b for a, b in itertools.pairwise(sigmas)]
    return [
        [injected(place.space, place.s, q, place.diffusion) * (gap / (sigmas[0] - sigmas[k])).sqrt() for gap in gaps[:k]]
        for k, q in enumerate(nodes, start=1)
    ]


def backwards(place: Place, nodes: Sequence[Node]) -> list[list[Tensor]]:
    """Ito's deviations, but every node takes its intervals in reverse order, as the public code of SEEDS does: right if they are equal."""
    if place.s.pure:  # its first interval is infinite, and cannot come last
        return ito(place, nodes)
    shares: list[list[Tensor]] = []
    for k, q in enumerate(nodes, start=1):
        inner = [q.lambda_ - (n.lambda_ - place.s.lambda_) for n in reversed(nodes[: k - 1])]
        turned = [replace(q, lambda_=lambda_, sigma=q.sigma * (q.lambda_ - lambda_).exp()) for lambda_ in inner]  # only rho counts
        shares.append(ito(place, [*turned, q])[-1])
    return shares


def rows(tableau: Tableau, increments: Increments = ito) -> Callable[[Builder, int], None]:
    """The method of a tableau: `rows(builder, i)` writes step i."""

    def write(builder: Builder, i: int) -> None:
        step, s, t, start = builder.steps[i], builder.nodes[i], builder.nodes[i + 1], builder.state
        builder.keep(i)
        stages = list(tableau(step))
        if t.clean and (step.domain == "lambda" or any(stage.c == 1 for stage in stages[:-1])):
            stages = [Stage(1.0)]
        target, ancestral = t, Form()
        if step.eta and step.noise in ANCESTRAL and not t.clean:
            target, width = quieter(builder.schedule.process, step, s, t)
            ancestral[builder.noise()] = width
        space = "x0" if s.pure and step.space == "eps" else step.space
        domain = "t" if s.pure and step.domain in ("lambda", "rho") else step.domain
        place = Place(builder.schedule.process, space, domain, s, Diffusion.of(step, t.clean))
        nodes = [*(_at(builder, place, target, i, stage.c) for stage in stages[:-1]), target]
        noises = _noises(builder, place, stages, nodes, increments)
        answers = [builder.history[-1].form(space)]  # f_s, then those of the stages, over the start and the answers of the denoiser
        for k, (stage, q) in enumerate(zip(stages[:-1], nodes[:-1], strict=True)):
            form = _form(place, stage, nodes, q, answers, start)
            add(form, 1.0, noises[k])
            asked = builder.ask(f"s{i}_{k}", q, form)
            answers.append(composed(asked.form(space), asked.state, form))
        form = _form(place, stages[-1], nodes, target, answers, start, step.relax)
        add(form, 1.0, noises[-1] | ancestral)
        builder.arrive(i + 1, form)

    return write


def _form(place: Place, stage: Stage, nodes: Sequence[Node], q: Node, answers: Sequence[Form], start: str, relax: float = 1.0) -> Form:
    keep, gain = transfer(place.space, place.s, q, place.diffusion)
    form: Form = {start: keep}
    add(form, gain, answers[0])
    for coefficient, n, of, until in stage.terms:
        end = nodes[until - 1] if until else q
        if n == UNIT:
            weight = relax * coefficient * _unit(place.space, q)
        else:
            weight = relax * coefficient * phi(place.space, place.domain, n, place.process, place.s, end, place.diffusion)
            if until:
                weight = weight * _unit(place.space, q) / _unit(place.space, end)
        add(form, weight, answers[of])
        add(form, -weight, answers[0])
    return form


def composed(answer: Form, state: str, form: Form) -> Form:
    """The answer with the stage's state spelled out: what cancels then cancels in float64 there, not in the executor."""
    result = {slot: c for slot, c in answer.items() if slot != state}
    if state in answer:
        add(result, answer[state], form)
    return result


def _unit(space: str, n: Node) -> Tensor:
    """What phi_n is multiplied with at a node: x divided by it obeys dy = (f - y) dlambda, or its like."""
    return {"x0": n.alpha, "eps": n.sigma, "flow": n.alpha + n.sigma}[space]


def _at(builder: Builder, place: Place, t: Node, i: int, c: float) -> Node:
    """The node at the fraction c of the step from s to t."""
    if not 0 < c <= 1:
        raise ScheduleError(f"Step {i} has a stage at {c:g} of its length; stages lie in (0, 1].")
    if c == 1:
        return t
    if place.domain in ("t", "index"):
        time = place.s.time + c * (t.time - place.s.time)
    else:
        ends = (coordinate(place.domain, place.process, n) for n in (place.s, t))
        first, last = ends
        between = first + c * (last - first)
        time = place.process.time_of(between if place.domain == "lambda" else -between.log())
    time = time.clamp_min(0.0)  # a trained table knows nothing between its first index and sigma = 0
    first, last = builder.schedule.times[i : i + 2]
    return node(place.process, i + c, time, first + c * (last - first))  # the last only to say that it is no end


def _noises(builder: Builder, place: Place, stages: Sequence[Stage], nodes: Sequence[Node], increments: Increments) -> list[Form]:
    """What every stage and the step have of the noises of this step."""
    if not place.diffusion.eta:
        return [Form() for _ in stages]
    by_time = dict(sorted(zip((stage.c for stage in stages), nodes, strict=True), key=lambda pair: pair[0]))
    shares = dict(zip(by_time, increments(place, list(by_time.values())), strict=True))
    slots = [builder.noise() for _ in by_time]
    return [dict(zip(slots, shares[stage.c], strict=False)) for stage in stages]
