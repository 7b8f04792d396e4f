"""Grids of experiments: methods x budgets x seeds on one workload; make the list, do each run once, collect.

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return zoo.LeNet5()

    data, test = zoo.load("mnist", "train"), zoo.load("mnist", "test")
    work = Workload("lenet5", make, data, test, before=Recipe(epochs=5))
    todo = runs({"mipp": MIPP(), "l1": L1()}, [Budget(macs=0.5)], seeds=range(3))
    jobs = [*trainings(todo, work, folder), *(job(run, work, folder) for run in todo)]
    sweep(jobs)
    rows = read_results(todo, work, folder)

Start the program several times, and the processes share the jobs.
"""

from mipp.grid.pictures import draw
from mipp.grid.results import Row
from mipp.grid.run import Run, collect, job, perform, read_results, remaining, restore, runs, trainings
from mipp.grid.store import Job, at_work, once, sweep
from mipp.grid.summary import Summary, markdown, summarise
from mipp.grid.workload import Recipe, Trainer, Workload

__all__ = [
    "Job",
    "Recipe",
    "Row",
    "Run",
    "Summary",
    "Trainer",
    "Workload",
    "at_work",
    "collect",
    "draw",
    "job",
    "markdown",
    "once",
    "perform",
    "read_results",
    "remaining",
    "restore",
    "runs",
    "summarise",
    "sweep",
    "trainings",
]
