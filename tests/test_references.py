"""Equality with diffusers and k-diffusion at the same times: their coefficients, read by probing, and their samples.

k-diffusion is written in float64 where its input is. diffusers computes its tables in float32: each scheduler is compared
twice, as it ships (within 1e-5), and with float32 replaced by float64 in its module (within 1e-10).
"""

import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from oracle import mixture
from torch import Tensor

from solvers import At, Process, SolverSchedule, Tableau, compile, draw, preset, probe, process, sample

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),  # diffusers handing tensors to numpy
    pytest.mark.filterwarnings("ignore:.*dpmsolver.? is deprecated:FutureWarning"),
]
F64 = torch.float64
Sampler = Callable[..., Tensor]


def table_difference(ours: Tableau, theirs: Tableau) -> float:
    """Largest difference of the closed forms at every evaluation and at the end, relative to the largest coefficient."""
    return theirs.dense().apart(ours.dense().at(ours.visible))


def sample_difference(schedule: SolverSchedule, theirs: Sampler, noises: int = 0) -> float:
    """Relative difference of the ends on a mixture of Gaussians, from the same start with the same noise."""
    table, seeds = compile(schedule), [1, 2, 3]
    sigma, alpha = float(schedule.process.sigma(schedule.start)), float(schedule.process.alpha(schedule.start))
    x = sigma * draw(seeds, (4,), "xT", dtype=F64) + alpha * draw(seeds, (4,), "x0", dtype=F64)
    xi = [draw(seeds, (4,), f"z{m}", dtype=F64) for m in range(noises)]
    ours = sample(mixture(), x, table, noise=xi or None)
    other = theirs(mixture(), x, xi) if noises else theirs(mixture(), x)
    return float((ours - other).abs().max()) / max(1.0, float(other.abs().max()))


# ---------------------------------------------------------------------------------------------------------- k-diffusion


K_SIGMAS = [14.6, 7.0, 3.1, 1.7, 0.9, 0.41, 0.11, 0.03, 0.0]


def k_sampler(function: Callable[..., Tensor], **options: Any) -> Sampler:
    """A k-diffusion sampler as sampler(denoiser, x[, noises]), with a denoiser that takes an `At`."""

    def run(denoiser: Callable[..., Tensor], x: Tensor, xi: list[Tensor] | None = None) -> Tensor:
        def model(x: Tensor, sigma: Tensor) -> Tensor:
            assert (sigma == sigma[0]).all()
            return denoiser(x, At(sigma[0], torch.ones((), dtype=F64), sigma[0]))

        given = iter(xi or [])
        extra = {"noise_sampler": lambda *sigmas: next(given)} if xi else {}
        return function(model, x, torch.tensor(K_SIGMAS, dtype=F64), disable=True, **extra, **options)

    return run


def named(name: str, **options: Any) -> SolverSchedule:
    return preset(name, K_SIGMAS, process("ve"), **options)


