"""The paper's networks beyond LeNet-5 on one processor: before any training, and trained once.

Networks that are not trained get no accuracy, as they guess; what counts are the widths and the emptied layers
(figures 3, 4 and 11). Networks that are trained once are pruned from several draws of calibration images, and some are
then trained for an epoch (figure 2).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import cifar_networks
from benchmarks.cifar import SAMPLES
from benchmarks.workloads import SPARSE
from experiments.mipp_2024 import recipes
from experiments.mipp_2024.data import load
from experiments.mipp_2024.figures import plots
from experiments.mipp_2024.figures.base import Piece, Row, Site, of_grid
from experiments.mipp_2024.figures.claims import WEIGHED
from experiments.mipp_2024.figures.panels import DIGITS, PANELS, Panel, place
from experiments.mipp_2024.figures.sparsity import CONFIDENCE, ENOUGH, NODES, named, title
from experiments.mipp_2024.setting import Setting
from torch import nn

from mipp import grid, zoo
from mipp.methods import MIPP, Method
from mipp.plan.budget import Budget
from mipp.plan.elimination import confidence_schedule

LARGER = PANELS[1:]
CONFIDENCES = 20
"""All of the paper's schedule."""
PAPERS = (2, 7, 14)
"""Of it, those at which its perceptrons are run, on VGG-11 only."""
UNTRAINED = ("mipp", "synflow", "grasp", "thinet", "snip", "l1", "random")
TRAINED = ("mipp", "sosph", "synflow", "grasp", "thinet", "l1", "random@mipp")
RETRAINED = 6
"""Draws of those that are trained for an epoch: of fewer, some of them dead, the median has no interval."""
FEW = 256
"""Images that the accuracy of networks which guess is measured on."""
ONE_NOISE = partial(MIPP, noise=1.0)
"""The closed form under one noise in networks of any form: by default chains are priced under another."""
BUDGETS = SPARSE + [Budget(nodes=fraction, min_keep=0) for fraction in NODES]


def untrained(site: Site) -> list[Piece]:
    """MIPP at the paper's confidences, and all methods at the same sparsities, on networks as they are initialised."""
    found = {title(panel, trained=False): partial(_untrained, panel, site) for panel in _panels(site)}
    papers = [panel for panel in _panels(site) if panel.network == "vgg11"]
    return site.some(found | {_on_enough(panel): partial(_by_perceptrons, panel, site) for panel in papers})


def trained(site: Site) -> list[Piece]:
    """Networks that are trained once, straight after pruning and refitted, for several draws of calibration images."""
    return _of_known(site, recipes.ONCE)


def retrained(site: Site) -> list[Piece]:
    """Of these, those that are also trained for an epoch after pruning: fewer sparsities, as both stages are."""
    return _of_known(site, recipes.AGAIN, again=True)


def draw_untrained(rows: list[Row], path: Path) -> None:
    """Layer collapse, and in a second file what is removed of each layer."""
    plots.collapse(rows, path)
    plots.ratios(rows, path.with_stem(f"{path.stem}-ratios"))


def _untrained(panel: Panel, site: Site) -> Piece:
    return _and_sized(title(panel, trained=False), panel, site, _as_initialised(panel, site), _sized(panel))


def _by_perceptrons(panel: Panel, site: Site) -> Piece:
    """The paper's own method on enough samples, and its rivals and the closed form on the same."""
    schedule = confidence_schedule(CONFIDENCES)
    papers = {
        f"mipp of the paper{CONFIDENCE}{schedule[n]:.8g}": MIPP.paper(confidence=schedule[n], retrain_iterations=20)
        for n in PAPERS
    }
    return _and_sized(_on_enough(panel), panel, site, replace(_as_initialised(panel, site), samples=ENOUGH), papers)


def _and_sized(name: str, panel: Panel, site: Site, work: grid.Workload, sized: Mapping[str, Method]) -> Piece:
    """All methods at the same sparsities, and those that a confidence sizes."""
    todo = []
    for seed in range(site.seeds or 1):
        todo += grid.runs(sized, [Budget(min_keep=0)], [seed])  # first, as perceptrons take longest
        todo += grid.runs({**named(UNTRAINED), "mipp": ONE_NOISE()}, _few(panel), [seed])
    return of_grid(name, work, todo, site.folder(f"{panel.network}-{panel.data}-untrained"))


