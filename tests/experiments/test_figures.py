"""The paper's figures as commands: each runs on digits and is drawn from its result file, and claims are counted."""

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments.mipp_2024 import data, recipes, record, tables
from experiments.mipp_2024.__main__ import app
from experiments.mipp_2024.figures import (
    base,
    claims,
    masks,
    measurements,
    paper_networks,
    plots,
    questions,
    sparsity,
    variants,
)
from experiments.mipp_2024.figures.base import SCALES, fits, of_measurements
from experiments.mipp_2024.figures.registry import FIGURES
from experiments.mipp_2024.figures.rows import last
from experiments.mipp_2024.imagenet import imagenet
from experiments.mipp_2024.training import Recipe
from typer.testing import CliRunner

from mipp import grid, zoo
from mipp.errors import MippError

pytest.importorskip("matplotlib")


pytest.importorskip("lightning")


pytestmark = pytest.mark.usefixtures("quick")


DIGITS = [name for name in FIGURES if name not in ("figure1", "figure6", "masks")]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("experiments")


def call(*arguments: str, out: Path):
    return CliRunner().invoke(app, [*arguments, "--runs", str(out / "runs"), "--out", str(out)])


def row(method: str, accuracy: float, panel: str = "lenet5, mnist, trained", nodes: float = 0.1, **more):
    return {
        "panel": panel, "method": method, "budget": {"nodes": nodes}, "seed": 0, "nodes": nodes, "collapsed": [],
        "accuracy": {"dense": 99.0, "pruned": 50.0, "pruned, 5 epochs": accuracy},
    } | more  # fmt: skip


@pytest.mark.parametrize("has_weights", [True, False])
def test_a_network_that_the_benchmarks_have_trained_is_not_trained_again(has_weights, tmp_path, monkeypatch):
    pixels, labels = torch.zeros(8, 3, 32, 32, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64)
    images = zoo.ImageData(pixels, labels, 10, (0.5,) * 3, (0.25,) * 3, "cifar10", "train")
    monkeypatch.setattr(paper_networks, "load", lambda name, split: images)
    if has_weights:
        (tmp_path / "cifar_vgg11.safetensors").touch()
    (piece,) = paper_networks.trained(base.Site(weights=tmp_path, runs=tmp_path, panel="vgg11"))
    assert any("training" in job.name for job in piece.jobs) != has_weights
    assert ("program" in piece.settings["training"]) == has_weights


@pytest.mark.slow
def test_every_figure_that_needs_no_files_runs_on_digits_and_is_drawn(out):
    done = call(*DIGITS, "--scale", "smoke", out=out)
    assert done.exit_code == 0, done.output
    for name in DIGITS:
        assert ET.parse(out / "plots" / f"{name}.svg").getroot().tag.endswith("svg")
        assert record.load(FIGURES[name].experiment, out / "results").rows


def test_a_figure_runs_once_says_where_it_comes_from_and_what_is_left(out):
    done = call("direction", "--scale", "smoke", out=out)
    assert done.exit_code == 0, done.output
    assert "direction: 9 of 9 done" in done.output
    found = json.loads((out / "results" / "direction.json").read_text())
    assert found["command"] == "python -m experiments.mipp_2024 direction --scale smoke --device cpu"
    assert {"cpu", "threads", "versions"} <= found["machines"][0].keys()
    assert {r["method"] for r in found["rows"]} == {"output to input", "input to output"}
    assert str(out) not in json.dumps(found)
    again = call("direction", "--scale", "smoke", "--minutes", "0", out=out)
    assert "9 of 9" in again.output
    shutil.move(out / "runs", out / "others")
    from_file = call("direction", "--scale", "smoke", "--minutes", "0", out=out)
    assert "direction: 8 of 9 done" in from_file.output  # all rows; no dense network
    shutil.rmtree(out / "runs")
    shutil.move(out / "others", out / "runs")
    late = call("calibration", "--scale", "smoke", "--minutes", "0", out=out)
    assert late.exit_code == 0, late.output
    assert "64 images: 1 of 5 done" in late.output  # the dense network, which direction trained


