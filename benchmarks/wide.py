"""Time and memory of one feed-forward network of Llama-7B's size (11,008 hidden units), random weights and data.

    python -m benchmarks.wide

Half of the hidden units go; each memory limit is measured in a fresh process.
"""

import json
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mipp
from benchmarks.memory import peak
from benchmarks.record import Record, Row

WIDTH, HIDDEN = 4096, 11008
SEQUENCES, TOKENS = 128, 64
LIMITS = ("4GB", "16GB")


class FeedForward(nn.Module):
    """SwiGLU, of the size of Llama-7B's by default."""

    def __init__(self, width: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def main() -> None:
    """Writes benchmarks/results/wide.json."""
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1])))
        return
    record = Record("wide", width=WIDTH, hidden=HIDDEN, sequences=SEQUENCES, tokens=TOKENS)
    for limit in LIMITS:
        record.measure({"memory limit": limit}, lambda limit=limit: in_fresh_process(limit))


def in_fresh_process(limit: str) -> Row:
    command = [sys.executable, "-m", "benchmarks.wide", limit]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


@torch.no_grad()
def measured(limit: str) -> Row:
    """Seconds of each phase, peak resident memory in MB, and what is left of the output's error by the refit."""
    torch.manual_seed(0)
    model = FeedForward().eval()
    data = mix(torch.randn(SEQUENCES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)))
    before = peak()
    result = mipp.prune(
        model, list(data.split(8)), mipp.Budget(widths={"gate": HIDDEN // 2}), memory_limit=limit, progress=False
    )
    highest = peak()
    fresh = mix(torch.randn(4, TOKENS, WIDTH, generator=torch.Generator().manual_seed(2)))
    dense, cut = model(fresh), mipp.apply(result.plan, model)(fresh)
    seconds = {phase: round(t, 1) for phase, t in result.report.seconds.items()}
    return {
        "seconds": seconds,
        "peak before": before,
        "peak": highest,
        "error, cut": round(float((cut - dense).norm() / dense.norm()), 4),
        "error, refitted": round(float((result.model(fresh) - dense).norm() / dense.norm()), 4),
        "notes": list(result.report.notes),
    }


def mix(x: Tensor) -> Tensor:
    """Correlated inputs, as activations are: variances fall as 1 / rank."""
    scale = torch.arange(1, WIDTH + 1).rsqrt()
    return (x * scale).roll(1, -1) + x * scale * WIDTH**0.25


if __name__ == "__main__":
    main()
