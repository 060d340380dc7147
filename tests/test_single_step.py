"""Single-step solvers against k-diffusion, diffusers and their papers: Brownian trees, churn, sequences, stages on the grid."""

import itertools
import math
from typing import Any

import pytest
import torch
from oracle import CASES, mixture
from test_references import BETAS, F64, K_SIGMAS, both_agree, diffusers
from test_solver_laws import assert_same_sampler, slope
from torch import Tensor

from solvers import At, ScheduleError, SolverSchedule, Step, Tolerance, adaptive, compile, preset, probe, process, sample

__all__ = ["diffusers"]  # the fixture
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]
VE = process("ve")


def as_model(denoiser):
    return lambda x, sigma: denoiser(x, At(sigma[0], torch.ones((), dtype=F64), sigma[0]))


@pytest.mark.parametrize("r", [0.5, 0.4])
def test_dpmpp_sde_compat_has_the_noise_of_a_brownian_motion_over_sigma(r: float, k_diffusion: Any):
    grid = torch.tensor(K_SIGMAS, dtype=F64)

    def theirs(denoiser, x: Tensor, xi: list[Tensor]) -> Tensor:
        given, path = iter(xi), {}

        def increment(s: Tensor, t: Tensor) -> Tensor:
            if float(s) not in path:  # the first call of a step goes to its stage
                path.clear()
                path[float(s)] = (t, next(given))
                return path[float(s)][1]
            middle, first = path.pop(float(s))
            return ((s - middle).sqrt() * first + (middle - t).sqrt() * next(given)) / (s - t).sqrt()

        return k_diffusion.sample_dpmpp_sde(as_model(denoiser), x, grid, disable=True, noise_sampler=increment, r=r)

    schedule = preset("dpmpp-sde-compat", K_SIGMAS, VE, c2=r)
    both_agree(schedule, theirs, 1e-10, noises=14)


def test_the_noise_of_a_stage_and_of_its_step_correlate_as_ito_says_and_not_over_sigma(case):
    p, (s, t) = case.process, ((case.start + 3 * case.end) / 4, (case.start + 9 * case.end) / 10)
    lam = p.lambda_of(torch.tensor([s, t], dtype=F64))
    c, h = 0.5, float(lam[1] - lam[0])
    found = {}
    for name in ("dpmpp-sde", "dpmpp-sde-compat"):
        stage, step = compile(preset(name, [s, t], p)).dense().G[-2:]
        found[name] = float(stage @ step / (stage.norm() * step.norm()))
    expected = math.exp(-(1 - c) * h) * math.sqrt(math.expm1(-2 * c * h) / math.expm1(-2 * h))
    assert found["dpmpp-sde"] == pytest.approx(expected, rel=1e-9)
    assert abs(found["dpmpp-sde-compat"] - expected) > 0.01


