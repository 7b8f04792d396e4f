"""Trains one network, on one device or, started by torchrun, on several; what was killed goes on when started again.

python -m experiments.mipp_2024.train resnet18 cifar10 --scale gpu --out results/resnet18
torchrun --nproc-per-node 2 -m experiments.mipp_2024.train lenet5 mnist --scale laptop --out results/lenet5
"""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from benchmarks.record import machine
from experiments.mipp_2024.data import load
from experiments.mipp_2024.epochs import Data
from experiments.mipp_2024.networks import build
from experiments.mipp_2024.recipes import Scale, recipes
from experiments.mipp_2024.setting import Setting, check_device
from experiments.mipp_2024.training import Recipe
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mipp.errors import MippError
from mipp.grid.workload import digest
from mipp.zoo import accuracy

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    network: Annotated[str, typer.Argument(help="A network: lenet5, vgg11, vgg19, resnet18, resnet34, resnet50, ...")],
    data: Annotated[str, typer.Argument(help="digits, mnist, mnist-deformed, cifar10, cifar100 or imagenet.")],
    out: Annotated[Path, typer.Option(help="Folder for the weights and the record.")],
    scale: Annotated[Scale, typer.Option(help="paper: Table 2; gpu, laptop: a few epochs.")] = "laptop",
    seed: Annotated[int, typer.Option(min=0, help="Of the weights, the order and the augmentation.")] = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data sets.", envvar="MIPP_DATA_DIR")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    *,
    deterministic: Annotated[bool, typer.Option(help="The same bits each time.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write a log for TensorBoard.")] = False,
) -> None:
    """Train a network, and write model.safetensors and record.json."""
    setting = Setting(out, every, out / "tensorboard" if tensorboard else None, deterministic)
    try:
        check_device(device)
        recipe = recipes(data, scale, setting).before
        train, test = load(data, "train", data_dir), load(data, "test", data_dir)
        model = build(network, train, seed).to(device)
        options = {"network": network, "data": data, "scale": scale, "seed": seed, "recipe": recipe.options()}
        seconds = _trained(model, recipe, train, options, out / "model.safetensors")
    except MippError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", "0")):
        return
    top1, top5 = (accuracy(model, test.to(device), top=top) for top in (1, 5))
    record = {
        **options,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": device,
        "machine": machine(),
        "seconds": seconds,
        "top1": top1,
        "top5": top5,
    }
    (out / "record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{network} on {data}: top-1 {top1:.2f} %, top-5 {top5:.2f} %, {seconds:.1f} s")


def _trained(model: nn.Module, recipe: Recipe, train: Data, options: dict[str, Any], path: Path) -> float:
    """Trains, and saves the weights at once, or loads them if this training has done so; returns its seconds."""
    name = digest({**options, "processes": os.environ.get("WORLD_SIZE", "1")})
    if path.exists():
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
        if found.get("training") == name:
            model.load_state_dict(load_file(path))
            return float(found["seconds"])
    start = time.perf_counter()
    recipe(model, train, options["seed"])
    seconds = time.perf_counter() - start
    if not int(os.environ.get("RANK", "0")):
        state = {name: t.cpu().contiguous() for name, t in model.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")  # whoever is killed here leaves no half of the file
        save_file(state, part, {"training": name, "seconds": str(seconds)})
        part.replace(path)
    return seconds


if __name__ == "__main__":
    app()
