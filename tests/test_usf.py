"""USF: its update written out on plain tensors, the words it shares with other methods, and first steps that ask nobody."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
import torch
from oracle import CASES, Case, anisotropic
from oracle import sample as around
from test_solver_laws import assert_same_sampler, point_mass_defect
from torch import Tensor

from solvers import (
    At,
    Row,
    ScheduleError,
    SolverSchedule,
    Step,
    Tableau,
    average_first,
    compile,
    initial,
    load,
    preset,
    probe,
    sample,
    save,
)

F64 = torch.float64
GRIDS = {
    "vp-linear": [0.95, 0.8, 0.62, 0.5, 0.33, 0.2, 0.1],
    "ve": [14.6, 7.0, 3.1, 1.7, 0.9, 0.41, 0.11],
    "flow": [0.9, 0.7, 0.6, 0.5, 0.3, 0.2, 0.1],
}


@dataclass(frozen=True)
class Decision:
    """One step in the words of USF: a start point of -1 is the newest; `corrector` is the Taylor order of the pseudo-corrector."""

    kind: str
    order: int = 1
    start: int = -1
    estimates: tuple[int, ...] = ()
    relaxation: str = ""
    coefficient: float = 0.0
    corrector: int = 0

    def step(self, to: float) -> Step:
        """The same in ours."""
        estimate = self.estimates[0] if self.estimates else 0
        numbers = {"origin": float(-1 - self.start), "estimate": float(estimate)}
        numbers |= {self.relaxation: self.coefficient} if self.relaxation else {}
        space = {"noise": "eps", "data": "x0"}[self.kind]
        return Step(to=to, method="taylor", space=space, order=self.order, numbers=numbers, corrector=max(0, self.corrector - 1))


def derivative(f: list[Tensor], lam: list[Tensor], start: int, active: list[int], k: int) -> Tensor:
    """F^(k) at the start point: sum a_i (F_i - F_s) with sum a_i dlam_i^q / q! = [q = k]."""
    gaps = torch.stack([lam[i] - lam[start] for i in active])
    system = torch.stack([gaps**q / math.factorial(q) for q in range(1, len(active) + 1)])
    a = torch.linalg.solve(system, torch.eye(len(active), dtype=F64)[k - 1])
    return sum(w * (f[i] - f[start]) for w, i in zip(a, active, strict=True))


def phi(k: int, z: Tensor) -> Tensor:
    """phi_k by its series."""
    return sum(z**n / float(math.factorial(n + k)) for n in range(60))


def usf_loop(family: str, times: list[float], decisions: list[Decision], afs: str) -> Callable[..., Tensor]:
    """The sampler of USF: lists of states and of both predictions, an update from any of them, a corrector from the last but one."""
    p, t = CASES[family].process, torch.tensor(times, dtype=F64)
    alpha, sigma, lam = p.alpha(t), p.sigma(t), p.lambda_of(t)

    def run(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        xs, noise, data, lams = [], [], [], []

        def arrived(x: Tensor, i: int) -> None:
            if i or afs == "network":
                answer = denoiser(x, At(t[i], alpha[i], sigma[i]))
                eps = (x - alpha[i] * answer) / sigma[i]
            else:
                eps = x / (sigma[i] if afs == "zero-x0" else (alpha[i] ** 2 + sigma[i] ** 2).sqrt())
                answer = (x - sigma[i] * eps) / alpha[i]
            for store, value in ((xs, x), (noise, eps), (data, answer), (lams, lam[i])):
                store.append(value)

        def update(i: int, d: Decision, order: int, start: int, active: list[list[int]], relaxation: str) -> Tensor:
            at = len(lams) + start
            h = lam[i + 1] - lams[start]
            f, z = (noise, h) if d.kind == "noise" else (data, -h)
            keep, scale = (alpha[i + 1] / alpha[at], -sigma[i + 1]) if d.kind == "noise" else (sigma[i + 1] / sigma[at], alpha[i + 1])
            x = keep * xs[start] + scale * h * phi(1, z) * f[start]
            for k in range(1, order):
                slope = derivative(f, lams, start, active[k - 1], k)
                if k == 1 and relaxation == "linear":
                    slope = slope * (1 + d.coefficient * h)
                if k == 1 and relaxation == "exp":
                    slope = slope * (1 + d.coefficient * torch.expm1(z))
                x = x + scale * h ** (k + 1) * phi(k + 1, z) * slope
            return x

        arrived(x, 0)
        for i, d in enumerate(decisions):
            nearby = [*range(d.start + 1, 0), *range(d.start - 1, -len(lams) - 1, -1)]
            active = [nearby[:m] for m in (d.estimates or (d.order - 1,) * (d.order - 1))]
            x = update(i, d, d.order, d.start, active, d.relaxation)
            if i + 1 < len(decisions):
                arrived(x, i + 1)
                if d.corrector:
                    points = [-1, *range(-3, -len(lams) - 1, -1)][: d.corrector - 1]
                    x = xs[-1] = update(i, d, d.corrector, -2, [points] * (d.corrector - 1), "")
        return x

    return run


# cifar10_edm_nfe5 as it is shipped, but for its dpmsolver_v3 steps, which are of the other two kinds here
SHIPPED_TIMES = [80.0, 14.464, 3.352, 1.4173, 0.2277, 0.05816, 0.0022281]
SHIPPED = [
    Decision("noise", corrector=2),
    Decision("data"),
    Decision("data", 2, estimates=(1,), relaxation="linear", coefficient=-0.02994956107202826, corrector=3),
    Decision("noise", 2, estimates=(1,), corrector=3),
    Decision("data", 2, estimates=(1,), relaxation="linear", coefficient=-0.05528743769777434, corrector=3),
    Decision("noise", 2, estimates=(1,)),
]
MIXED = [
    Decision("data", corrector=2),
    Decision("noise", 2, start=-2, corrector=2),
    Decision("data", 3, estimates=(1, 2), relaxation="exp", coefficient=0.5, corrector=4),
    Decision("data", 3, start=-2, relaxation="linear", coefficient=0.3),
    Decision("noise", 4, estimates=(2, 2, 3), relaxation="exp", coefficient=-0.5, corrector=3),
    Decision("noise", 4, start=-3, estimates=(1, 2, 3)),
]


@pytest.mark.parametrize("afs", ["network", "zero-x0", "unit-eps"])
@pytest.mark.parametrize(("family", "decisions"), [("ve", SHIPPED), *((family, MIXED) for family in GRIDS)])
def test_a_schedule_of_usf_is_its_loop(family: str, decisions: list[Decision], afs: str):
    times = SHIPPED_TIMES if decisions is SHIPPED else GRIDS[family]
    steps = [d.step(to) for d, to in zip(decisions, times[1:], strict=True)]
    steps[0] = msgspec.structs.replace(steps[0], answer=afs)
    table = compile(SolverSchedule(CASES[family].process, times[0], tuple(steps)))
    assert table.nfe == (6 if afs == "network" else 5)
    assert_same_sampler(table, probe(usf_loop(family, times, decisions, afs)), 1e-10)


@pytest.mark.parametrize("space", ["x0", "eps", "flow"])
@pytest.mark.parametrize("domain", ["lambda", "rho", "t", "index"])
def test_full_estimators_are_the_interpolating_polynomial(space: str, domain: str, case: Case):
    for clean, order in itertools.product((False, True), (2, 4)):
        times = case.grid(6, clean)
        words = [{"space": space, "domain": domain, "order": min(order, i + 1), "corrector": min(2, i)} for i in range(6)]
        taylor, adams = (
            compile(SolverSchedule(case.process, times[0], tuple(Step(to=t, method=m, **w) for t, w in zip(times[1:], words, strict=True))))
            for m in ("taylor", "multistep")
        )
        assert_same_sampler(taylor, adams, 1e-10)


def test_the_low_estimator_of_three_points_is_that_of_er_sde():
    p, times = CASES["ve"].process, GRIDS["ve"]
    low = [Step(to=t, method="taylor", order=min(3, i + 1), domain="rho", numbers={"estimate": 1.0}) for i, t in enumerate(times[1:])]
    published = [Step(to=t, order=min(3, i + 1), domain="rho", moment="difference") for i, t in enumerate(times[1:])]
    low, published = (compile(SolverSchedule(p, times[0], tuple(steps))) for steps in (low, published))
    assert_same_sampler(low, published, 1e-11)


@pytest.mark.parametrize("family", GRIDS)
def test_a_step_from_the_state_before_makes_the_last_one_its_stage(family: str):
    # order 2 from one state back: DPM-Solver++ 2S, Taylor form, with the grid point between as its stage
    p, times = CASES[family].process, GRIDS[family]
    steps = tuple(Step(to=t, method="taylor", order=1 + i % 2, numbers={"origin": float(i % 2)}) for i, t in enumerate(times[1:]))
    table = compile(SolverSchedule(p, times[0], steps))
    alpha, sigma, lam = (f(torch.tensor(times, dtype=F64)) for f in (p.alpha, p.sigma, p.lambda_of))

    def run(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        at = [At(*v) for v in zip(torch.tensor(times, dtype=F64), alpha, sigma, strict=True)]
        for i in range(0, len(times) - 1, 2):
            h, r = lam[i + 2] - lam[i], (lam[i + 1] - lam[i]) / (lam[i + 2] - lam[i])
            first = denoiser(x, at[i])
            stage = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * torch.expm1(-r * h) * first
            second = denoiser(stage, at[i + 1])
            slope = alpha[i + 2] * ((torch.expm1(-h) + h) / h) / r
            x = sigma[i + 2] / sigma[i] * x - alpha[i + 2] * torch.expm1(-h) * first + slope * (second - first)
        return x

    assert_same_sampler(table, probe(run), 1e-10)


@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
@pytest.mark.parametrize("space", ["x0", "eps", "flow"])
@pytest.mark.parametrize("domain", ["lambda", "rho", "t", "index"])
def test_every_number_of_a_taylor_step_keeps_a_point_mass(space: str, domain: str, clean: bool, case: Case):
    times = case.grid(6, clean)
    for origin, estimate in ((0, 0), (1, 1), (2, 2), (0, 1)):
        numbers = {"estimate": float(estimate), "exp": 0.4, "linear": -0.2}
        steps = tuple(
            Step(
                to=t,
                method="taylor",
                space=space,
                domain=domain,
                order=min(4, i + 1),
                corrector=min(2, i),
                numbers={**numbers, "origin": float(min(origin, i))},
            )
            for i, t in enumerate(times[1:])
        )
        assert point_mass_defect(compile(SolverSchedule(case.process, times[0], steps)), case.process, case.start) < 1e-11


def test_relaxation_is_learnable():
    p, times = CASES["flow"].process, GRIDS["flow"]
    schedule = preset("usf", times, p)
    numbers = torch.tensor([0.0, 0.1, -0.2, 0.3, 0.0, 0.1], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: compile(schedule, numbers={"linear": c, "exp": c**2}).dense().B, numbers)


# ------------------------------------------------------------------------------------------------- analytical first step


@pytest.mark.parametrize("answer", ["zero-x0", "unit-eps"])
@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
def test_the_first_step_may_go_without_the_network_in_every_process(answer: str, clean: bool, case: Case, tmp_path):
    data = anisotropic(3)
    for space, count in itertools.product(("x0", "eps", "flow"), (2, 5)):
        times = case.grid(count, clean)
        steps = [Step(to=t, space=space, domain="t", order=min(3, i + 1), corrector=1) for i, t in enumerate(times[1:])]
        schedule = SolverSchedule(case.process, times[0], (msgspec.structs.replace(steps[0], answer=answer), *steps[1:]))
        table = compile(schedule)
        assert table.nfe == count - 1
        x = initial([1, 2], (3,), table, dtype=F64)
        torch.testing.assert_close(x, initial([1, 2], (3,), compile(SolverSchedule(case.process, times[0], tuple(steps))), dtype=F64))
        asked = []

        def guessing(x: Tensor, at: At, asked=asked) -> Tensor:
            asked.append(at)
            if len(asked) > 1:
                return data(x, at)
            if answer == "zero-x0":
                return 0 * x
            return x * 0 if at.alpha == 0 else (x - at.sigma * x / (at.alpha**2 + at.sigma**2).sqrt()) / at.alpha

        found, expected = sample(data, x, table), sample(guessing, x, compile(SolverSchedule(case.process, times[0], tuple(steps))))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        save(table, tmp_path / "a.schedule.json", recipe=schedule)
        again = load(tmp_path / "a.schedule.json").tableau
        assert again.rows == table.rows
        assert again.initial_sigma == pytest.approx(table.initial_sigma)


def test_a_guess_of_unit_data_is_the_scaled_state_itself():
    p = CASES["vp-linear"].process
    steps = (Step(to=0.5, space="eps", answer="unit-eps"), Step(to=0.2))
    first = compile(SolverSchedule(p, 0.9, steps)).rows[1]
    alpha, sigma = (f(torch.tensor([0.9, 0.5], dtype=F64)) for f in (p.alpha, p.sigma))
    expected = alpha[1] / alpha[0] + sigma[1] - alpha[1] * sigma[0] / alpha[0]  # eps = x
    assert sum(map(float, first.terms.values())) == pytest.approx(float(expected), rel=1e-12)
    assert compile(SolverSchedule(p, 0.9, steps)).visible[0] > 0


@pytest.mark.parametrize("name", ["unipc-3", "ipndm", "dpmpp-2s", "dpmpp-2m-sde", "epd"])
def test_the_mean_picture_stands_for_the_first_answer(name: str, case: Case):
    data, picture = anisotropic(3), torch.tensor([0.3, -0.2, 0.5], dtype=F64)
    full = compile(preset(name, case.grid(5, clean=True), case.process))
    x, asked = initial([1, 2], (3,), full, dtype=F64), itertools.count()

    def told(x: Tensor, at: At) -> Tensor:
        return data(x, at) if next(asked) else picture.expand_as(x)

    expected = sample(told, x, full, noise=[1, 2])
    table = average_first(full, picture)
    assert table.nfe == full.nfe - 1
    torch.testing.assert_close(initial([1, 2], (3,), table, dtype=F64), x)
    torch.testing.assert_close(sample(data, x, table, noise=[1, 2]), expected, rtol=1e-12, atol=1e-12)


def test_no_picture_at_all_is_zero_data_also_around_mu():
    for case in (CASES["ve"], CASES["mean-reverting"]):
        times, p = case.grid(5, clean=True), case.process
        steps = tuple(Step(to=t, order=min(3, i + 1)) for i, t in enumerate(times[1:]))
        guessed = compile(SolverSchedule(p, times[0], (msgspec.structs.replace(steps[0], answer="zero-x0"), *steps[1:])))
        mean = 0.75 if p.anchored else 0.0  # the oracle's mu
        table, x = average_first(compile(SolverSchedule(p, times[0], steps)), mean), torch.ones(2, 3, dtype=F64)
        torch.testing.assert_close(around(anisotropic(3), x, table), around(anisotropic(3), x, guessed), rtol=1e-12, atol=1e-12)


def test_the_mean_of_the_data_is_nearly_what_the_network_says_of_pure_noise():
    data, p = anisotropic(3), CASES["ve"].process
    full = compile(preset("unipc-2", [80.0, 20.0, 5.0, 1.0, 0.2], p))
    x = initial([1, 2], (3,), full, dtype=F64)
    with_mean, without = (sample(data, x, average_first(full, picture)) for picture in (data.mean, 0 * data.mean))
    right = sample(data, x, full)
    assert (with_mean - right).norm() < 0.1 * (without - right).norm()


def test_a_mean_of_one_number_is_saved_and_a_strange_picture_refused(tmp_path):
    full = compile(preset("ddim", [10.0, 3.0, 1.0], CASES["ve"].process))
    save(average_first(full, 0.2), tmp_path / "a.schedule.json", process=CASES["ve"].process)
    assert load(tmp_path / "a.schedule.json").tableau.rows == average_first(full, 0.2).rows
    with pytest.raises(ScheduleError, match="does not fit"):
        sample(anisotropic(3), torch.ones(1, 3, dtype=F64), average_first(full, torch.zeros(4)))
    with pytest.raises(ScheduleError, match="never asks"):
        average_first(Tableau((Row("x0", 1.0, {"xT": 1.0}),)), 0.0)


def test_strange_decisions_are_refused_in_a_sentence():
    p, times = CASES["ve"].process, GRIDS["ve"]

    def refused(message: str, **words) -> None:
        steps = [Step(to=t) for t in times[1:]]
        steps[2] = Step(to=times[3], **words)
        with pytest.raises(ScheduleError, match=message):
            compile(SolverSchedule(p, times[0], tuple(steps)))

    refused("cannot start 3 states back", method="taylor", numbers={"origin": 3.0})
    refused("whole number", method="taylor", numbers={"origin": 0.5})
    refused("whole number", method="taylor", numbers={"estimate": -1.0})
    refused("leaves nothing to estimate", method="taylor", order=2, moment="bh2", numbers={"linear": 0.1})
    refused("only the first step may", answer="zero-x0")
    refused("has no number origin", numbers={"origin": 1.0})
    with pytest.raises(ScheduleError, match="answer"):
        Step(to=1.0, answer="guess")
