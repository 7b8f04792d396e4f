"""Hostile input by the thousand: damaged files and odd command lines are used or refused, and nothing else happens.

`python -m benchmarks.hostile [--cases 100000] [--seed 0] [--part KIND]` counts the outcomes of every kind. A case that
ends in anything but success or a `MippError` is printed with its traceback and counted as broken.
"""

import argparse
import contextlib
import copy
import hashlib
import io
import json
import os
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import mipp
from benchmarks.damage import damage_bytes, damage_json, damage_line, damage_text
from benchmarks.record import Record
from mipp import grid
from mipp.cli import app
from mipp.cli.compare import table_of
from mipp.cli.images import Transform, open_images
from mipp.cli.texts import Table
from mipp.integrations.rounds import Rounds
from mipp.plan.latency import TIMERS
from mipp.runtime.typed import FormError, read_json
from mipp.storage.checkpoint import JOURNAL, Checkpoint
from mipp.storage.folder import read_report
from mipp.storage.identity import Identity

SHARES = {
    "plan": 0.3, "report": 0.2, "weights": 0.18, "journal": 0.12, "image": 0.08, "state": 0.05, "result": 0.05,
    "command": 0.01, "table": 0.01,
}  # fmt: skip
"""Of all cases, by kind: whole commands take longest."""
_NETS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

