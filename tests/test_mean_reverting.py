"""Mean-reverting tables against the formulas of IR-SDE and MRS, written out a second time with mu in every term."""

import itertools
import json
import math
from pathlib import Path

import pytest
import test_solver_laws as laws
import torch
from oracle import CASES, mixture
from torch import Tensor

import solvers.prediction as prediction
from solvers import DISTINCT, PRESETS, At, Row, ScheduleError, Tableau, compile, draw, initial, load, preset, probe, process, sample, save
from solvers.base_process import name_of

F64 = torch.float64
CASE = CASES["mean-reverting"]
MU = torch.tensor([0.7, -1.2, 0.3, 2.0], dtype=F64)
MRS = [name for name, known in PRESETS.items() if known.processes == ("mean-reverting",)]
EVERY = [name for name, known in DISTINCT.items() if not known.processes or "mean-reverting" in known.processes]


def denoiser(x: Tensor, at: At) -> Tensor:
    """E[x0 | x] where x0 - mu is the mixture."""
    return MU + mixture()(x - MU, at)


def mrs(times: list[float], x: Tensor, xi: list[Tensor], kind: str, space: str, order: int, alpha_end: float, sigma_inf: float) -> Tensor:
    """Ma et al. 2025: one loop per data or noise prediction, ODE or SDE; the third order weighs the second derivative by half."""
    history: list[tuple[float, Tensor]] = []
    scales = []
    for t in times:  # theta is linear from 1 to 200 parts, and integrates to -log(alpha_end)
        alpha = math.exp(math.log(alpha_end) * (t + 199 * t * t / 2) / (1 + 199 / 2))
        scales.append((alpha, sigma_inf * math.sqrt(1 - alpha**2)))
    for i, ((a, s), (b, r)) in enumerate(itertools.pairwise(scales)):
        lam, h = math.log(a / s), math.log(b / r) - math.log(a / s)
        data = denoiser(x, At(*(torch.tensor(v, dtype=F64) for v in (times[i], a, s))))
        f = data if space == "x0" else (x - MU - a * (data - MU)) / s
        history.insert(0, (lam, f))
        if space == "x0":
            z = -2 * h if kind == "sde" else -h
            new = (r / s) * math.exp(z + h) * (x - MU) + MU + b * -math.expm1(z) * (f - MU)
            gain, xi_scale = -b * z, r * math.sqrt(-math.expm1(z)) if kind == "sde" else 0.0
        else:
            twice, z = (2 if kind == "sde" else 1), h
            new = (b / a) * (x - MU) + MU - twice * r * math.expm1(h) * f
            gain, xi_scale = -twice * r * h, r * math.sqrt(math.expm1(2 * h)) if kind == "sde" else 0.0
        phi1 = math.expm1(z) / z
        phi2 = (phi1 - 1) / z
        phi3 = (phi2 - 0.5) / z
        points = min(order, i + 1)
        if points >= 2:
            r0 = (lam - history[1][0]) / h
            first = (f - history[1][1]) / r0
            if points == 2:
                new = new + gain * phi2 * first
            else:
                r1 = (history[1][0] - history[2][0]) / h
                before = (history[1][1] - history[2][1]) / r1
                slope = first + r0 / (r0 + r1) * (first - before)
                new = new + gain * (phi2 * slope + phi3 * (first - before) / (r0 + r1))
        x = new + (xi_scale * xi[i] if kind == "sde" else 0.0)
    return x


