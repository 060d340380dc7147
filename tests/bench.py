"""`make bench`: what the executor itself costs, next to diffusers and k-diffusion on the same latents, and how fast candidates are scored.

The network is replaced by one that costs nothing (it returns a tensor it was given), so the time is the samplers' own.
Runs are paired: the three alternate, and the ratios of each round are summarised by their median.
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from references import k_diffusion_sampling
from test_space import random_points

from search.evaluate import Evaluator
from search.space import Space
from solvers import compile, preset, process, sample, sigmas
from teacher.models import load
from teacher.trajectories import targets

STEPS, ROUNDS = 20, 15


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Per call."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


def runners(shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """DPM-Solver++ 2M on 20 Karras steps down to sigma 0, three ways, on a denoiser that is free."""
    import diffusers

    sampling = k_diffusion_sampling()
    grid = sampling.get_sigmas_karras(STEPS, 0.03, 14.6)
    x, answer = torch.randn(shape) * 14.6, torch.randn(shape)
    ve = process("ve")
    table = compile(preset("dpmpp-2m", sigmas(grid.double().tolist()), ve))

    scheduler = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True, prediction_type="sample", final_sigmas_type="zero")

    def with_diffusers() -> torch.Tensor:
        scheduler.set_timesteps(STEPS)
        state = x
        for t in scheduler.timesteps:
            state = scheduler.step(answer, t, state).prev_sample
        return state

    return {
        "fewstep": lambda: sample(lambda state, at: answer, x, table),
        "k-diffusion": lambda: sampling.sample_dpmpp_2m(lambda state, sigma, **_: answer, x, grid, disable=True),
        "diffusers": with_diffusers,
    }


def overhead(shape: tuple[int, ...]) -> None:
    """Print microseconds per step and our ratio to each."""
    contenders = runners(shape)
    repeats = 20 if torch.Size(shape).numel() < 1e6 else 3
    rounds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            rounds[name].append(seconds(run, repeats) / STEPS * 1e6)
    ours = rounds["fewstep"]
    for name, times in rounds.items():
        ratio = statistics.median(a / b for a, b in zip(ours, times, strict=True))
        print(f"  {'x'.join(map(str, shape)):>16}  {name:<12} {statistics.median(times):9.1f} us per step   fewstep / {name}: {ratio:.2f}")


def scoring() -> None:
    """Print candidates scored per second on the digits teacher."""
    teacher = load("digits")
    evaluator = Evaluator(teacher, targets(teacher, "fit", 64))
    space = Space(teacher.process, teacher.start, teacher.end, 5)
    tables = [compile(space.decode(params)) for params in random_points(space, 12)]
    spent = seconds(lambda: evaluator.errors(tables), 2)
    building = seconds(lambda: [compile(space.decode(params)) for params in random_points(space, 12)], 2)
    rates = f"{len(tables) / spent:.1f} candidates scored a second, {len(tables) / building:.0f} compiled"
    print(f"  digits, NFE 5, 64 seeds: {rates}")


if __name__ == "__main__":
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("executor overhead, DPM-Solver++ 2M, 20 steps, free denoiser:")
    for shape in ((1, 4, 64, 64), (16, 4, 64, 64), (64, 1, 32, 32)):
        overhead(shape)
    print("candidates:")
    scoring()
