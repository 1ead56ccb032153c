"""The line that every study follows: it starts, runs the cells that are missing while there is time, and says why any are missing.

What a study adds is its own: its cells, a function that runs one and keeps its figures in a `grid.ResultFile`, and a report.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import BaseModel

from medmnist_diffusion.cache import read_kept
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.processes import start_processes, threads_kept
from medmnist_diffusion.studies.budget import seconds_of
from medmnist_diffusion.studies.workers import Workers, run_tasks

STATUS = "status.json"


def check_studied(dataset: ImageDataset) -> None:
    """Raises:
    UserError: for data that no study is made for.
    """
    if dataset.is_volume:
        raise UserError(f"{dataset.name} holds volumes; studies are made for images. Train and evaluate it.")


def absolute_source(dataset: str) -> str:
    """A data set's path as workers in other folders find it; names stay as they are."""
    return str(Path(dataset).resolve()) if Path(dataset).exists() else dataset


@dataclass(frozen=True)
class StudyRun:
    """One call of a study's command.

    Attributes:
        source, dataset: its data, as every worker finds and loads them, and loaded here.
        folder: of its results.
        workers: who runs its cells.
        seconds: that it may take, until the deadline (of time.time()); infinite where no budget is given.
    """

    source: DataSource
    dataset: ImageDataset
    folder: Path
    workers: Workers
    seconds: float
    deadline: float

    @property
    def processes(self) -> int:
        """How many cells run at once, to plan with."""
        return max(1, self.workers.processes)

    @property
    def why_missing(self) -> str:
        """Of cells that are not there when all is done."""
        return "the time was over" if time.time() > self.deadline else "a worker died"


def study_folder(kind: str, dataset: ImageDataset, output: str | Path | None) -> Path:
    """Where a study's results lie: where it was said, or runs/KIND-DATASET."""
    return Path(output or Path("runs") / f"{kind}-{dataset.name}")


def start_study(
    kind: str, source: DataSource, output: str | Path | None, time_budget: str | None, processes: int, scheduler: str | None
) -> StudyRun:  # fmt: skip
    """Args:
        output: the folder of results (default runs/KIND-DATASET).
        time_budget: 90m, 2h; None for no end.
        processes, scheduler: as `Workers` has them.

    Raises:
        UserError: for arguments that cannot be, or where a launcher started several processes.
    """
    seconds = seconds_of(time_budget)
    start_processes()
    if PartialState().num_processes > 1:
        raise UserError("the study starts its own processes: run it without a launcher, with --processes.")
    dataset = source.load()
    check_studied(dataset)
    folder = study_folder(kind, dataset, output).resolve()
    source = source._replace(dataset=absolute_source(source.dataset))
    workers = Workers(folder / "log.txt", processes, scheduler)
    return StudyRun(source, dataset, folder, workers, seconds, time.time() + seconds)


@cache
def loaded_here(source: DataSource) -> ImageDataset:
    """A worker process's data set, loaded once. Its threads stay what they are."""
    with threads_kept():
        start_processes()
        return source.load()


def run_cells(
    run: StudyRun, task: Callable[..., Any], cells: Iterable[tuple[Any, ...]], desc: str, unit: str = "cell"
) -> Iterator[Any]:
    """What `task(*cell)` gives, in a worker, as the cells finish; None of those that would start after the deadline.

    How far the work is stands in the folder's status.json meanwhile, for whoever looks from outside.
    """
    tasks = [(run.deadline, task, *cell) for cell in cells]
    status = Status(part=desc, unit=unit, done=0, left_out=0, of=len(tasks), began=time.time(), updated=time.time())
    if tasks:
        write_json(run.folder / STATUS, status.model_dump())
    for result in run_tasks(_run_in_time, tasks, run.workers, desc, unit):
        status = status.after(result is not None)
        write_json(run.folder / STATUS, status.model_dump())
        yield result


class Status(BaseModel):
    """How far a study's work is: status.json.

    Attributes:
        part, unit: what is run, and what is counted.
        done, left_out, of: how many of these are finished, how many were left out (the time was over), of how many that were
            missing when the command started.
        began, updated: seconds since 1970.
    """

    part: str
    unit: str
    done: int
    left_out: int
    of: int
    began: float
    updated: float

    def after(self, was_done: bool) -> "Status":
        """The same after one more."""
        counted = {"done": self.done + was_done, "left_out": self.left_out + (not was_done)}
        return self.model_copy(update={**counted, "updated": time.time()})

    def in_words(self) -> str:
        """A line for a terminal."""
        when = datetime.fromtimestamp(self.updated).strftime("%Y-%m-%d %H:%M:%S")
        missing = self.of - self.done - self.left_out
        rest = "none is left then" if not missing else f"{missing} were left then"
        if missing and self.done:
            minutes = (self.updated - self.began) / self.done * missing / 60
            rest += f", about {minutes:.0f} minutes"
        out = f", {self.left_out} left out as the time was over" if self.left_out else ""
        return f"{self.part}: {self.done} of {self.of} {self.unit}s{out}, at {when}; {rest}."


def study_status(kind: str, source: DataSource, output: Path | None) -> str:
    """How far a study is, running or not.

    Raises:
        UserError: where none was begun.
    """
    folder = output or study_folder(kind, source.load(), None)
    status = read_kept(folder / STATUS, Status, "status of a study")
    if status is None:
        raise UserError(f"{folder} holds no study that was begun. Give its folder by --output.")
    return status.in_words()


def _run_in_time(deadline: float, task: Callable[..., Any], *cell: Any) -> Any:
    return task(*cell) if time.time() <= deadline else None