K_CASES: dict[str, tuple[str, dict, Callable[[], SolverSchedule], int]] = {
    "euler": ("sample_euler", {}, lambda: named("euler"), 0),
    "euler is ddim": ("sample_euler", {}, lambda: named("ddim"), 0),
    "heun": ("sample_heun", {}, lambda: named("heun"), 0),
    "dpmpp-2m": ("sample_dpmpp_2m", {}, lambda: named("dpmpp-2m"), 0),
    "dpmpp-2s": ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, lambda: named("dpmpp-2s"), 0),
    "dpm-2": ("sample_dpm_2", {}, lambda: named("dpm-solver-2s"), 0),
    "dpmpp-2s, ancestral": ("sample_dpmpp_2s_ancestral", {}, lambda: named("dpmpp-2s-ancestral"), 7),
    "dpmpp-2s, ancestral, eta 0.6": ("sample_dpmpp_2s_ancestral", {"eta": 0.6}, lambda: named("dpmpp-2s-ancestral", eta=0.6), 7),
    "lms 4": ("sample_lms", {"order": 4}, lambda: named("lms"), 0),
    "lms 3": ("sample_lms", {"order": 3}, lambda: named("lms", order=3), 0),
    "lms 2": ("sample_lms", {"order": 2}, lambda: named("lms", order=2), 0),
    "euler ancestral": ("sample_euler_ancestral", {}, lambda: named("euler-ancestral"), 7),
    "euler ancestral, eta 0.6": ("sample_euler_ancestral", {"eta": 0.6}, lambda: named("ddim", eta=0.6), 7),
    "dpmpp-2m-sde": ("sample_dpmpp_2m_sde", {}, lambda: named("dpmpp-2m-sde"), 7),
    "dpmpp-2m-sde, eta 0.4": ("sample_dpmpp_2m_sde", {"eta": 0.4}, lambda: named("dpmpp-2m-sde", eta=0.4), 7),
    "dpmpp-2m-sde, heun": ("sample_dpmpp_2m_sde", {"solver_type": "heun"}, lambda: named("dpmpp-2m-sde", moment="heun"), 7),
    "dpmpp-2m-sde, eta 0": ("sample_dpmpp_2m_sde", {"eta": 0.0}, lambda: named("dpmpp-2m"), 0),
    "dpmpp-3m-sde": ("sample_dpmpp_3m_sde", {}, lambda: named("dpmpp-3m-sde-compat"), 7),
    "dpmpp-3m-sde, eta 0.5": ("sample_dpmpp_3m_sde", {"eta": 0.5}, lambda: named("dpmpp-3m-sde-compat", eta=0.5), 7),
    "dpmpp-3m-sde, eta 0": ("sample_dpmpp_3m_sde", {"eta": 0.0}, lambda: named("dpmpp-3m-compat", moment="heun"), 0),
}


@pytest.mark.parametrize("case", K_CASES)
def test_tables_equal_those_of_k_diffusion(case: str, k_diffusion: Any):
    function, options, schedule, noises = K_CASES[case]
    theirs = k_sampler(getattr(k_diffusion, function), **options)
    table = compile(schedule())
    seen = probe(theirs, noises=noises)
    assert table_difference(table, seen) <= 1e-10
    for mine, yours in zip(table.evals, seen.evals, strict=True):
        assert mine.sigma == pytest.approx(yours.sigma, rel=1e-12)


@pytest.mark.parametrize("case", K_CASES)
def test_samples_equal_those_of_k_diffusion(case: str, k_diffusion: Any):
    function, options, schedule, noises = K_CASES[case]
    assert sample_difference(schedule(), k_sampler(getattr(k_diffusion, function), **options), noises) <= 1e-9


# ------------------------------------------------------------------------------------------------------------ diffusers


class InDouble:
    """A module in which float32 is float64."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, "float64" if name == "float32" else name)


@pytest.fixture(params=["stock", "float64"])
def diffusers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from a class name to (the scheduler's class, the bound its tables must meet)."""
    package = pytest.importorskip("diffusers", reason="diffusers is not installed (pip install diffusers)")

    def find(name: str) -> tuple[type, float]:
        found = getattr(package, name)
        if request.param == "stock":
            return found, 1e-5
        module = importlib.import_module(found.__module__)
        for library in ("torch", "np"):
            if hasattr(module, library):
                monkeypatch.setattr(module, library, InDouble(getattr(module, library)))
        torch.set_default_dtype(F64)  # whole numbers times numbers
        return found, 1e-10

    yield find
    torch.set_default_dtype(torch.float32)


def network_of(denoised: Tensor, x: Tensor, at: At, prediction: str) -> Tensor:
    """What a network would have answered: the data itself, v, the velocity of a flow at sigma = t, or F of EDM's preconditioning (1/2)."""
    if prediction == "sample":
        return denoised
    sigma = at.sigma.to(x)
    if prediction == "v":
        return (at.alpha.to(x) * x - denoised) / sigma
    if prediction == "flow":
        return (x - denoised) / sigma
    return (denoised - x / (4 * sigma**2 + 1)) * (4 * sigma**2 + 1).sqrt() / sigma


def d_sampler(scheduler: Any, at: Callable[[int], At], prediction: str, count: int, takes_noise: str = "", **options: Any) -> Sampler:
    """A diffusers scheduler as sampler(denoiser, x[, noises])."""

    def run(denoiser: Callable[..., Tensor], x: Tensor, xi: list[Tensor] | None = None) -> Tensor:
        scheduler.set_timesteps(count)
        for i, t in enumerate(scheduler.timesteps):
            extra = {takes_noise: xi[i] if i < len(xi) else torch.zeros_like(x)} if xi else {}
            answer = network_of(denoiser(x, at(i)), x, at(i), prediction)
            x = scheduler.step(answer, t, x, **extra, **options).prev_sample
        return x

    return run