@pytest.mark.parametrize("space", ["x0", "eps"])
@pytest.mark.parametrize(
    ("name", "kind", "order"),
    [("mrs-ode-1", "ode", 1), ("mrs-ode-2", "ode", 2), ("mrs-ode-3-compat", "ode", 3), ("mrs-sde-1", "sde", 1), ("mrs-sde-2", "sde", 2)],
)
def test_mrs_presets_are_the_formulas_of_their_paper(name: str, kind: str, order: int, space: str):
    p = process("mean-reverting", theta="linear", sigma_inf=0.4, alpha_end=0.02)
    times = [1.0, 0.8, 0.65, 0.45, 0.3, 0.2, 0.12, 0.05, 0.02]
    generator = torch.Generator().manual_seed(4)
    x, *xi = torch.randn(len(times), 3, 4, generator=generator, dtype=F64)
    x = MU + x
    table = compile(preset(name, times, p, space=space))
    ours = sample(denoiser, x, table, noise=xi if kind == "sde" else None, mu=MU)
    theirs = mrs(times, x, xi, kind, space, order, 0.02, 0.4)
    assert (ours - theirs).abs().max() < 1e-11


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
def test_the_mu_column_makes_up_for_all_others_and_is_what_sampling_reads(name: str, clean: bool):
    table = compile(preset(name, CASE.grid(6, clean), CASE.process))
    dense, rows = table.dense(), list(table.visible)
    size = max(1.0, float(dense.a.abs().max()), float(dense.B.abs().max()))
    assert (dense.M + dense.a + dense.B.sum(1) - 1)[rows].abs().max() < 1e-12 * size

    def sampler(denoiser, x: Tensor, axes: list[Tensor]) -> Tensor:
        return sample(denoiser, x, table, noise=axes[:-1] or None, mu=axes[-1])

    seen = probe(sampler, noises=len(table.noises) + 1).dense()
    torch.testing.assert_close(seen.G[:, -1], dense.M[rows], rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("theta", ["constant", "linear", "cosine"])
def test_the_forward_process_relaxes_to_mu_at_the_rate_theta(theta: str):
    p, count = process("mean-reverting", theta=theta, sigma_inf=0.3, alpha_end=0.05), 200_000
    u = (torch.arange(count, dtype=F64) + 0.5) / count
    rate = {
        "constant": torch.ones_like(u),
        "linear": 1e-4 + (0.02 - 1e-4) * u,
        "cosine": 1 - (math.pi / 2 * (u + 0.008) / 1.008).cos() ** 2 / math.cos(math.pi / 2 * 0.008 / 1.008) ** 2,
    }[theta]
    integral = -math.log(0.05) * rate.cumsum(0) / rate.sum()
    t = torch.arange(1, count + 1, dtype=F64)[999::1000] / count
    torch.testing.assert_close(p.alpha(t), (-integral[999::1000]).exp(), rtol=1e-9, atol=0)
    torch.testing.assert_close(p.alpha(t) ** 2 + (p.sigma(t) / 0.3) ** 2, torch.ones_like(t), rtol=1e-13, atol=0)
    torch.testing.assert_close(p.time_of(p.lambda_of(t)), t, rtol=1e-11, atol=0)


def test_sampling_starts_at_mu_plus_noise():
    table = compile(preset("ddim", CASE.grid(4, True), CASE.process))
    x = initial([1, 2], (4,), table, F64, mu=MU)
    torch.testing.assert_close(x, MU + draw([1, 2], (4,), "xT", F64) * float(CASE.process.sigma(CASE.start)))
    torch.testing.assert_close(x, initial([1, 2], (4,), table, F64, mu=MU.expand(2, 4)))


def test_all_data_at_mu_stays_at_mu():
    table = compile(preset("unipc-3", CASE.grid(6, True), CASE.process))
    torch.testing.assert_close(sample(lambda x, at: MU.expand_as(x), MU.expand(2, 4), table, mu=MU), MU.expand(2, 4), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_predictions_convert_around_mu(kind: str):
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 5, 4, generator=generator, dtype=F64)
    alpha, sigma = CASE.process.alpha(0.4), CASE.process.sigma(0.4)
    x = MU + alpha * (x0 - MU) + sigma * eps
    f = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * (x0 - MU), "flow": eps - (x0 - MU)}[kind]
    torch.testing.assert_close(prediction.to_denoised(kind, f, x, alpha, sigma, MU), x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(prediction.from_denoised(kind, x0, x, alpha, sigma, MU), f, rtol=1e-12, atol=1e-12)


def test_a_missing_or_misshapen_mu_is_one_sentence():
    table, x = compile(preset("ddim", CASE.grid(4, True), CASE.process)), torch.zeros(2, 4)
    for call in (lambda: sample(denoiser, x, table), lambda: initial([1], (4,), table)):
        with pytest.raises(ScheduleError, match=r"^This table belongs to a mean-reverting process: give mu=.*\.$"):
            call()
    with pytest.raises(ScheduleError, match=r"^mu must have the state's shape \(2, 4\).*\.$"):
        sample(denoiser, x, table, mu=torch.zeros(3))
    with pytest.raises(ScheduleError, match="defined on mean-reverting"):
        preset("mrs-ode-2", [1.0, 0.5], process("ve"))
    for words in ({"theta": "quick"}, {"sigma_inf": 0.0}, {"alpha_end": 1.0}):
        with pytest.raises(ScheduleError):
            process("mean-reverting", **words)


@pytest.mark.parametrize("name", EVERY)
def test_the_laws_of_all_samplers_hold_around_mu(name: str):
    for clean in (False, True):
        laws.test_probing_sample_reads_back_the_closed_form(name, CASE, clean)
        laws.assert_finite(name, CASE, clean, (1, 2, 11))
        assert not PRESETS[name].point_mass or laws.keeps_a_point_mass(name, CASE, clean, (1, 2, 7))
    if PRESETS[name].point_mass:
        laws.test_a_clean_end_is_the_point_itself_when_all_data_is_one_point(name, CASE)
    laws.test_both_kinds_of_gradient_survive_a_clean_end(name, CASE, 0.0)
    laws.test_a_batch_of_times_compiles_to_the_tables_of_each(name, CASE)
    laws.test_float32_and_float64_agree_within_the_rounding_of_the_rows(name, CASE)
    laws.test_half_precision_is_float32_arithmetic_around_a_half_precision_network(name, CASE, torch.float16)
    laws.test_every_row_is_asked_or_read_later(name, CASE)
    laws.test_a_preset_spends_exactly_the_evaluations_it_is_given(name, CASE, True)


@pytest.mark.parametrize("rough", [False, True], ids=["smooth", "rough"])
@pytest.mark.parametrize("name", [*MRS, "unipc-3", "deis-tab3", "heun", "sa-solver", "er-sde-2", "dpmpp-2s", "bdia", "epd"])
def test_the_order_of_a_method_is_the_same_around_mu(name: str, rough: bool):
    laws.test_every_preset_converges_at_its_declared_order(name, name_of(CASE.process), rough)


def test_around_mu_every_sampler_is_the_plain_one_of_what_is_left():
    """Without its mu column a table samples x - mu with D - mu: so whatever holds of the plain rows holds around mu."""
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    for name in EVERY:
        table = compile(preset(name, CASE.grid(5, True), CASE.process))
        rows = tuple(Row(r.slot, r.time, {s: c for s, c in r.terms.items() if s != "mu"}, r.evaluation) for r in table.rows)
        plain = sample(mixture(), x, Tableau(rows, sigma=table.sigma), noise=[1, 2])
        torch.testing.assert_close(sample(denoiser, x + MU, table, noise=[1, 2], mu=MU) - MU, plain, rtol=1e-11, atol=1e-11)


def test_a_file_carries_the_mu_column_and_says_where_sampling_starts(tmp_path: Path):
    recipe = preset("mrs-ode-2", CASE.grid(4, True), CASE.process)
    save(compile(recipe), tmp_path / "x.json", recipe=recipe)
    assert load(tmp_path / "x.json").tableau == compile(recipe)
    executable = json.loads((tmp_path / "x.json").read_text())["executable"]
    assert executable["initial_noise"] == "mu + sigma * standard_normal"
    assert all("mu" in dict(row["terms"]) for row in executable["rows"][1:-1])
