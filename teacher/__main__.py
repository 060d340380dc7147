"""Solve the teacher's images ahead of a campaign: `python -m teacher digits --fit 64 --select 128 --test 256`.

Any number of processes share the shards by rank, and leave them in the cache that the campaign reads. Ranks come from torchrun
(RANK, WORLD_SIZE) or Slurm (SLURM_PROCID, SLURM_NTASKS); no process waits for another, and what is there already is kept.
"""

import argparse
import json
import os
import signal
import sys
from typing import get_args

from solvers import ScheduleError

from . import models, trajectories
from .errors import TeacherError


def ranks() -> tuple[int, int]:
    """This process's rank among how many, as its launcher says; alone it is 0 of 1."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        if rank in os.environ and world in os.environ:
            try:
                here, count = int(os.environ[rank]), int(os.environ[world])
            except ValueError:
                raise TeacherError(f"{rank} and {world} must be whole numbers.") from None
            if not 0 <= here < count:
                raise TeacherError(f"{rank} is {here}, which is not one of {world}={count} from 0 on.")
            return here, count
    return 0, 1


def device_of_rank(device: str) -> str:
    """Of "cuda" the one that is this process's under torchrun, which starts one for each; Slurm shows a process no others."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def main() -> None:
    """Parse, solve this rank's shards, and end a user's mistake with one sentence and status 1."""
    parser = argparse.ArgumentParser(prog="python -m teacher", description="Solve the teacher's images ahead of a campaign.")
    parser.add_argument("model", help="as in search.py model=...")
    parser.add_argument("--options", type=json.loads, default={}, help="""as in model.options, in JSON: '{"guidance": 2.0}'""")
    for block in get_args(trajectories.Block):
        parser.add_argument(f"--{block}", type=int, default=0, help=f"seeds of the {block} block")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu", help="of torch, where the network is: cuda, cuda:1 ...")
    parser.add_argument("--chunk", type=int, default=64, help="samples in one call of the network, at most")
    said = parser.parse_args()
    if not any(getattr(said, block) for block in get_args(trajectories.Block)):
        parser.error("say how many seeds of which block: --fit, --select or --test")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever is asked to end ends as by Ctrl-C
    try:
        rank, world = ranks()
        trajectories.check_tolerance(said.tolerance)
        teacher = models.ready(said.model, said.options, device_of_rank(said.device), said.chunk)
        for block in get_args(trajectories.Block):
            count = getattr(said, block)
            shards = trajectories.plan(block, count, rank, world) if count else []
            for done, seeds in enumerate(shards, 1):
                trajectories.shard(teacher, seeds, said.tolerance)
                print(f"rank {rank} of {world}: {block}, shard {done} of {len(shards)}", flush=True)
    except (TeacherError, ScheduleError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