def with_noise(theirs: Sampler, steps: Iterable[int], kind: type, monkeypatch: pytest.MonkeyPatch) -> Sampler:
    """The same sampler, whose step i draws the next given noise where i is in `steps`, and zeros elsewhere."""

    def run(denoiser: Callable[..., Tensor], x: Tensor, xi: Sequence[Tensor] = ()) -> Tensor:
        given = dict(zip(steps, xi, strict=True))
        drawn = itertools.count()
        module = importlib.import_module(kind.__module__)
        monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: given.get(next(drawn), torch.zeros_like(x)))
        return theirs(denoiser, x)

    return run


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "sample"}


def of_table(scheduler: Any, count: int, end: float) -> tuple[Process, list[float], Callable[[int], At]]:
    """Our process and times of a scheduler on a trained table, and where it evaluates."""
    p = process("vp-discrete", alphas_cumprod=scheduler.alphas_cumprod)
    scheduler.set_timesteps(count)
    times = [*(float(t) for t in scheduler.timesteps), end]
    return p, times, lambda i: At(*(torch.as_tensor(v, dtype=F64) for v in (times[i], p.alpha(times[i]), p.sigma(times[i]))))


def both_agree(schedule: SolverSchedule, theirs: Sampler, bound: float, noises: int = 0) -> None:
    assert table_difference(compile(schedule), probe(theirs, noises=noises)) <= bound
    assert sample_difference(schedule, theirs, noises) <= (1e-9 if bound < 1e-8 else bound)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim_equals_diffusers(eta: float, diffusers: Any):
    kind, bound = diffusers("DDIMScheduler")
    scheduler = kind(**BETAS, clip_sample=False, timestep_spacing="leading", steps_offset=1)
    p, times, at = of_table(scheduler, 8, -1.0)
    noises = 7 if eta else 0  # at its last step sigma is 0, and so is the noise
    theirs = d_sampler(scheduler, at, "sample", 8, "variance_noise", eta=eta)
    both_agree(preset("ddim", times, p, eta=eta), theirs, bound, noises)


MULTISTEP = {
    "dpmsolver++": "dpmpp-{}m",
    "dpmsolver": "dpm-solver-{}m",
    "sde-dpmsolver++": "dpmpp-{}m-sde",
    "sde-dpmsolver": "dpm-solver-{}m-sde",
}


@pytest.mark.parametrize(
    ("algorithm", "order", "end"),
    [
        ("dpmsolver++", 2, "zero"),
        ("dpmsolver++", 3, "zero"),
        ("dpmsolver++", 3, "sigma_min"),
        ("dpmsolver", 2, "sigma_min"),
        ("dpmsolver", 3, "sigma_min"),
        ("sde-dpmsolver++", 2, "zero"),
        ("sde-dpmsolver++", 3, "zero"),
        ("sde-dpmsolver++", 2, "sigma_min"),
        ("sde-dpmsolver", 2, "sigma_min"),
    ],
)
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("count", [8, 16])
def test_dpm_solver_multistep_equals_diffusers(algorithm: str, order: int, end: str, solver_type: str, count: int, diffusers: Any):
    kind, bound = diffusers("DPMSolverMultistepScheduler")
    options = {"solver_order": order, "solver_type": solver_type, "algorithm_type": algorithm, "final_sigmas_type": end}
    scheduler = kind(**BETAS, **options)
    p, times, at = of_table(scheduler, count, -1.0 if end == "zero" else 0.0)
    stochastic = algorithm.startswith("sde")
    third = {"third": "slip" if stochastic else "half"} if order == 3 else {}
    schedule = preset(MULTISTEP[algorithm].format(order), times, p, moment=solver_type, tail="lower-below-15", **third)
    theirs = d_sampler(scheduler, at, "sample", count, "variance_noise" if stochastic else "")
    both_agree(schedule, theirs, bound, noises=(count - (end == "zero")) * stochastic)


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-3m-compat"])
def test_dpm_solver_multistep_on_a_flow_equals_diffusers(name: str, diffusers: Any):
    kind, bound = diffusers("DPMSolverMultistepScheduler")
    order = 2 if name == "dpmpp-2m" else 3
    scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0, solver_order=order)
    scheduler.set_timesteps(8)
    times = scheduler.sigmas.tolist()
    both_agree(preset(name, times, process("flow"), tail="lower-below-15"), d_sampler(scheduler, of_flow(times), "flow", 8), bound)


