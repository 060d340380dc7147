"""Operators in the place of numbers: what they do to a sample, that they compose, and what they refuse."""

import math

import pytest
import torch

from solvers import At, Evaluation, Row, ScheduleError, Tableau, invert, sample
from solvers.kinds import Field, Matrix, Operator, Spectral, cosines

F64 = torch.float64
GENERATOR = torch.Generator().manual_seed(2)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=F64)


def test_cosines_are_the_orthonormal_dct_of_its_textbook():
    size, x = 6, random(6)
    expected = [
        math.sqrt((1 if k == 0 else 2) / size) * sum(float(x[n]) * math.cos(math.pi * k * (2 * n + 1) / (2 * size)) for n in range(size))
        for k in range(size)
    ]
    torch.testing.assert_close(cosines(size) @ x, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-13)
    torch.testing.assert_close(cosines(size) @ cosines(size).T, torch.eye(size, dtype=F64), rtol=0, atol=1e-13)


def test_spectral_scales_frequencies_and_leaves_channels_alone():
    values, x = random(4, 6).abs(), random(2, 3, 4, 6)
    basis = torch.einsum("ua,vb->uvab", cosines(4), cosines(6)).reshape(24, 24)
    expected = (x.reshape(2, 3, 24) @ basis.T * values.reshape(24)) @ basis
    torch.testing.assert_close(Spectral(values).apply(x), expected.reshape(x.shape), rtol=0, atol=1e-12)


def test_a_matrix_mixes_one_axis_of_the_sample():
    values, x = random(2, 2), random(5, 3, 2, 4)
    torch.testing.assert_close(Matrix(values, axis=1).apply(x), torch.einsum("ij,bcjd->bcid", values, x), rtol=0, atol=1e-13)


def table(one: Operator, other: Operator, bias: Operator) -> Tableau:
    evaluation = Evaluation(1.0, 1.0, 1.0)
    rows = [Row("x0", 1.0, {"xT": 1.0}, evaluation), Row("r0", 1.0, {"x0": one, "D0": -0.5})]
    rows += [Row("x1", 0.5, {"x0": 0.3, "r0": other, "one": bias}, evaluation), Row("x2", 0.0, {"x1": other, "D1": one, "z0": 0.1})]
    return Tableau(tuple(rows))


@pytest.mark.parametrize("kind", [Field, Spectral, Matrix], ids=["tensor", "dct", "matrix"])
def test_the_closed_form_of_operators_is_what_sampling_computes(kind: type[Operator]):
    one, other, bias = (kind(random(*((5, 5) if kind is Matrix else (5,)))) for _ in range(3))
    rows = table(one, other, bias)
    answers, x, z = random(2, 1, 5), random(1, 5), random(1, 5)
    asked = iter(answers)
    found = sample(lambda x, at: next(asked), x, rows, noise=[z])
    dense = rows.dense()
    expected = kind(dense.a[-1]).apply(x) + kind(dense.G[-1, 0]).apply(z) + kind(dense.bias[-1]).apply(torch.ones_like(x))
    expected = expected + sum(kind(b).apply(d) for b, d in zip(dense.B[-1], answers, strict=True))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_ddim_for_blurring_diffusion_is_ddim_in_every_frequency():
    size, times = 8, [0.9, 0.6, 0.3, 0.1]
    blur = torch.linspace(0.2, 3.0, size, dtype=F64)
    alphas = [math.cos(t) * torch.exp(-blur * t) for t in times]  # data fade by frequency, noise is white
    sigmas, mean, scale = [math.sin(t) for t in times], random(size), random(size).abs() + 0.2
    rows = [Row("x0", times[0], {"xT": 1.0}, Evaluation(times[0], 1.0, sigmas[0]))]
    for i in range(3):
        keep = sigmas[i + 1] / sigmas[i]
        terms = {f"x{i}": keep, f"D{i}": Spectral(alphas[i + 1] - keep * alphas[i])}
        rows.append(Row(f"x{i + 1}", times[i + 1], terms, Evaluation(times[i + 1], 1.0, sigmas[i + 1]) if i < 2 else None))
    basis = cosines(size)

    def answer(u: torch.Tensor, i: int) -> torch.Tensor:  # of Gaussian data that are independent in frequency
        return mean + alphas[i] * scale**2 / (alphas[i] ** 2 * scale**2 + sigmas[i] ** 2) * (u - alphas[i] * mean)

    def denoiser(x: torch.Tensor, at: At) -> torch.Tensor:
        return answer(x @ basis.T, times.index(float(at.label))) @ basis

    x = random(3, size)
    u = x @ basis.T
    for i in range(3):
        noise = (u - alphas[i] * answer(u, i)) / sigmas[i]
        u = alphas[i + 1] * answer(u, i) + sigmas[i + 1] * noise
    torch.testing.assert_close(sample(denoiser, x, Tableau(tuple(rows))), u @ basis, rtol=0, atol=1e-12)


def test_what_an_operator_cannot_do_is_one_sentence():
    for operator in (Field(random(4)), Spectral(random(4)), Matrix(random(4, 4)), Matrix(random(5, 5), axis=3)):
        with pytest.raises(ScheduleError, match=r"^A coefficient of kind .* does not fit samples \(5,\)\.$"):
            operator.apply(random(1, 5))
    with pytest.raises(ScheduleError, match="not finite"):
        Field(torch.tensor([1.0, math.nan]))
    with pytest.raises(ScheduleError, match="must be square"):
        Matrix(random(2, 3))
    with pytest.raises(ScheduleError, match="do not compose"):
        table(Field(random(5)), Spectral(random(5)), Field(random(5))).dense()
    with pytest.raises(ScheduleError, match="only numbers are possible here"):
        invert(table(*(Field(random(5)) for _ in range(3))))