def test_what_is_tried_on_digits_leaves_the_results_alone(tmp_path):
    arguments = ("direction", "--scale", "smoke", "--minutes", "0", "--runs", str(tmp_path))
    before = {path: path.read_bytes() for path in record.RESULTS.iterdir()}
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert {path: path.read_bytes() for path in record.RESULTS.iterdir()} == before
    assert (tmp_path / "smoke" / "results" / "direction.json").exists()


def test_panels_whose_data_are_missing_are_left_out_and_others_are_run():
    def missing():
        raise zoo.DataSetError("no such folder")

    makers = {"one": lambda: "its piece", "two": missing}
    site = base.Site()
    assert site.some(makers) == ["its piece"]
    assert list(site.lacking) == ["two"]
    alone = base.Site(panel="one")
    assert alone.some(makers) == ["its piece"]
    assert not alone.lacking
    with pytest.raises(zoo.DataSetError, match="no such folder"):
        base.Site(panel="two").some(makers)


def test_deformed_images_are_those_that_networks_are_trained_on(tmp_path, monkeypatch):
    data, seen = zoo.load("digits", "train"), []
    monkeypatch.setattr(variants, "deform", lambda given: seen.append(given) or given)
    variants.draw_images(data, tmp_path / "images.svg")
    assert seen == [data]  # how much each is deformed depends on how many there are


def test_deformed_images_are_drawn_below_those_they_were(tmp_path):
    variants.draw_images(zoo.load("digits", "train").subset(slice(3)), tmp_path / "images.svg")
    pictures = ET.parse(tmp_path / "images.svg").iter("{http://www.w3.org/2000/svg}image")
    assert len(list(pictures)) == 6


def test_no_job_is_begun_when_it_is_late(tmp_path):
    arguments = ("direction", "--scale", "smoke")
    assert "direction: 0 of 9 done" in call(*arguments, "--minutes", "0", out=tmp_path).output
    assert "direction: 9 of 9 done" in call(*arguments, out=tmp_path).output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("figure22",), "did you mean 'figure2'"),
        (("figure2", "--scale", "huge"), "smoke, laptop, gpu, paper"),
        (("direction", "--scale", "smoke", "--panel", "resnet"), "has 'resnet' in its name"),
        (("direction", "--scale", "smoke", "--device", "nonsense"), "device 'nonsense' cannot be used"),
        (("direction", "--scale", "smoke", "--seeds", "0"), "--seeds"),
        (("direction", "--scale", "smoke", "--weights", "nowhere"), "--weights"),
    ],
)
def test_unknown_names_are_refused(arguments, expected, out):
    done = call(*arguments, out=out)
    assert done.exit_code == 2
    assert expected in done.output


def test_all_leaves_out_what_has_no_data_and_a_figure_by_name_says_what_is_missing(out, monkeypatch, tmp_path):
    monkeypatch.setenv("MIPP_DATA_DIR", str(tmp_path))
    done = call("all", "--minutes", "0", out=out)
    assert done.exit_code == 0, done.output
    assert "figure2, figure3, figure4, figure11" in done.output
    assert "left out" in done.output
    done = call("figure2", "--minutes", "0", out=out)
    assert done.exit_code == 2
    assert "MNIST" in done.output


def test_a_result_file_keeps_the_panels_of_other_scales(tmp_path):
    def piece(panel: str, epochs: int):
        todo = [({"seed": 0}, lambda: {"value": epochs})]
        return of_measurements(panel, {"of": panel, "epochs": epochs}, todo, tmp_path / "runs")

    for panels in (["small", "large"], ["large"]):
        pieces = [piece(name, epochs=len(panels)) for name in panels]
        grid.sweep(job for one in pieces for job in one.jobs)
        record.save("both", "a command", pieces, tmp_path)
    found = record.load("both", tmp_path)
    assert [(r["panel"], r["value"]) for r in found.rows] == [("small", 2), ("large", 1)]
    assert found.head["settings"] == {"small": {"of": "small", "epochs": 2}, "large": {"of": "large", "epochs": 1}}


def test_a_result_file_keeps_the_seeds_that_are_not_asked_for(tmp_path):
    def piece(seeds: range, images: int = 1):
        todo = [({"seed": seed}, lambda: {"value": images}) for seed in seeds]
        return of_measurements("panel", {"images": images}, todo, tmp_path / "runs")

    def saved(one):
        record.restore("one", [one], tmp_path)
        grid.sweep(one.jobs)
        record.save("one", "a command", [one], tmp_path)
        return sorted((r["seed"], r["value"]) for r in record.load("one", tmp_path).rows)

    assert saved(piece(range(3))) == [(0, 1), (1, 1), (2, 1)]
    assert saved(piece(range(1))) == [(0, 1), (1, 1), (2, 1)]
    assert saved(piece(range(1), images=2)) == [(0, 2)]