@pytest.mark.parametrize("s_noise", [1.0, 1.003])
def test_heun_with_churn_equals_k_diffusion(s_noise: float, k_diffusion: Any, monkeypatch: pytest.MonkeyPatch):
    options = {"s_churn": 2.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": s_noise}
    grid = torch.tensor(K_SIGMAS, dtype=F64)
    churned = [sigma for sigma in K_SIGMAS[:-1] if 0.1 <= sigma <= 10]

    def theirs(denoiser, x: Tensor, xi: list[Tensor]) -> Tensor:
        at = iter(K_SIGMAS[:-1])
        given = iter(xi)
        draw = lambda x: next(given) if next(at) in churned else torch.zeros_like(x)  # noqa: E731
        monkeypatch.setattr(k_diffusion.torch, "randn_like", draw)
        try:
            return k_diffusion.sample_heun(as_model(denoiser), x, grid, disable=True, **options)
        finally:
            monkeypatch.undo()

    schedule = preset("heun-churn", K_SIGMAS, VE, **options)
    both_agree(schedule, theirs, 1e-10, noises=len(churned))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_dpm_fast_equals_k_diffusion(eta: float, k_diffusion: Any):
    nfe, high, low = 12, 14.6, 0.03
    sigmas = torch.linspace(math.log(high), math.log(low), nfe // 3 + 2, dtype=F64).exp().tolist()
    ends = {"sigma_min": torch.tensor(low, dtype=F64), "sigma_max": torch.tensor(high, dtype=F64), "n": nfe, "eta": eta}
    low_tensor, high_tensor = ends.pop("sigma_min"), ends.pop("sigma_max")
    noises = len(sigmas) - 1 if eta else 0

    def theirs(denoiser, x: Tensor, xi: list[Tensor] | None = None) -> Tensor:
        solver = k_diffusion.DPMSolver(as_model(denoiser))
        given = iter(xi or [])
        noise = lambda *sigmas: next(given, torch.zeros_like(x))  # noqa: E731
        with torch.no_grad():
            torch.set_default_dtype(F64)
            try:
                return solver.dpm_solver_fast(x, solver.t(high_tensor), solver.t(low_tensor), nfe, eta, 1.0, noise)
            finally:
                torch.set_default_dtype(torch.float32)

    schedule = preset("dpm-fast", sigmas, VE, eta=eta)
    assert compile(schedule).nfe == nfe
    if not eta:  # theirs clamps the quieter point of the last step at sigma_min, where the step still adds noise
        both_agree(schedule, theirs, 1e-10, noises)
    else:
        ours, other = compile(schedule).dense(), probe(theirs, noises=noises).dense()
        assert (ours.G[-4, :4] - other.G[-4, :4]).abs().max() < 1e-9


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_accepts_the_sigmas_of_k_diffusion_and_ends_where_it_ends(order: int, k_diffusion: Any):
    x = 14.6 * torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    solver, accepted = k_diffusion.DPMSolver(as_model(mixture())), []
    solver.info_callback = lambda info: accepted.append(float(solver.sigma(info["t"])))
    high, low = (solver.t(torch.tensor(v, dtype=F64)) for v in (14.6, 0.03))
    torch.set_default_dtype(F64)
    try:
        with torch.no_grad():
            other, info = solver.dpm_solver_adaptive(x, high, low, order=order, rtol=0.02)
    finally:
        torch.set_default_dtype(torch.float32)
    ours, schedule = adaptive(mixture(), x, VE, 14.6, 0.03, order=order, tolerance=Tolerance(rtol=0.02))
    assert info["n_accept"] == len(schedule.steps)
    assert info["n_reject"] > 0
    assert list(schedule.times[1:]) == pytest.approx(list(dict.fromkeys(s for s in accepted if s < 14.6 - 1e-9)), rel=1e-9)
    assert (ours - other).abs().max() <= 1e-9 * float(other.abs().max())
    assert (
        torch.equal(ours, sample(mixture(), x, compile(schedule))) or (ours - sample(mixture(), x, compile(schedule))).abs().max() < 1e-12
    )


def test_adaptive_keeps_the_evaluation_of_a_rejected_step_and_gives_up_in_one_sentence():
    x, asked = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=F64), itertools.count()

    def counted(x: Tensor, at: At) -> Tensor:
        next(asked)
        return mixture()(x, at)

    _, schedule = adaptive(counted, 10 * x, VE, 10.0, 0.05, tolerance=Tolerance(rtol=0.05, h=8.0))
    attempts = (next(asked) - len(schedule.steps)) // 2
    assert attempts > len(schedule.steps)  # the first width is far too long
    with pytest.raises(ScheduleError, match="not reached in 3"):
        adaptive(mixture(), 10 * x, VE, 10.0, 0.05, tolerance=Tolerance(rtol=1e-9, most=3))
    with pytest.raises(ScheduleError, match="sigma > 0"):
        adaptive(mixture(), 10 * x, VE, 10.0, 0.0)


def test_pndm_equals_diffusers(diffusers: Any):
    kind, bound = diffusers("PNDMScheduler")
    betas = {k: v for k, v in BETAS.items() if k != "prediction_type"}
    scheduler = kind(**betas, set_alpha_to_one=True, steps_offset=1)
    scheduler.set_timesteps(10)
    p = process("vp-discrete", alphas_cumprod=scheduler.alphas_cumprod)
    asked = [float(t) for t in scheduler.timesteps]
    times = [asked[0], *(float(t) for t in scheduler._timesteps[::-1][1:]), -1.0]

    def theirs(denoiser, x: Tensor) -> Tensor:
        scheduler.set_timesteps(10)
        for t in scheduler.timesteps:
            at = At(torch.tensor(float(t), dtype=F64), p.alpha(float(t)), p.sigma(float(t)))
            x = scheduler.step((x - at.alpha * denoiser(x, at)) / at.sigma, int(t), x).prev_sample
        return x

    schedule = preset("pndm", times, p)
    assert [float(e.label) for e in compile(schedule).evals] == asked
    both_agree(schedule, theirs, bound)


def test_the_ancestral_step_of_a_flow_is_the_formula_of_comfyui():
    p, eta = CASES["flow"].process, 0.7
    s, t = 0.8, 0.5
    (row,) = compile(preset("euler-ancestral", [s, t], p, eta=eta)).rows[1:]
    down = t * (1 + (t / s - 1) * eta)
    scale, renoise = (1 - t) / (1 - down), math.sqrt(t**2 - down**2 * ((1 - t) / (1 - down)) ** 2)
    expected = {"x0": scale * down / s, "D0": scale * (1 - down / s), "z0": renoise}  # x + (down - s)(x - D) / s, scaled
    assert dict(row.terms) == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------------------------------------------------ identities


def test_what_the_papers_call_by_many_names_is_one_sampler(case):
    for clean in (False, True):
        times, p = case.grid(5, clean), case.process

        def table(name: str, times=times, p=p, **options):
            return compile(preset(name, times, p, **options))

        assert_same_sampler(table("seeds-2"), table("dpmpp-sde"))
        assert_same_sampler(table("seeds-1"), table("ddim", eta=1.0))
        assert_same_sampler(table("res-2s-stable"), table("dpmpp-2s"))
        assert_same_sampler(table("res-2s"), table("dpmpp-2s", moment="heun"))
        assert_same_sampler(table("seeds-2", eta=0.0), table("dpmpp-2s"))
        assert_same_sampler(table("seeds-3", eta=0.0), table("dpmpp-3s"))
        if p.alpha(times[0]) > 0:
            assert_same_sampler(table("seeds-3-noise", eta=0.0), table("dpm-solver-3s"))


def test_three_stages_weigh_by_the_phi_functions_of_their_papers():
    h, (c2, c3) = 0.7, (0.5, 0.8)
    s, t = 3.0, 3.0 * math.exp(-h)
    one, two = (lambda z: math.expm1(z) / z), (lambda z: (math.expm1(z) / z - 1) / z)
    gamma = (3 * c3**2 - 2 * c3) / (c2 * (2 - 3 * c2))  # Hochbruck and Ostermann 2005, section 5.2
    inner, last = compile(preset("res-3s", [s, t], VE, c2=c2, c3=c3)).rows[2:]
    a32 = h * (gamma * c2 * two(-c2 * h) + c3**2 / c2 * two(-c3 * h))
    b3 = two(-h) / (gamma * c2 + c3)
    assert dict(inner.terms) == pytest.approx({"x0": math.exp(-c3 * h), "D0": c3 * h * one(-c3 * h) - a32, "D1": a32}, rel=1e-10)
    assert dict(last.terms) == pytest.approx(
        {"x0": math.exp(-h), "D0": h * (one(-h) - (1 + gamma) * b3), "D1": h * gamma * b3, "D2": h * b3}, rel=1e-10
    )


def test_the_gamma_of_res4lyf_is_of_order_two_unless_its_last_stage_ends_the_step():
    def steps_of(name: str, **options):
        return lambda times: preset(name, times, VE, **options)

    assert slope("ve", steps_of("res-3s", c3=0.8), (32, 64), False) >= 2.8
    assert slope("ve", steps_of("res-3s-compat", c3=0.8), (32, 64), False) <= 2.3
    assert_same_sampler(compile(preset("res-3s", [3.0, 1.0], VE)), compile(preset("res-3s-compat", [3.0, 1.0], VE)))


def test_the_classical_tableaus_are_those_of_kutta_in_rho():
    s, t = 3.0, 1.0
    x = torch.tensor([[1.0, -2.0]], dtype=F64)

    def slope_at(x: Tensor, rho: float) -> Tensor:
        at = At(*(torch.tensor(v, dtype=F64) for v in (rho, 1.0, rho)))
        return (x - torch.tanh(x) * 0.3) / at.sigma

    h = t - s
    k1 = slope_at(x, s)
    k2 = slope_at(x + h / 2 * k1, s + h / 2)
    k3 = slope_at(x + h / 2 * k2, s + h / 2)
    rk4 = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope_at(x + h * k3, t))
    kutta = x + h / 6 * (k1 + 4 * k2 + slope_at(x + h * (2 * k2 - k1), t))
    for name, expected in (("rho-rk4", rk4), ("rho-kutta", kutta)):
        found = sample(lambda x, at: torch.tanh(x) * 0.3, x, compile(preset(name, [s, t], VE)))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def seeds_of_its_repository(h: float, c2: float) -> dict[str, float]:
    """SEEDS-2a in data form on VE as its public code pairs the noises: the stage's has the step's last interval, not its first."""
    spread = lambda u: math.sqrt(-math.expm1(-2 * h * u))  # noqa: E731
    return {"z0": spread(1 - c2) * math.exp(-c2 * h), "z1": spread(c2)}


