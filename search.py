"""Run a study over a space of schedules: `python search.py model=digits nfe=5`, or nfe=3..10. Settings: conf/search.yaml."""

import sys

import hydra
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from conf.entry import plain, start
from search import front_report, report
from search.errors import CampaignError
from search.perceptual import PerceptualError
from search.result import Result
from search.run import run
from search.settings import settings
from solvers import ScheduleError
from teacher.errors import TeacherError

COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())


@hydra.main(version_base="1.3", config_path="conf", config_name="search")
def main(config: DictConfig) -> None:
    """Hydra ends here: everything below gets plain records."""
    console = Console()
    try:
        with Progress(*COLUMNS, console=console) as progress:
            outcome = run(settings(plain(config)), progress)
    except (CampaignError, PerceptualError, ScheduleError, TeacherError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:  # a full disk, a folder that nobody may write to
        sys.exit(f"error: {error.filename or 'A file'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    if outcome is None:  # another worker concludes
        return
    console.print(report.table(outcome) if isinstance(outcome, Result) else front_report.table(outcome))
    for file in outcome.schedule_files:
        console.print(f"schedule: {file}")
    console.print(f"report:   {outcome.report}")


if __name__ == "__main__":
    start(main)
