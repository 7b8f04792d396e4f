"""Grids of experiments: methods x budgets x seeds on one workload; make the list, do each run once, collect.

work = Workload("lenet5", LeNet5, zoo.load("mnist", "train"), zoo.load("mnist", "test"), before=Recipe(epochs=5))
todo = runs({"mipp": MIPP(), "l1": L1()}, [Budget(macs=0.5)], seeds=range(3))
for run in todo: perform(run, work, folder)
rows = collect(folder)
"""

from mipp.grid.pictures import draw
from mipp.grid.run import Row, Run, collect, perform, runs
from mipp.grid.summary import Summary, markdown, summarise
from mipp.grid.workload import Recipe, Trainer, Workload

__all__ = [
    "Recipe",
    "Row",
    "Run",
    "Summary",
    "Trainer",
    "Workload",
    "collect",
    "draw",
    "markdown",
    "perform",
    "runs",
    "summarise",
]