def test_seeds_as_published_in_code_pairs_the_noises_the_wrong_way_round():
    h, s, c2 = 0.9, 3.0, 0.3
    t = s * math.exp(-h)
    last = compile(preset("seeds-2-compat", [s, t], VE, c2=c2)).rows[-1]
    assert {z: last.terms[z] / t for z in ("z0", "z1")} == pytest.approx(seeds_of_its_repository(h, c2), rel=1e-10)
    assert_same_sampler(compile(preset("seeds-2-compat", [s, t], VE)), compile(preset("seeds-2", [s, t], VE)))  # right at c2 = 1/2

    def steps_of(name: str):
        return lambda times: preset(name, times, VE, c2=c2)

    assert slope("ve", steps_of("seeds-2"), (256, 512), False) >= 1.8
    assert slope("ve", steps_of("seeds-2-compat"), (128, 256), False) <= 1.3


def seeds_3_loop(space: str, c2: float, source: str):
    """SEEDS-3 on ve, c3 = 2/3: its formulas with Ito's noise ("paper"), or its code, but for the last step, which does nothing there."""
    c3, e, paper = 2 / 3, math.expm1, source == "paper"
    gaps, sign = (c2, c3 - c2, 1 - c3), -1 if space == "x0" else 1

    def run(denoiser, x: Tensor, xi: list[Tensor]) -> Tensor:
        given = iter(xi)
        for s, t in itertools.pairwise(K_SIGMAS[:-1]):
            h = math.log(s / t)
            sigma2, sigma3 = s * math.exp(-c2 * h), s * math.exp(-c3 * h)
            z1, z2, z3 = (next(given) for _ in range(3))
            p1, p2, p3 = (math.sqrt(abs(e(sign * 2 * h * gap))) for gap in gaps)
            far = lambda c, h=h: math.exp(sign * c * h)  # noqa: E731
            stage = sigma3 * (far(c3 - c2) * p1 * z1 + p2 * z2)
            noise = far(1 - c2) * p1 * z1 + far(1 - c3) * p2 * z2 + p3 * z3
            if not paper:
                stage = (sigma3 if space == "x0" else t) * (far(c2) * p2 * z1 + p1 * z2)
                old, new = (z1, z2) if space == "x0" else (z2, z1)
                noise = far(c3) * p3 * old + far(c2) * p2 * new + p1 * z3

            def net(x: Tensor, sigma: float) -> Tensor:
                data = denoiser(x, At(*(torch.tensor(v, dtype=F64) for v in (sigma, 1.0, sigma))))
                return data if space == "x0" else (x - data) / sigma

            first = net(x, s)
            if space == "x0":
                phi_2, phi_23 = e(-2 * h) / (2 * h) + 1, e(-2 * c3 * h) / (2 * c3 * h) + 1
                if not paper:
                    phi_23 = e(-2 * c2 * h) / (c2 * h) + 1
                second = net((sigma2 / s) ** 2 * x - e(-2 * c2 * h) * first + sigma2 * p1 * z1, sigma2)
                inner = (sigma3 / s) ** 2 * x - e(-2 * c3 * h) * first + c3 / c2 * phi_23 * (second - first)
                x = (t / s) ** 2 * x - e(-2 * h) * first + 1.5 * phi_2 * (net(inner + stage, sigma3) - first) + t * noise
            else:
                phi_2, phi_23 = e(h) / h - 1, e(c3 * h) / (c3 * h) - 1
                second = net(x - 2 * sigma2 * e(c2 * h) * first + sigma2 * p1 * z1, sigma2)
                inner = x - 2 * sigma3 * e(c3 * h) * first - 2 * c3 / c2 * sigma3 * phi_23 * (second - first)
                x = x - 2 * t * e(h) * first - 3 * t * phi_2 * (net(inner + stage, sigma3) - first) + t * noise
        return x

    return run