@pytest.mark.parametrize("name", ["dpmpp-2m", "dpmpp-3m-compat", "dpmpp-2m-sde"])
def test_dpm_solver_multistep_on_ve_equals_diffusers(name: str, diffusers: Any, monkeypatch: pytest.MonkeyPatch):
    kind, bound = diffusers("EDMDPMSolverMultistepScheduler")
    scheduler = kind(solver_order=3 if "3m" in name else 2, algorithm_type="sde-dpmsolver++" if "sde" in name else "dpmsolver++")
    scheduler.set_timesteps(9)
    times = scheduler.sigmas.tolist()
    noises = 8 if "sde" in name else 0
    plain = d_sampler(scheduler, lambda i: At(*(torch.tensor(v, dtype=F64) for v in (times[i], 1.0, times[i]))), "edm", 9)
    schedule = preset(name, times, process("ve"), tail="lower-below-15")
    both_agree(schedule, with_noise(plain, range(noises), kind, monkeypatch), bound, noises)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_equals_diffusers(order: int, diffusers: Any):
    kind, bound = diffusers("LMSDiscreteScheduler")
    scheduler = kind(**BETAS)
    scheduler.set_timesteps(8)
    scheduler.is_scale_input_called = True  # its input is the state divided by sqrt(1 + sigma^2), which is the network's affair
    sigmas = scheduler.sigmas.tolist()
    theirs = d_sampler(
        scheduler, lambda i: At(*(torch.tensor(v, dtype=F64) for v in (sigmas[i], 1.0, sigmas[i]))), "sample", 8, order=order
    )
    both_agree(preset("lms", sigmas, process("ve"), order=order), theirs, bound)


def test_sa_solver_in_noise_form_equals_diffusers(diffusers: Any, monkeypatch: pytest.MonkeyPatch):
    kind, bound = diffusers("SASolverScheduler")
    scheduler = kind(**BETAS, tau_func=lambda t: 0.6, algorithm_type="noise_prediction")
    p, times, at = of_table(scheduler, 9, 0.0)
    schedule = preset("sa-solver", times, p, predictor=2, corrector=2, tau=0.6, window="whole", tau_at="start", moment="exact", space="eps")
    both_agree(schedule, with_noise(d_sampler(scheduler, at, "sample", 9), range(9), kind, monkeypatch), bound, noises=9)


@pytest.mark.parametrize(("predictor", "corrector"), [(3, 4), (2, 2), (2, 3), (4, 4)])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("window", ["middle", "whole"])
def test_sa_solver_with_tau_at_the_start_of_a_step_equals_diffusers(
    predictor: int, corrector: int, tau: float, window: str, diffusers: Any, monkeypatch: pytest.MonkeyPatch
):
    kind, bound = diffusers("SASolverScheduler")
    words = {"tau_func": lambda t: tau * bool(window == "whole" or 200 <= t <= 800)}
    scheduler = kind(**BETAS, predictor_order=predictor, corrector_order=corrector, **words)
    if predictor == 4 and bound > 1e-10:
        pytest.skip("its monomials in absolute lambda cancel in float32")
    p, times, at = of_table(scheduler, 9, 0.0)
    schedule = preset("sa-solver", times, p, predictor=predictor, corrector=corrector, tau=tau, window=window, tau_at="start")
    given = [i for i, step in enumerate(schedule.steps) if step.eta]
    both_agree(schedule, with_noise(d_sampler(scheduler, at, "sample", 9), given, kind, monkeypatch), bound, noises=len(given))


