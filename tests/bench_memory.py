"""`make bench-memory`: CPU time and peak memory of one iteration of a fit, for every way to hold what its derivatives need.

Galaxies at NFE 8, 64 fit seeds, level rows, from iPNDM on the log-SNR grid. An iteration is a step of Levenberg-Marquardt or a pass of
Adam. Each has a process of its own; memory is beyond what it takes to load the network and score the start.
"""

import resource
import subprocess
import sys
import time

import msgspec
import torch

from search.adam import Adam
from search.fit import Fit
from search.learner import Learner
from solvers import named_grid, preset
from teacher.models import ready
from teacher.trajectories import targets

WAYS = {
    "rmse, Levenberg-Marquardt": Learner(optimiser="lm"),
    "rmse, Adam": Learner(optimiser="adam"),
    "rmse, Adam, rows": Learner(optimiser="adam", adam=Adam(memory="rows")),
    "trajectory, Levenberg-Marquardt": Learner(objective="trajectory", optimiser="lm"),
    "trajectory, Adam": Learner(objective="trajectory", optimiser="adam"),
    "trajectory, Adam, rows": Learner(objective="trajectory", optimiser="adam", adam=Adam(memory="rows")),
    "trajectory, Adam, greedy": Learner(objective="trajectory", optimiser="adam", adam=Adam(memory="greedy")),
}


def peak() -> float:
    """MiB that this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, batch: int) -> None:
    """Print a line."""
    torch.set_num_threads(1)
    teacher = ready("galaxies", {}, "cpu")
    schedule = preset("ipndm", named_grid("log-snr", teacher.process, 8, teacher.start, teacher.end), teacher.process)
    learner = msgspec.structs.replace(WAYS[name], batch=batch, shrink=(1e-4,))
    fit = Fit(teacher, schedule, targets(teacher, "fit", 64), targets(teacher, "select", 64), learner)
    point, before = fit.begin(), peak()
    start = time.process_time()
    fit.step(point)
    print(f"{name:<32} {batch:>6} {time.process_time() - start:>10.1f} {peak() - before:>8.0f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        print(f"{'what':<32} {'batch':>6} {'CPU s':>10} {'MiB':>8}", flush=True)
        for name in WAYS:
            for batch in (16, 64):
                subprocess.run([sys.executable, __file__, name, str(batch)], check=True)
