"""Cost of a whole `prune` at its defaults, in forward passes of the dense network over the calibration data.

    MIPP_DATA_DIR=... python -m benchmarks.passes --weights FOLDER [--network NAME]
    OMP_NUM_THREADS=2 MIPP_DATA_DIR=... python -m benchmarks.passes --weights FOLDER --by-clock

Every network is measured in a fresh process. Seconds are those of the processor, so that other work on the machine
counts little; one pass is the least of several, before and after the call. With several threads the clock decides,
which asks for a machine that does nothing else; these rows have a file of their own. Memory is the peak above what the
model and the data take before the call. Rows called "fast" are those of that effort. Networks whose trained weights are
not in the folder have random ones, which changes the time little: rows say so. The rows of `inspect` count passes over
the two samples that it is given. What torch imports at the first trace of a process is imported before.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import mipp
from benchmarks.cifar import EXCLUDED, SAMPLES, WEIGHTS, calibration
from benchmarks.cifar_networks import TRAININGS, dense, path_of
from benchmarks.imagenet_networks import resnet, vgg16
from benchmarks.language import CALIBRATION, Text
from benchmarks.language_models import CharGPT, CharLSTM
from benchmarks.real_networks import WikiText, smollm2
from benchmarks.record import Record, Row
from mipp import zoo

Clock = Callable[[], float]
"""Says the seconds: those of the processor, or of the clock."""


@dataclass(frozen=True)
class Job:
    """A network, what it is calibrated on, and how far it is pruned."""

    model: nn.Module
    batches: Sequence[Any]
    budget: mipp.Budget
    weights: str = "random"
    exclude: tuple[str, ...] = ()
    effort: str = "default"


def cifar(name: str, budget: mipp.Budget, folder: Path) -> Job:
    """A network for CIFAR-10 and 1,024 of its images."""
    trained = path_of(folder, name).exists()
    model = dense(name, folder) if trained else TRAININGS[name].make().eval()
    images = calibration(zoo.load("cifar10", "train"), 0)
    exclude = EXCLUDED if name in WEIGHTS else ()
    return Job(model, images.split(128), budget, "trained" if trained else "random", exclude)


def imagenet(name: str, images: int, _: Path) -> Job:
    """A network for images of 224 x 224 with random weights, on noise."""
    batches = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0)).split(32)
    model = vgg16() if name == "vgg16" else resnet(name)
    return Job(model, batches, mipp.Budget(macs=0.5))


def characters(name: str, folder: Path, effort: str = "default") -> Job:
    """A network of characters and pieces of its training text, at half of the units inside of its blocks."""
    text = Text(Path(os.environ["MIPP_DATA_DIR"]) / "text" / "tinyshakespeare.txt")
    model: nn.Module = (CharGPT if name == "gpt" else CharLSTM)(len(text.characters))
    path = folder / f"char_{name}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
    pieces = text.batch(torch.Generator().manual_seed(0), CALIBRATION)[:, :-1]
    weights = "trained" if path.exists() else "random"
    return Job(model.eval(), pieces.split(32), mipp.Budget(macs=0.6), weights, effort=effort)


def digits(_: Path) -> Job:
    """The network of `mipp demo` with random weights, on the digits that it is pruned with."""
    generator = torch.Generator().manual_seed(0)
    batches = zoo.load("digits", "train").batches(128, limit=SAMPLES, generator=generator)
    return Job(zoo.DigitsCNN().eval(), [images for images, _ in batches], mipp.Budget(macs=0.5))


def smollm(_: Path, pieces: int = 64) -> Job:
    """SmolLM2-135M on text; embedding and output layer, which share their weight, stay."""
    text = WikiText(Path(os.environ["MIPP_DATA_DIR"]) / "text", 0)
    batches = [{"input_ids": part, "use_cache": False} for part in text.pieces("valid", 0, pieces).split(16)]
    return Job(smollm2(), batches, mipp.Budget(macs=0.8), "trained", ("lm_head", "model.embed_tokens"))


def llama(width: int, inner: int, blocks: int, pieces: int, kind: torch.dtype, _: Path) -> Job:
    """A Llama with random weights, on random tokens in pieces of 128."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=blocks, num_attention_heads=width // 64,
        num_key_value_heads=4 if width == 2048 else 3, vocab_size=32000, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    tokens = torch.randint(32000, (pieces, 128), generator=torch.Generator().manual_seed(0))
    model = LlamaForCausalLM(config).to(kind).eval()
    return Job(model, [{"input_ids": part} for part in tokens.split(16)], mipp.Budget(macs=0.8))