def test_a_result_file_keeps_what_a_command_that_runs_nothing_knows_nothing_of(tmp_path):
    def piece(images: int):
        return of_measurements("panel", {"images": images}, [({"seed": 0}, lambda: {"value": images})], tmp_path / "r")

    done = piece(1)
    grid.sweep(done.jobs)
    record.save("one", "a command", [done], tmp_path)
    before = record.load("one", tmp_path)
    for others in ([piece(2)], [done]):
        record.save("one", "another command", others, tmp_path)
        assert record.load("one", tmp_path) == before


def test_measurements_go_on_from_a_result_file(tmp_path):
    def piece(folder: str):
        todo = [({"seed": seed, "of": {"nodes": 0.1}}, lambda: {"value": 1}) for seed in range(2)]
        return of_measurements("panel", {"images": (1, 2)}, todo, tmp_path / folder)

    first, second = piece("first"), piece("second")
    grid.sweep(first.jobs[:1])
    record.save("one", "a command", [first], tmp_path)
    record.restore("one", [second], tmp_path)
    assert second.rows() == first.rows()
    record.save("one", "a command", [second], tmp_path)
    assert len(record.load("one", tmp_path).rows) == 1


def test_a_measurement_that_is_refused_says_so(tmp_path):
    def refuse():
        raise MippError("no")

    piece = of_measurements("a", {}, [({"seed": 0}, refuse), ({"seed": 1}, lambda: {"value": 2})], tmp_path)
    assert piece.remaining() != piece.remaining()  # nothing to guess from
    grid.sweep(piece.jobs)
    refused, measured = piece.rows()
    assert refused["error"] == "MippError: no"
    assert measured["value"] == 2
    assert piece.remaining() == 0


def test_scales_contain_the_smaller_ones():
    assert [scale for scale in SCALES if fits("laptop", scale)] == ["laptop", "gpu", "paper"]
    assert [scale for scale in SCALES if fits("smoke", scale)] == ["smoke"]


def seeds(method: str, *accuracies: float, **more):
    return [row(method, accuracy, seed=seed, **more) for seed, accuracy in enumerate(accuracies)]


def test_a_claim_compares_with_each_rival_over_the_seeds_and_counts_sparsities():
    rows = [*seeds("mipp", 98.0, 98.1, 98.2), *seeds("synflow", 97.0, 97.2, 97.1), *seeds("l1", 99.0, 99.0, 99.0)]
    rows += [*seeds("thinet", 98.0, 98.2, 98.1), *seeds("mipp", 97.0, 97.1, 97.0, nodes=0.3)]
    rows += seeds("thinet", 97.0, 96.9, 97.3, nodes=0.3)
    (told,) = claims.better(rows)
    assert told.verdict == "no difference shown"
    assert "SynFlow +1.00 [+0.75, +1.25];" in told.words
    assert "ThiNet -0.02 " in told.words  # over both sparsities; L1 is no rival of the paper
    assert claims.better([]) == []
    (told,) = claims.better([{**r, "budget": {"macs": r["budget"]["nodes"]}} for r in rows])
    assert told.words.endswith("means over the sparsities in MACs")
    (told,) = claims.better([*seeds("mipp", 90.0, 90.1, 90.2), *seeds("grasp", 97.0, 97.2, 97.1)])
    assert told.verdict == "worse"


def test_the_papers_own_method_has_a_verdict_of_its_own_against_networks_no_larger():
    own = [row("mipp of the paper, confidence 0.9", 95.0 + s / 10, nodes=0.2, budget={}, seed=s) for s in range(3)]
    rivals = [*seeds("synflow", 97.0, 97.2, 97.1), *seeds("synflow", 99.0, 99.0, 99.0, nodes=0.3)]
    (told,) = claims.papers_own([*own, *rivals, *seeds("mipp", 99.0, 99.0, 99.0)])
    assert told.verdict == "worse"
    assert "SynFlow with as many nodes or fewer -2.00" in told.words  # a tenth of the nodes, and then 30 %
    assert "with as many or more -3.90" in told.words
    assert told.where.endswith("the paper's own method")