@pytest.mark.parametrize("c2", [1 / 3, 0.25])
@pytest.mark.parametrize("source", ["paper", "code"])
@pytest.mark.parametrize(("name", "space"), [("seeds-3", "x0"), ("seeds-3-noise", "eps")])
def test_the_third_seeds_is_its_loop_as_in_the_paper_and_as_in_its_code(name: str, space: str, source: str, c2: float):
    schedule = preset(name if source == "paper" else f"{name}-compat", K_SIGMAS[:-1], VE, c2=c2)
    both_agree(schedule, seeds_3_loop(space, c2, source), 1e-10, noises=3 * (len(K_SIGMAS) - 2))


@pytest.mark.parametrize("name", ["seeds-3", "seeds-3-noise"])
def test_the_third_seeds_has_order_two_and_its_code_order_one(name: str):
    def measured(name: str) -> float:
        return slope("ve", lambda times: preset(name, times, VE, c2=0.5), (64, 128), False)

    assert measured(name) >= 1.8
    assert measured(f"{name}-compat") <= 1.2


# ------------------------------------------------------------------------------------------ stages on the grid, with noise


def test_the_noise_of_states_on_the_grid_is_itos_and_that_of_diffusers_is_drawn_anew():
    times, lam = [3.0, 2.0, 1.2, 0.9], VE.lambda_of(torch.tensor([3.0, 2.0, 1.2, 0.9], dtype=F64))
    h, h1 = float(lam[3] - lam[0]), float(lam[1] - lam[0])
    found = {}
    for name in ("dpmpp-singlestep-sde", "dpmpp-singlestep-sde-compat"):
        own = compile(preset(name, times, VE, tail="full")).rows
        first, last = (torch.tensor([row.terms.get(f"z{m}", 0.0) for m in range(3)], dtype=F64) for row in (own[1], own[3]))
        assert float(last.norm()) == pytest.approx(0.9 * math.sqrt(-math.expm1(-2 * h)), rel=1e-9)
        found[name] = float(first @ last / (first.norm() * last.norm()))
    expected = math.exp(-(h - h1)) * math.sqrt(math.expm1(-2 * h1) / math.expm1(-2 * h))
    assert found["dpmpp-singlestep-sde"] == pytest.approx(expected, rel=1e-9)
    assert found["dpmpp-singlestep-sde-compat"] == 0