def test_lcm_equals_diffusers(diffusers: Any, monkeypatch: pytest.MonkeyPatch):
    kind, bound = diffusers("LCMScheduler")
    scheduler = kind(**BETAS, clip_sample=False, set_alpha_to_one=True)
    p, times, at = of_table(scheduler, 6, -1.0)
    theirs = with_noise(d_sampler(scheduler, at, "sample", 6), range(5), kind, monkeypatch)
    both_agree(preset("lcm", times, p, sigma_data=0.5), theirs, bound, noises=5)


def test_lcm_on_a_flow_equals_diffusers(diffusers: Any, monkeypatch: pytest.MonkeyPatch):
    kind, bound = diffusers("FlowMatchLCMScheduler")
    scheduler = kind(shift=3.0)
    scheduler.set_timesteps(6)
    times = scheduler.sigmas.tolist()
    theirs = with_noise(d_sampler(scheduler, of_flow(times), "flow", 6), range(5), kind, monkeypatch)
    both_agree(preset("lcm", times, process("flow")), theirs, bound, noises=5)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_tcd_equals_diffusers(gamma: float, diffusers: Any, monkeypatch: pytest.MonkeyPatch):
    kind, bound = diffusers("TCDScheduler")
    scheduler = kind(**BETAS, clip_sample=False)
    scheduler.set_timesteps = functools.partial(scheduler.set_timesteps, timesteps=[998, 700, 400, 100])
    p, times, at = of_table(scheduler, None, 0.0)
    noises = 3 if gamma else 0
    theirs = with_noise(d_sampler(scheduler, at, "sample", None, eta=gamma), range(noises), kind, monkeypatch)
    both_agree(preset("tcd", times, p, gamma=gamma), theirs, bound, noises=noises)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("moment", "end"), [("bh2", "zero"), ("bh2", "sigma_min"), ("bh1", "sigma_min")])
def test_unipc_equals_diffusers(order: int, moment: str, end: str, diffusers: Any):
    kind, bound = diffusers("UniPCMultistepScheduler")
    scheduler = kind(**BETAS, solver_order=order, solver_type=moment, final_sigmas_type=end)
    p, times, at = of_table(scheduler, 9, -1.0 if end == "zero" else 0.0)
    both_agree(preset(f"unipc-{order}", times, p, moment=moment), d_sampler(scheduler, at, "sample", 9), bound)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("moment", ["bh1", "bh2"])
def test_unipc_of_the_noise_prediction_equals_diffusers(order: int, moment: str, diffusers: Any):
    kind, bound = diffusers("UniPCMultistepScheduler")
    scheduler = kind(**BETAS, solver_order=order, solver_type=moment, predict_x0=False, final_sigmas_type="sigma_min")
    p, times, at = of_table(scheduler, 9, 0.0)
    both_agree(preset(f"unipc-{order}", times, p, moment=moment, space="eps"), d_sampler(scheduler, at, "sample", 9), bound)


def test_unipc_bh1_has_an_end_at_sigma_zero_where_diffusers_has_none(diffusers: Any):
    kind, _ = diffusers("UniPCMultistepScheduler")
    scheduler = kind(**BETAS, solver_order=2, solver_type="bh1", final_sigmas_type="zero")
    p, times, at = of_table(scheduler, 9, -1.0)
    x = torch.ones(2, 4, dtype=F64)
    assert d_sampler(scheduler, at, "sample", 9)(mixture(), x).isnan().all()  # B(h) = -inf times an empty sum
    assert sample(mixture(), x, compile(preset("unipc-2", times, p, moment="bh1"))).isfinite().all()


