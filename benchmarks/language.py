"""A character GPT and an LSTM on tiny Shakespeare, pruned without retraining: perplexity by method and width.

Trains both networks first unless their weights are in the folder given (about half an hour on two cores). All methods
get the same calibration text and the same widths; each is measured as published and with the refit.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mipp
from benchmarks.language_models import CharGPT, CharLSTM
from benchmarks.record import Record, Row

LENGTH, BATCH = 128, 16
STEPS = {"gpt": 1500, "lstm": 3000}
RATES = {"gpt": 1e-3, "lstm": 3e-3}
CALIBRATION = 128
METHODS: dict[str, Callable[[], Any]] = {
    "mipp": mipp.methods.MIPP,
    "flap": lambda: mipp.methods.all()["flap"](scope="local"),
    "wanda": mipp.methods.all()["wanda"],
    "l1": mipp.methods.all()["l1"],
    "random": mipp.methods.Random,
}
KEPT = {"gpt": (0.75, 0.5), "lstm": (0.5,)}


def main() -> None:
    """Trains what is missing, prunes, and writes benchmarks/results/language.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained weights; made if missing")
    parser.add_argument("--draws", type=int, default=3, help="calibration draws")
    parser.add_argument("--model", action="append", choices=STEPS, help="only this network; may be repeated")
    options = parser.parse_args()
    text = Text(Path(os.environ["MIPP_DATA_DIR"]) / "text" / "tinyshakespeare.txt")
    record = Record("language", length=LENGTH, batch=BATCH, steps=STEPS, rates=RATES, calibration=CALIBRATION, seed=0)
    for name in options.model or STEPS:
        model = trained(name, text, options.weights, record)
        for draw in range(options.draws):
            for kept in KEPT[name]:
                for method in METHODS:
                    key = {"model": name, "kept": kept, "method": method, "draw": draw}
                    record.measure(key, lambda m=model, k=key: pruned(m, text, k))


class Text:
    """Tiny Shakespeare as numbers: nine tenths to train and calibrate on, the last tenth to test on."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        self.characters = sorted(set(text))
        number = {c: i for i, c in enumerate(self.characters)}
        data = torch.tensor([number[c] for c in text])
        self.train, self.test = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]

    def batch(self, generator: torch.Generator, size: int = BATCH) -> Tensor:
        """Pieces of the training text, shape [size, LENGTH + 1]."""
        starts = torch.randint(len(self.train) - LENGTH - 1, (size,), generator=generator)
        return self.train[starts[:, None] + torch.arange(LENGTH + 1)]

    def perplexity(self, model: nn.Module) -> float:
        """Per character, on the whole test text in pieces of LENGTH."""
        model.eval()
        pieces = self.test[: (len(self.test) - 1) // LENGTH * LENGTH].view(-1, LENGTH)
        following = self.test[1 : pieces.numel() + 1].view(-1, LENGTH)
        loss = 0.0
        with torch.inference_mode():
            for x, y in zip(pieces.split(64), following.split(64), strict=True):
                loss += float(F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"))
        return math.exp(loss / pieces.numel())


def trained(name: str, text: Text, folder: Path, record: Record) -> nn.Module:
    """The dense network, trained if its weights are not there."""
    torch.manual_seed(0)
    model: nn.Module = (CharGPT if name == "gpt" else CharLSTM)(len(text.characters))
    path = folder / f"char_{name}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        train(model, text, STEPS[name], RATES[name])
        save_file(model.state_dict(), path, {"minutes": f"{(time.perf_counter() - start) / 60:.1f}"})
    model.load_state_dict(load_file(path))
    record.measure({"model": name, "kept": 1.0, "method": "dense", "draw": 0}, lambda: dense_row(model, text))
    return model.eval()


def train(model: nn.Module, text: Text, steps: int, rate: float) -> None:
    """AdamW with one cycle of the learning rate, in float32."""
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.05)
    model.train()
    for step in range(steps):
        tokens = text.batch(generator)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


def dense_row(model: nn.Module, text: Text) -> Row:
    return {"perplexity": text.perplexity(model), "params": sum(p.numel() for p in model.parameters())}


def pruned(model: nn.Module, text: Text, key: Row) -> Row:
    """Perplexity after pruning, as published and with the refit."""
    generator = torch.Generator().manual_seed(100 + key["draw"])
    tokens = text.batch(generator, CALIBRATION)[:, :-1]
    budget = mipp.Budget(widths=widths(model, tokens, key["kept"]))
    start = time.perf_counter()
    result = mipp.prune(
        model, list(tokens.split(32)), budget, METHODS[key["method"]](), seed=key["draw"], progress=False
    )
    seconds = time.perf_counter() - start
    return {
        "as published": text.perplexity(mipp.apply(result.plan, model)),
        "with refit": text.perplexity(result.model),
        "seconds": round(seconds, 1),
        "params": sum(p.numel() for p in result.model.parameters()),
    }


def widths(model: nn.Module, tokens: Tensor, kept: float) -> Mapping[str, int]:
    """Units of every feed-forward network and heads, or recurrent units; the residual stream stays whole."""
    groups = mipp.inspect(model, tokens[:2]).groups
    return {
        name: round(kept * group.size) if "blocks" in name or name == "rnn" else group.size
        for name, group in groups.items()
    }


if __name__ == "__main__":
    main()