JOBS: Mapping[str, Callable[[Path], Job]] = {
    "demo": digits,
    "resnet20": partial(cifar, "resnet20", mipp.Budget(macs=0.5)),
    "resnet56": partial(cifar, "resnet56", mipp.Budget(macs=1 / 2.11)),
    "vit": partial(cifar, "vit", mipp.Budget(macs=0.7)),
    "mobilenetv2": partial(cifar, "mobilenetv2", mipp.Budget(macs=0.7)),
    "gpt": partial(characters, "gpt"),
    "lstm": partial(characters, "lstm"),
    "lstm, fast": partial(characters, "lstm", effort="fast"),
    "vgg11": partial(cifar, "vgg11", mipp.Budget(params=0.2)),
    "resnet18 at 224": partial(imagenet, "resnet18", 64),
    "smollm2": smollm,
    "resnet50 at 224": partial(imagenet, "resnet50", 128),
    "llama, 1.1B": partial(llama, 2048, 5632, 22, 8, torch.bfloat16),
}
INSPECTED: Mapping[str, Callable[[Path], Job]] = {
    "resnet18 at 224": partial(imagenet, "resnet18", 2),
    "resnet50 at 224": partial(imagenet, "resnet50", 2),
    "vgg16 at 224": partial(imagenet, "vgg16", 2),
    "smollm2": partial(smollm, pieces=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained .safetensors files")
    parser.add_argument("--network", choices=[*JOBS, *INSPECTED], action="append", help="all of them by default")
    parser.add_argument("--part", choices=PARTS, action="append", help="both of them by default")
    parser.add_argument("--by-clock", action="store_true", help="seconds of the clock, and prune only")
    parser.add_argument("--here", action="store_true", help="measure one row in this process, and print it")
    options = parser.parse_args()
    if options.by_clock and "inspect" in (options.part or ()):
        parser.error("--by-clock measures prune only")
    now = time.perf_counter if options.by_clock else time.process_time
    if options.here:
        jobs, measure = PARTS[options.part[0]]
        mipp.inspect(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.zeros(2, 2))
        print(json.dumps(measure(jobs[options.network[0]](options.weights), now)))
        return
    record = Record("passes_by_clock" if options.by_clock else "passes", samples=SAMPLES)
    flags = ["--weights", str(options.weights), *(["--by-clock"] if options.by_clock else [])]
    for part in ["prune"] if options.by_clock else options.part or PARTS:
        for name in PARTS[part][0]:
            if not options.network or name in options.network:
                record.measure({"call": part, "network": name}, partial(in_fresh_process, part, name, flags))


def in_fresh_process(part: str, name: str, flags: Sequence[str]) -> Row:
    """A row that a process of its own measures; what it says where it fails."""
    command = [sys.executable, "-m", "benchmarks.passes", *flags, "--part", part]
    done = subprocess.run([*command, "--network", name, "--here"], stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def measure_prune(job: Job, now: Clock) -> Row:
    """Passes of one call and of its phases, and memory in MB; `now` says the seconds."""
    one_pass = pass_seconds(job, now)
    before, start, clock = peak(), now(), time.perf_counter()
    result = mipp.prune(job.model, job.batches, job.budget, exclude=job.exclude, effort=job.effort, progress=False)
    seconds, wall, above = now() - start, time.perf_counter() - clock, peak() - before
    one_pass = min(one_pass, pass_seconds(job, now))
    size = sum(t.numel() * t.element_size() for t in [*job.model.parameters(), *job.model.buffers()])
    phases = {name: round(share / wall * seconds / one_pass, 2) for name, share in result.report.seconds.items()}
    return {
        "weights": job.weights,
        "passes": round(seconds / one_pass, 2),
        "one pass, seconds": round(one_pass, 3),
        "seconds": round(seconds, 2),
        "passes of the phases": phases,
        "weights, MB": round(size / 1e6),
        "peak above the model, MB": above,
    }


def measure_inspect(job: Job, now: Clock) -> Row:
    """Passes over two samples that one call takes, and memory in MB."""
    (batch,) = job.batches
    one_pass = pass_seconds(job, now)
    before, start = peak(), now()
    mipp.inspect(job.model, batch, exclude=job.exclude)
    seconds = now() - start
    return {
        "weights": job.weights,
        "passes": round(seconds / one_pass, 2),
        "one pass, seconds": round(one_pass, 3),
        "seconds": round(seconds, 2),
        "peak above the model, MB": peak() - before,
    }


PARTS: Mapping[str, tuple[Mapping[str, Callable[[Path], Job]], Callable[[Job, Clock], Row]]] = {
    "prune": (JOBS, measure_prune),
    "inspect": (INSPECTED, measure_inspect),
}


@torch.inference_mode()
def pass_seconds(job: Job, now: Clock = time.process_time) -> float:
    """Seconds for one pass over the data, the least of three where they are short."""
    times = []
    for _ in range(3):
        start = now()
        for batch in job.batches:
            job.model(**batch) if isinstance(batch, dict) else job.model(batch)
        times.append(now() - start)
        if times[-1] > 20:
            break
    return min(times)


def peak() -> int:
    """Largest resident memory of this process so far, in MB (Linux counts in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


if __name__ == "__main__":
    main()
