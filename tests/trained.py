"""Trains in children: whole, killed in mid-epoch and resumed, and by two processes; prints what came out as JSON.

Children are forked from one process, because it takes seconds to import what they need.
"""

import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from experiments.mipp_2024.recipes import Recipe
from experiments.mipp_2024.setting import Setting
from torch import nn

from mipp.zoo import DigitsCNN, ImageData

FOLDER = Path(sys.argv[1])
SETTING = Setting(checkpoints=FOLDER / "checkpoints", every=5, deterministic=True)
RECIPE = Recipe(3, 15, 0.02, nesterov=True, augment=("crop", "flip", "cutout", "mixup"), hole=2, setting=SETTING)
"""Of a batch that two processes cannot share evenly."""


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def train(recipe: Recipe, make: Callable[[], nn.Module], out: str, kill_at: int | None = None) -> None:
    """Writes the weights, their hash and the number of forward passes to a file."""
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (100, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 10, (100,))
    data = ImageData(images, labels, 10, (0.5,), (0.25,), "noise", "train")  # 6 steps an epoch, 18 in all
    model, passes = make(), [0]

    def count(*_: object) -> None:
        passes[0] += 1
        if passes[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_pre_hook(count)
    recipe(model, data, seed=3)
    state = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()
    answer = {"hash": hashlib.sha256(state).hexdigest(), "passes": passes[0], "weights": flat}
    (FOLDER / out).write_text(json.dumps(answer))


def child(function: Callable[[], None]) -> int:
    pid = os.fork()
    if not pid:
        function()
        os._exit(0)
    return pid


def main() -> None:
    torch.set_num_threads(1)
    ends = []
    for name, kill_at in (("whole", None), ("killed", 16), ("resumed", None)):
        ends.append(os.waitpid(child(lambda n=name, k=kill_at: train(RECIPE, DigitsCNN, n, k)), 0)[1])
    left = [path.name for path in SETTING.checkpoints.iterdir()]
    os.waitpid(child(lambda: train(RECIPE, plain, "alone")), 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(2):  # what torchrun sets
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "test"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        pids.append(child(lambda r=rank: train(RECIPE, plain, f"rank{r}")))
    ends += [os.waitpid(pid, 0)[1] for pid in pids]
    files = ("whole", "resumed", "alone", "rank0", "rank1")
    found = {name: json.loads((FOLDER / name).read_text()) for name in files if (FOLDER / name).exists()}
    sys.stdout.write(json.dumps({"ends": ends, "left": left, **found}))


if __name__ == "__main__":
    main()
