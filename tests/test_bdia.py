"""BDIA and its inverse: the loop of the paper, the round trip, how errors grow, and what cannot be inverted."""

from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from oracle import CASES, mixture
from test_solver_laws import assert_same_sampler
from torch import Tensor

from solvers import At, ScheduleError, Tableau, compile, draw, growth, invert, named_grid, preset, probe, process, sample
from teacher.models import DIGITS
from teacher.unet import UNet, denoise

F64 = torch.float64
GRIDS = {
    "vp-linear": [0.95, 0.8, 0.62, 0.5, 0.33, 0.2, 0.1, 0.03],
    "ve": [14.6, 7.0, 3.1, 1.7, 0.9, 0.41, 0.11],
    "flow": [1.0, 0.6, 0.5, 0.2, 0.1],
}


def bdia_loop(gamma: float, family: str) -> Callable[..., Tensor]:
    """Algorithm 1 of the paper on plain tensors: keep the last state, and step away from the present one in both directions."""
    p, times = CASES[family].process, torch.tensor(GRIDS[family], dtype=F64)
    alpha, sigma = p.alpha(times), p.sigma(times)

    def run(denoiser: Callable[..., Tensor], x: Tensor) -> Tensor:
        before = None
        for i in range(len(times) - 1):
            data = denoiser(x, At(times[i], alpha[i], sigma[i]))
            eps = (x - alpha[i] * data) / sigma[i]
            ahead = alpha[i + 1] * data + sigma[i + 1] * eps
            if before is not None:
                ahead = ahead + gamma * (before - (alpha[i - 1] * data + sigma[i - 1] * eps))
            before, x = x, ahead
        return x

    return run


def there_and_back(table: Tableau, denoiser: Callable[..., Tensor], x: Tensor) -> tuple[Tensor, Tableau]:
    """x_T as it is recovered from the last states, and the inverse."""
    states, mu = {}, torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).reshape(x.shape[1:]) if table.anchored else None
    sample(denoiser, x, table, callback=lambda row, x, d: states.__setitem__(row.slot, x), mu=mu)
    inverse = invert(table)
    return sample(denoiser, {name: states[name] for name in inverse.starts}, inverse, mu=mu), inverse


@pytest.mark.parametrize("family", GRIDS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_bdia_is_the_loop_of_its_paper(gamma: float, family: str):
    table = compile(preset("bdia", GRIDS[family], CASES[family].process, gamma=gamma))
    assert_same_sampler(table, probe(bdia_loop(gamma, family)), 1e-12)
    if not gamma:
        assert_same_sampler(table, compile(preset("ddim", GRIDS[family], CASES[family].process)), 1e-12)


@pytest.mark.parametrize("steps", [2, 5, 10, 20])
def test_the_digits_network_takes_noise_to_images_and_back(steps: int):
    network = UNet()
    network.load_state_dict(safetensors.torch.load_file(DIGITS))
    network.double().eval().requires_grad_(False)
    classes = torch.arange(2)

    def denoiser(x: Tensor, at: At) -> Tensor:
        return denoise(network, x, at.sigma, classes, 0.5, told=at.label)

    p = process("ve")
    table = compile(preset("bdia", named_grid("karras", p, steps, 80.0, 0.02), p))
    x = 80 * draw([1, 2], (1, 32, 32), "xT", dtype=F64)
    back, inverse = there_and_back(table, denoiser, x)
    assert inverse.nfe == table.nfe - 1
    assert (back - x).abs().max() < 1e-10


@pytest.mark.parametrize("clean", [False, True], ids=["noisy end", "clean end"])
@pytest.mark.parametrize("family", CASES)
def test_a_round_trip_is_exact_in_every_process(family: str, clean: bool):
    case = CASES[family]
    table = compile(preset("bdia", case.grid(8, clean), case.process))
    x = draw([1, 2, 3], (4,), "xT", dtype=F64) * float(case.process.sigma(case.start))
    back, _ = there_and_back(table, mixture(), x)
    assert (back - x).abs().max() < 1e-10


@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0])
def test_growth_is_that_of_the_recursion_of_errors(gamma: float):
    p = process("ve")
    sigma = named_grid("karras", p, 12, 10.0, 0.1)
    found = []
    for last in ([1.0, 0.0], [0.0, 1.0]):  # an error in x_{N-1} or in x_N: e_{i-1} = (e_{i+1} - c_i e_i) / gamma
        errors = list(last)
        for i in range(len(sigma) - 2, 0, -1):
            c = (sigma[i + 1] - gamma * sigma[i - 1]) / sigma[i]
            errors.insert(0, (errors[1] - c * errors[0]) / gamma)
        found += map(abs, errors)
    assert growth(invert(compile(preset("bdia", sigma, p, gamma=gamma)))) == pytest.approx(max(found), rel=1e-9)


@pytest.mark.parametrize("name", ["ddim", "dpmpp-2m", "unipc-3", "ipndm", "heun", "ghvb"])
def test_a_table_whose_answers_come_from_the_state_it_looks_for_is_refused(name: str):
    with pytest.raises(ScheduleError, match="cannot be inverted"):
        invert(compile(preset(name, GRIDS["ve"], process("ve"))))


def test_an_inverse_says_what_it_starts_from():
    table = compile(preset("bdia", GRIDS["ve"], process("ve")))
    inverse = invert(table)
    assert inverse.starts == ("x6", "x5")
    with pytest.raises(ScheduleError, match="starts from x6, x5, but was given xT"):
        sample(mixture(), torch.ones(1, 4), inverse)
    with pytest.raises(ScheduleError, match="starts from x6, x5"):
        inverse.dense()
    with pytest.raises(ScheduleError, match="an inverse already"):
        invert(inverse)
    with pytest.raises(ScheduleError, match="gamma lies in"):
        compile(preset("bdia", GRIDS["ve"], process("ve"), gamma=2.0))
    with pytest.raises(ScheduleError, match="cannot be inverted"):
        invert(compile(preset("bdia", [3.0, 1.0], process("ve"))))