class Tokens(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(10, 6), nn.Linear(6, 6), nn.Linear(6, 2))
"""
_LINES = {
    "inspect nets:Net --input 2,4": "--input --weights --exclude --json",
    "prune nets:Net --data data.npy --nodes 4 --quiet": (
        "--data --images --size --mean --std --skip-bad --text --length --tokenizer --column --data-dir --weights "
        "--macs --params --nodes --latency-ms --activations --width --min-keep --round-to --uniform --method --set "
        "--exclude "
        "--compensate --recover --max-samples --seed --device --checkpoint --memory-limit --out --evaluate --json"
    ),
    "select nets:Net --data data.npy --num-features 2 --quiet": (
        "--data --images --text --num-features --set --max-samples --seed --out --picture --weights --json"
    ),
    "report saved": "--html --json",
    "export nets:Net --input 2,4 --out out.odd": "--input --out --weights --json",
    "methods": "--json --set",
    "compare --model nets:Nothing --data digits --methods random --budgets nodes=0.5 --out grid --quiet": (
        "--data --methods --budgets --seeds --out --weights --data-dir --before-epochs --learning-rate"
    ),
    "demo --epochs x": "--out --seed --epochs --json",
}
"""Command lines that work, or nearly, and options of the command."""


_RESULT = {
    "method": "l1", "record": "L1()", "budget": {"macs": 0.5}, "seed": 0, "accuracy": {"dense": 97.0, "pruned": 91.5},
    "macs": 0.5, "params": 0.6, "nodes": 0.5, "activations": 0.8, "keep": {"1": 0.5}, "widths": {"1": 6},
    "collapsed": [], "information": {"1": 0.25}, "device": "cpu", "machine": {}, "workload": {"name": "small"},
    "seconds": {"selection": 0.1, "whole": 0.2, "run": 0.3, "training": 0.0},
}  # fmt: skip
"""What a run of a table leaves in its folder."""


class Bench:
    """A folder with a small network, what mipp wrote of it, and data; each method is one case of its kind.

    Args:
        folder: Empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "nets.py").write_text(_NETS, encoding="utf-8")
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.GroupNorm(2, 4),
            nn.Flatten(), nn.Linear(64, 5),
        ).eval()  # fmt: skip
        data = [torch.randn(16, 3, 8, 8)]
        result = mipp.prune(self.model, data, mipp.Budget(nodes=0.6), progress=False)
        result.save(folder / "saved")
        self.files = {path.name: path.read_bytes() for path in (folder / "saved").iterdir()}
        self.plan_text = self.files["plan.json"].decode()
        identity = {"model": {"weights": "0"}}
        self.identity = Identity(identity, ("op",), ((0.5, 0.25),))
        with Checkpoint(folder / "point", self.identity) as store:
            store.save_plan(result.plan, result.model.state_dict(), ["a note"])
            store.save_model("compensated", result.model, [])
        self.small = mipp.apply(result.plan, self.model)
        self.journal = (folder / "point" / JOURNAL).read_bytes()
        self.state = {"done": 1, "reached": {"macs": 0.6}, "plan": result.plan.to_dict()}
        self._write_data()

    def _write_data(self) -> None:
        from PIL import Image

        generator = np.random.default_rng(0)
        np.save(self.folder / "data.npy", generator.normal(size=(32, 4)))
        save_file({"input": torch.randn(32, 4), "labels": torch.arange(32) % 3}, self.folder / "data.safetensors")
        rows = [json.dumps({"text": "some words", "number": n}) for n in range(5)]
        (self.folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
        pixels = Image.fromarray(generator.integers(0, 255, (9, 12, 3), dtype=np.uint8))
        self.images = {}
        for suffix in ("png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"):
            file = io.BytesIO()
            pixels.save(file, {"jpg": "jpeg"}.get(suffix, suffix))
            self.images[suffix] = file.getvalue()
        self.tables = {
            name: (self.folder / name).read_bytes() for name in ("data.npy", "data.safetensors", "rows.jsonl")
        }

    def plan(self, random: Random) -> None:
        """A damaged plan, read, applied, and written again."""
        path = self.folder / "plan.json"
        path.write_text(_damage(json.loads(self.plan_text), random), encoding="utf-8", errors="surrogatepass")
        plan = mipp.load_plan(path)
        mipp.apply(plan, self.model)
        mipp.mask(plan, self.model)
        mipp.PruningPlan.from_dict(json.loads(plan.to_json()))
        repr(plan)

    def report(self, random: Random) -> None:
        """A damaged report, shown as text, page and JSON."""
        text = _damage(json.loads(self.files["report.json"]), random)
        (self.folder / "report.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        report = read_report(self.folder)
        str(report)
        report.to_html(self.folder / "report.html")
        json.dumps(report.to_dict(), allow_nan=False)

    def weights(self, random: Random) -> None:
        """Weights with a damaged header, loaded."""
        content = self.files["model.safetensors"]
        length = struct.unpack("<Q", content[:8])[0]
        header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
        if random.random() < 0.4:
            told = damage_json({"4.bias": "torch.int4", "1.running_mean": "torch.float32"}, random)
            header["__metadata__"]["types of buffers that are not saved"] = json.dumps(told)
        elif random.random() < 0.2:
            header["3.bias"] = {
                "dtype": random.choice(["I64", "F32", "F8_E4M3", "C64"]),
                "shape": [2],
                "data_offsets": [0, 8],
            }
        else:
            header = damage_json(header, random)
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + rest
        if random.random() < 0.3:
            content = damage_bytes(content, random)
        (self.folder / "saved" / "model.safetensors").write_bytes(content)
        mipp.load(self.folder / "saved", self.model)

    def journal_line(self, random: Random) -> None:
        """A damaged journal, with checksums that fit or not, from which a run goes on."""
        lines = [json.loads(line)["entry"] for line in self.journal.splitlines()]
        lines = damage_json(lines, random)
        content = b"".join(map(_journal_line, lines if isinstance(lines, list) else [lines]))
        if random.random() < 0.3:
            content = damage_bytes(content, random)
        (self.folder / "point" / JOURNAL).write_bytes(content)
        with Checkpoint(self.folder / "point", self.identity) as store:
            store.plan()
            store.fill("compensated", self.small)

    def state_of_rounds(self, random: Random) -> None:
        """The damaged state of a training with rounds of pruning, from which one goes on."""
        path = self.folder / "rounds.json"
        path.write_text(_damage(copy.deepcopy(self.state), random), encoding="utf-8", errors="surrogatepass")
        try:
            state = read_json(path)
        except FormError as error:
            raise mipp.MippError(str(error)) from error
        rounds = Rounds(mipp.Schedule(macs=[0.6, 0.5], every=1), [torch.randn(4, 3, 8, 8)])
        rounds.restore(copy.deepcopy(self.model), state)
        json.dumps(rounds.state_dict())

    def result(self, random: Random) -> None:
        """A damaged result in the folder of a table, beside one that is whole."""
        folder = self.folder / "runs"
        folder.mkdir(exist_ok=True)
        (folder / "0.json").write_text(json.dumps(_RESULT), encoding="utf-8")
        text = _damage(copy.deepcopy(_RESULT), random)
        (folder / "1.json").write_text(text, encoding="utf-8", errors="surrogatepass")
        summaries = grid.summarise(grid.collect(folder))
        grid.markdown(summaries)
        Console(file=io.StringIO()).print(table_of(summaries))

    def command(self, random: Random) -> None:
        """An odd command line."""
        words, options = random.choices(list(_LINES.items()), [4, 8, 4, 2, 2, 1, 2, 1])[0]
        line = damage_line(words.split(), options.split(), random)
        answer = CliRunner().invoke(app, line)
        if answer.exit_code not in (0, 2) or "Traceback" in answer.output:
            raise RuntimeError(f"{line}: exit code {answer.exit_code}: {answer.output}")
        if answer.exit_code == 2:
            raise mipp.MippError(answer.output)

    def image(self, random: Random) -> None:
        """A damaged image in a folder."""
        folder = self.folder / "images"
        folder.mkdir(exist_ok=True)
        suffix = random.choice(list(self.images))
        (folder / f"0.{suffix}").write_bytes(damage_bytes(self.images[suffix], random))
        try:
            images, _ = open_images(folder, Transform(8, (0.5,) * 3, (0.5,) * 3), None, seed=0, skip_bad=False)
            list(images.batches(str))
        finally:
            (folder / f"0.{suffix}").unlink()

    def table(self, random: Random) -> None:
        """Damaged calibration data, of numbers or texts."""
        name = random.choice(list(self.tables))
        path = self.folder / f"odd{Path(name).suffix}"
        content = self.tables[name]
        if name == "rows.jsonl" and random.random() < 0.5:
            rows = damage_json([json.loads(row) for row in content.splitlines()], random)
            content = "\n".join(map(json.dumps, rows if isinstance(rows, list) else [rows])).encode()
        else:
            content = damage_bytes(content, random)
        path.write_bytes(content)
        if name == "rows.jsonl":
            Table(path, "text").texts()
            return
        answer = CliRunner().invoke(app, ["prune", "nets:Net", "--data", str(path), "--nodes", "4", "--quiet"])
        if answer.exit_code not in (0, 2):
            raise RuntimeError(f"exit code {answer.exit_code}: {answer.output}")
        if answer.exit_code == 2:
            raise mipp.MippError(answer.output)


def outcomes(kind: str, cases: int, seed: int, bench: Bench, show: Callable[[str], object] = print) -> Counter[str]:
    """Counts what happened: "used", "refused", or "broken" for all that must not be, which is shown."""
    case = {"journal": bench.journal_line, "state": bench.state_of_rounds}.get(kind) or getattr(bench, kind)
    found: Counter[str] = Counter()
    for number in range(cases):
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                case(Random(f"{kind} {seed} {number}"))
                found["used"] += 1
            except mipp.MippError as error:
                found["refused"] += 1
                if len(str(error)) > 2200:
                    found["broken"] += 1
                    show(f"{kind} {seed} {number}: a message of {len(str(error))} letters: {str(error)[:300]}")
            except (Exception, SystemExit):
                found["broken"] += 1
                show(f"{kind} {seed} {number}: {traceback.format_exc(limit=-4)[-1500:]}")
    return found


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A bench in a temporary folder, which is the current one; what the folder holds can be imported."""
    timer, path, home = TIMERS["torch"], sys.path[:], Path.cwd()
    TIMERS["torch"] = lambda *_: 1.0  # measuring takes its time
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Bench(Path(folder))
        finally:
            os.chdir(home)
            sys.path[:] = path
            sys.modules.pop("nets", None)
            TIMERS["torch"] = timer


def _damage(tree: Any, random: Random) -> str:
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        tree = damage_json(tree, random)
        if not isinstance(tree, dict | list):
            break
    text = json.dumps(tree)
    return damage_text(text, random) if random.random() < 0.3 else text


def _journal_line(entry: Any) -> bytes:
    text = json.dumps(entry).encode()
    return b'{"sha256": "%s", "entry": %s}\n' % (hashlib.sha256(text).hexdigest().encode(), text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", help="only this kind; several processes share the work")
    options = parser.parse_args()
    record, broken = Record("hostile", cases=options.cases, seed=options.seed), 0
    with bench() as made:
        for kind, share in SHARES.items():
            if options.part not in (None, kind):
                continue
            cases = round(share * options.cases)

            def count(kind: str = kind, cases: int = cases) -> dict[str, int]:
                found = outcomes(kind, cases, options.seed, made)
                return {"cases": cases, **{name: found[name] for name in ("used", "refused", "broken")}}

            broken += record.measure({"kind": kind}, count)["broken"]
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