@pytest.mark.parametrize("tail", ["full", "lower-below-15"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_deis_of_diffusers_is_noise_prediction_polynomial_in_lambda(order: int, tail: str, diffusers: Any):
    kind, bound = diffusers("DEISMultistepScheduler")
    scheduler = kind(**BETAS, solver_order=order, lower_order_final=tail != "full")
    p, times, at = of_table(scheduler, 6, 0.0)  # few steps: its closed forms cancel in float32 where steps are short
    both_agree(preset("deis-log-rho", times, p, order=order, tail=tail), d_sampler(scheduler, at, "sample", 6), bound)


@pytest.mark.parametrize("end", [0.0, 0.05])
def test_ipndm_equals_diffusers(end: float, diffusers: Any):
    kind, bound = diffusers("IPNDMScheduler")
    p = process("vp-linear")
    times = [1.0, 0.85, 0.7, 0.5, 0.35, 0.2, 0.1, end]
    scheduler = kind(trained_betas=[float(p.sigma(t)) for t in times])  # what it calls betas are sigmas
    at = lambda i: At(*(torch.tensor(float(v), dtype=F64) for v in (times[i], p.alpha(times[i]), p.sigma(times[i]))))  # noqa: E731
    both_agree(preset("ipndm", times, p, tail="full"), d_sampler(scheduler, at, "v", 7), bound)


def of_flow(values: list[float]) -> Callable[[int], At]:
    """Where a flow scheduler evaluates."""
    return lambda i: At(*(torch.tensor(v, dtype=F64) for v in (values[i], 1 - values[i], values[i])))


def test_flow_euler_equals_diffusers(diffusers: Any):
    kind, bound = diffusers("FlowMatchEulerDiscreteScheduler")
    scheduler = kind(shift=3.0)
    scheduler.set_timesteps(7)
    times = scheduler.sigmas.tolist()
    assert (times[0], times[-1]) == (1.0, 0.0)
    both_agree(preset("euler", times, process("flow")), d_sampler(scheduler, of_flow(times), "flow", 7), bound)


def test_flow_heun_equals_diffusers(diffusers: Any):
    kind, bound = diffusers("FlowMatchHeunDiscreteScheduler")
    scheduler = kind(shift=3.0)
    scheduler.set_timesteps(6)
    times = [*dict.fromkeys(scheduler.sigmas.tolist())]
    asked = [times[0], *(t for t in times[1:-1] for _ in range(2))]
    schedule = preset("heun", times, process("flow"))
    assert compile(schedule).nfe == len(scheduler.timesteps) == len(asked)
    both_agree(schedule, d_sampler(scheduler, of_flow(asked), "flow", 6), bound)


@pytest.mark.parametrize("order", [2, 3])
def test_unipc_on_a_flow_equals_diffusers(order: int, diffusers: Any):
    kind, bound = diffusers("UniPCMultistepScheduler")
    scheduler = kind(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0, solver_order=order)
    scheduler.set_timesteps(8)
    times = scheduler.sigmas.tolist()
    both_agree(preset(f"unipc-{order}", times, process("flow")), d_sampler(scheduler, of_flow(times), "flow", 8), bound)


@pytest.mark.parametrize("count", [8, 9, 10])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("algorithm", "end"), [("dpmsolver++", "zero"), ("dpmsolver++", "sigma_min"), ("dpmsolver", "sigma_min")])
def test_singlestep_equals_diffusers(algorithm: str, end: str, order: int, solver_type: str, count: int, diffusers: Any):
    kind, bound = diffusers("DPMSolverSinglestepScheduler")
    options = {"solver_order": order, "solver_type": solver_type, "algorithm_type": algorithm, "final_sigmas_type": end}
    scheduler = kind(**BETAS, **options, lower_order_final=True)
    p, times, at = of_table(scheduler, count, -1.0 if end == "zero" else 0.0)
    name = {"dpmsolver++": "dpmpp-singlestep", "dpmsolver": "dpm-solver-singlestep"}[algorithm]
    both_agree(preset(name, times, p, order=order, moment=solver_type), d_sampler(scheduler, at, "sample", count), bound)


@pytest.mark.parametrize("count", [8, 9, 10])
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("end", ["zero", "sigma_min"])
def test_stochastic_singlestep_equals_diffusers(
    end: str, order: int, solver_type: str, count: int, diffusers: Any, monkeypatch: pytest.MonkeyPatch
):
    kind, bound = diffusers("DPMSolverSinglestepScheduler")
    options = {"solver_order": order, "solver_type": solver_type, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": end}
    scheduler = kind(**BETAS, **options, lower_order_final=True)
    p, times, at = of_table(scheduler, count, -1.0 if end == "zero" else 0.0)
    noises = count - (end == "zero")
    theirs = with_noise(d_sampler(scheduler, at, "sample", count), range(noises), kind, monkeypatch)
    both_agree(preset("dpmpp-singlestep-sde-compat", times, p, order=order, moment=solver_type), theirs, bound, noises)