def _on_enough(panel: Panel) -> str:
    """The name of the panel on enough samples for the paper's perceptrons."""
    return f"{panel.network}, {panel.data}, {ENOUGH:,} images, untrained"


def _as_initialised(panel: Panel, site: Site) -> grid.Workload:
    train, test = _data(panel, site)
    return grid.Workload(
        panel.network,
        partial(place, panel, train, site.device),
        train,
        test.subset(slice(FEW)),
        after={},
        samples=256 if panel == DIGITS else SAMPLES,
        exclude=panel.exclude,
        compensate=False,
    )


def _of_known(site: Site, known: Collection[str], *, again: bool = False) -> list[Piece]:
    """The pieces of networks that a recipe is known for."""
    panels = [panel for panel in _panels(site) if panel == DIGITS or panel.network in known]
    return site.some({title(panel, trained=True): partial(_trained, panel, site, again=again) for panel in panels})


def _trained(panel: Panel, site: Site, *, again: bool) -> Piece:
    train, test = _data(panel, site)
    folder = site.folder(f"{panel.network}-{panel.data}-once")
    setting = Setting(site.folder("checkpoints"), progress=False)
    short = grid.Recipe(1, 0.02, 64)
    recipe = short if panel == DIGITS else recipes.once(panel.network, setting)
    after = {"1 epoch": short if panel == DIGITS else recipes.again(panel.network, setting)} if again else {}
    source = grid.Workload(panel.network, partial(place, panel, train, site.device), train, test, before=recipe)
    ready = _weights(panel, site)
    work = replace(
        source,
        name=f"{panel.network}, trained once" if ready is None else f"{panel.network} of benchmarks.cifar_networks",
        make=lambda seed: _ready(source, folder, ready, site),  # the seed draws calibration images only
        before=grid.Recipe(),
        after=after,
        samples=256 if panel == DIGITS else SAMPLES,
        exclude=panel.exclude,
    )
    draws = range(site.seeds or (RETRAINED if again else 3))
    methods = named(TRAINED) if again else {**named(TRAINED), WEIGHED: MIPP(worth="outputs")}
    budgets = [budget for budget in _few(panel) if budget in SPARSE or not again]
    todo = [run for budget in budgets for run in grid.runs(methods, [budget], draws)]
    piece = of_grid(title(panel, trained=True), work, todo, folder)
    if ready is not None:
        made = cifar_networks.TRAININGS[panel.network]
        own = {"epochs": made.epochs, "learning_rate": made.learning_rate, "program": "benchmarks.cifar_networks"}
        return replace(piece, settings={**piece.settings, "training": own})
    training = source.training(0, folder)
    assert training is not None
    return replace(piece, settings={**piece.settings, "training": recipe.options()}, jobs=[training, *piece.jobs])


def _weights(panel: Panel, site: Site) -> Path | None:
    """The weights of a network that `benchmarks.cifar_networks` has trained, where the folder has them."""
    if site.weights is None or panel == DIGITS or panel.network not in cifar_networks.TRAININGS:
        return None
    path = cifar_networks.path_of(site.weights, panel.network)
    return path if path.exists() else None


def _ready(source: grid.Workload, folder: Path, weights: Path | None, site: Site) -> nn.Module:
    if weights is None:
        return source.dense(0, folder)
    return cifar_networks.dense(source.name, weights.parent).to(site.device)


def _sized(panel: Panel) -> dict[str, Method]:
    schedule = confidence_schedule(CONFIDENCES)
    if panel == DIGITS:
        return {f"mipp{CONFIDENCE}{schedule[3]:.6g}": ONE_NOISE(confidence=schedule[3])}
    return {f"mipp{CONFIDENCE}{sure:.8g}": ONE_NOISE(confidence=sure) for sure in schedule}


def _panels(site: Site) -> Sequence[Panel]:
    if site.scale == "smoke":
        return [DIGITS]
    return [replace(p, data="cifar100-10000") if p.data == "cifar100" else p for p in LARGER]


def _few(panel: Panel) -> list[Budget]:
    return BUDGETS[:1] if panel == DIGITS else BUDGETS


def _data(panel: Panel, site: Site) -> tuple[zoo.ImageData, zoo.ImageData]:
    train, test = (load(panel.data, split).to(site.device) for split in ("train", "test"))
    return (train.subset(slice(512)), test.subset(slice(100))) if panel == DIGITS else (train, test)