def test_variants_are_compared_on_the_runs_that_both_have_and_judged_at_equal_widths():
    equal = {"budget": {"widths": {"fc": 2}}}
    rows = [*seeds("a", 97.0, 97.2, 97.1), *seeds("b", 96.0, 96.1, 96.2), row("a", 90.0, seed=7)]
    rows += [*seeds("a", 95.0, 95.2, 95.1, **equal), *seeds("b", 95.1, 95.0, 95.2, **equal)]
    rows += [row("a", 99.0, budget={"min_keep": 0}), row("b", 10.0, budget={"min_keep": 0})]
    first, second = claims.pairs("a", "b")(rows)
    assert (first.where, first.verdict) == ("equal widths", "no difference shown")
    assert (second.where, second.verdict) == ("widths of their own", None)
    assert "pruned, 5 epochs +1.00" in second.words
    assert claims.pairs("a", "c")(rows) == []


def test_a_claim_is_about_the_stage_without_refit_where_there_is_one():
    assert last([row("mipp", 98.0)]) == "pruned, 5 epochs"
    assert last([{"accuracy": {"dense": 99.0, "refitted": 98.0, "refitted, 1 epoch": 98.5}}]) == "refitted, 1 epoch"


def test_a_claim_on_collapse_compares_shares_of_runs():
    rows = [row("mipp", 98.0), row("synflow", 10.0, collapsed=["fc1"]), row("synflow", 97.0)]
    (told,) = claims.seldom_empty(rows)
    assert told.words == "MIPP 0%, SynFlow 50% (no difference shown), of 1 runs each"
    many = [row("mipp", 98.0, seed=s) for s in range(6)]
    many += [row("synflow", 10.0, seed=s, collapsed=["fc1"]) for s in range(6)]
    assert claims.seldom_empty(many)[0].verdict == "better"


def test_the_papers_own_perceptrons_count_where_they_empty_a_layer():
    rows = [row("mipp", 98.0), row("synflow", 97.0)]
    more = {"budget": {"min_keep": 0}, "information": {"fc1": [0.0, -0.5]}}
    rows.append(row("mipp of the paper, confidence 0.9", 11.0, nodes=0.53, collapsed=["fc1"], **more))
    _, told = claims.seldom_empty(rows)
    assert told.verdict == "no difference shown"
    assert "sized by confidence (47 % removed), 1 of 1 runs emptied a layer" in told.words
    assert "the perceptrons were overfitted" in told.words


def test_methods_are_compared_on_the_seeds_that_all_of_them_have():
    rows = [row("mipp", 98.0), row("mipp", 90.0, seed=1), row("l1", 97.0), row("thinet", 99.0, seed=1)]
    assert [r["accuracy"]["pruned, 5 epochs"] for r in base.matched(rows, ("mipp", "l1"))] == [98.0, 97.0]
    assert base.matched(rows) == []
    (told,) = measurements.short(rows[:3])
    assert "MIPP 98.00, best MIPP 98.00 of 2" in told.words


def test_pixels_that_lie_side_by_side_do_not_look_random():
    def told(pixels):
        rows = [{"panel": "p", "method": "mipp", "seed": 0, "kept": 0.25, "shape": [4, 8], "pixels": pixels}]
        return claims.random_pixels(rows)[0]

    assert str(told(list(range(8)))).startswith("**contradicted** p: 25% of the pixels: 100% of the selected")
    assert told([0, 5, 7, 12, 18, 23, 28, 31]).verdict == "supported"


def test_plots_say_with_how_many_seeds_their_runs_were_done():
    rows = [row("mipp", 98.0, seed=seed) for seed in range(3)]
    assert plots.counted(rows) == "3 runs, 3 seeds"
    assert plots.counted([*rows, row("l1", 98.0)]) == "4 runs, 1 to 3 seeds"
    assert plots.counted(rows[:1]) == "1 run, 1 seed"


def test_bins_hold_five_percent_each_and_ratios_average_to_one():
    rows = [{"nodes": kept} for kept in (0.96, 0.94, 0.5, 0.04, 0.0)]
    assert {start: len(members) for start, members in plots.bins(rows).items()} == {0: 1, 5: 1, 50: 1, 95: 2}
    ratios = plots.normalise({"keep": {"a": 0.5, "b": 0.9, "c": 0.1}})
    assert sum(ratios.values()) / 3 == pytest.approx(1)