@pytest.mark.parametrize("family", ["ve", "flow"])
def test_stages_on_the_grid_have_weak_order_two_with_itos_noise_and_the_slip_of_diffusers_never_converges(family: str):
    def measured(name: str, **options: str) -> float:
        return slope(family, lambda times: preset(name, times, CASES[family].process, **options), (64, 128), False)

    assert measured("dpmpp-singlestep-sde") >= 1.8
    assert 0.8 <= measured("dpmpp-singlestep-sde-compat") <= 1.2
    assert measured("dpmpp-singlestep-sde-compat", moment="heun") <= 0.2


def test_states_on_the_grid_without_noise_are_those_of_the_ode(case):
    times = case.grid(7, clean=True)
    for name in ("dpmpp-singlestep-sde", "dpmpp-singlestep-sde-compat"):
        ours = compile(preset(name, times, case.process, eta=0.0, moment="midpoint"))
        assert_same_sampler(ours, compile(preset("dpmpp-singlestep", times, case.process)))


def test_stages_on_the_grid_need_one_noise():
    steps = (Step(to=2.0, method="restart", eta=1.0, noise="sde"), Step(to=1.0, method="restart", order=2))
    with pytest.raises(ScheduleError, match="same noise"):
        compile(SolverSchedule(VE, 3.0, steps))


def test_a_stage_outside_its_step_and_noise_that_a_method_does_not_know_are_refused():
    with pytest.raises(ScheduleError, match="stages lie in"):
        compile(SolverSchedule(VE, 3.0, (Step(to=1.0, method="midpoint", numbers={"c2": 1.5}),)))
    with pytest.raises(ScheduleError, match="cannot inject"):
        compile(SolverSchedule(VE, 3.0, (Step(to=1.0, method="rk4", eta=1.0),)))
    with pytest.raises(ScheduleError, match="2/3"):
        compile(preset("res-3s", [3.0, 1.0], VE, c2=2 / 3))
