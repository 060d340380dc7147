"""Learn the numbers of a schedule by gradient; trains no network: `python train.py schedule=FILE`. Settings: conf/train.yaml.

Several starts, of which the best on `select` wins: `schedule=FILE,FILE`, or `model=digits nfe=5` for the best known solvers.
"""

import sys

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import Progress

from conf.entry import plain, start
from search.errors import CampaignError
from search.learn import learn, lesson
from search.perceptual import PerceptualError
from solvers import ScheduleError
from teacher.errors import TeacherError


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Hydra ends here: everything below gets plain records."""
    console = Console()
    try:
        with Progress(console=console) as progress:
            table, path = learn(lesson(plain(config)), progress)
    except (CampaignError, PerceptualError, ScheduleError, TeacherError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a folder that nobody may write to
        sys.exit(f"error: {error.filename or 'A file'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    console.print(table)
    console.print(f"schedule: {path}")


if __name__ == "__main__":
    start(main, lists=("schedule",))