def test_unbalanced_calibration_data_are_unbalanced():
    data = zoo.load("digits", "train")
    found = questions.imbalanced(data)
    one = found["nine of ten of one class"].labels
    assert 0.85 < float((one == 0).float().mean()) < 0.95
    assert found["half of the classes"].labels.unique().tolist() == [0, 1, 2, 3, 4]
    assert len({data.name, *(d.name for d in found.values())}) == 3


def test_masks_from_a_hash_tell_all_about_the_data_and_masks_that_ignore_it_nothing():
    rows = {rule: masks.study(rule, 8, 0, 16, trained=False) for rule in ("mipp", "hash of the data", "same for all")}
    assert rows["hash of the data"]["bits"] == 4
    assert rows["same for all"]["bits"] == rows["same for all"]["bits, sum over the nodes"] == 0
    assert 0 < rows["mipp"]["bits"] <= 4
    assert rows["mipp"]["accuracy"] > 60


def test_masks_that_tell_more_have_to_be_worth_more():
    def rows(accuracies):
        told = list(zip(("same for all", "mipp", "hash of the data"), (0.0, 4.0, 7.0), accuracies, strict=True))
        same = {"panel": "trained", "kept": 2, "tasks": 256}
        return [{**same, "seed": seed, "rule": r, "bits": b, "accuracy": a} for seed in range(3) for r, b, a in told]

    (rising,), (falling,) = claims.masks(rows((90.0, 95.0, 96.0))), claims.masks(rows((98.0, 97.0, 96.0)))
    assert str(rising).startswith(
        "**supported** trained: rank correlation of bits (of at most 8) and accuracy over the rules +1.00 "
        "[+1.00, +1.00]; 2 kept"
    )
    assert falling.verdict == "contradicted"
    (one,) = claims.masks(rows((90.0, 95.0, 96.0))[:3])
    assert one.verdict == "not shown"
    assert "the same for all 0.0 bits, 98.00 %" in falling.words


def test_every_mask_keeps_as_many_nodes():
    generator = torch.Generator().manual_seed(0)
    x, _ = masks.family(8, generator)
    weights = tuple(w.expand(8, *w.shape) for w in masks.initial(generator))
    for rule in masks.RULES:
        assert masks.RULE[rule](weights, x, 4).sum(1).tolist() == [4.0] * 8


def test_the_page_shows_what_the_result_files_hold():
    page = Path(__file__).parents[2] / tables.PAGES[0]
    from benchmarks.markdown import rendered

    assert rendered(page.read_text(), tables.TABLES) == page.read_text()


@pytest.mark.slow
def test_figure6_runs_from_folders_of_images_to_its_plot(tmp_path, monkeypatch):
    """Reader, recipe and command on a hundred made-up images, with a smaller network than ResNet-50."""
    Image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for part, each in (("train", 4), ("val", 16)):
        for label in range(5):
            folder = tmp_path / "imagenet" / part / f"n{label}"
            folder.mkdir(parents=True)
            for i in range(each):
                pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    monkeypatch.setenv("MIPP_DATA_DIR", str(tmp_path))
    made_up = {"train": (5, 20), "test": (5, 80)}
    monkeypatch.setitem(data._OTHERS, "imagenet", lambda at, split: imagenet(at, split, counts=made_up[split]))
    monkeypatch.setattr(sparsity, "IMAGENET", replace(sparsity.IMAGENET, network="resnet18"))
    quick = Recipe(1, 10, 0.01, augment=("crop", "flip"))
    monkeypatch.setitem(recipes.PAPER, "imagenet", recipes.Recipes(quick, quick))
    done = call("figure6", "--scale", "paper", out=tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = record.load("imagenet", tmp_path / "out" / "results").rows
    assert len(rows) == 4
    assert not any("error" in r for r in rows)
    assert all({"pruned", "pruned, 1 epoch", "pruned, 5 epochs"} <= r["top-5 accuracy"].keys() for r in rows)
    assert ET.parse(tmp_path / "out" / "plots" / "figure6.svg").getroot().tag.endswith("svg")
