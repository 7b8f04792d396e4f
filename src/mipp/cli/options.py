"""Options that several commands share: their types, help and defaults."""

from collections.abc import Callable
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from mipp.plan.registry import CONSTRAINTS

LIMIT = "Budget: "
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Import path package.module:factory, such as mipp.zoo:DigitsCNN; or hf:FOLDER_OR_NAME, timm:NAME, "
        "torchvision:NAME.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER", help="A .safetensors or .pth state dict, or a folder that `mipp prune --out` wrote."
    ),
]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that a Hugging Face folder brings.")]
DataName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="Calibration data: digits, mnist, cifar10, cifar100 (normalised by mipp.zoo.load(NAME, 'train').mean "
        "and .std); a .safetensors file with the tensor 'input' (and 'labels'); or a .npy file. Images are floats, "
        "[samples, channels, height, width], normalised as the model was trained.",
    ),
]
Labels = Annotated[Path | None, typer.Option(metavar="FILE", help="Classes of the samples of a .npy file, as .npy.")]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Or a folder of images: flat, or a folder for each class, or 'train' and 'val' with these inside. Class "
        "folders give accuracy before and after, on 'val' or a fifth of the images.",
    ),
]
Size = Annotated[int | None, typer.Option(help="Images: height and width in pixels.")]
Mean = Annotated[str | None, typer.Option(metavar="LIST", help="Images: mean by channel, such as 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(metavar="LIST", help="Images: standard deviation by channel.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out images or rows that cannot be read.")]
Text = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Or text: a file; or a .jsonl, .parquet or `datasets` folder with --column."),
]
Length = Annotated[int, typer.Option(min=2, help="Text: tokens in a piece.")]
Tokenizer = Annotated[str | None, typer.Option(metavar="NAME", help="Text: a tokenizer, if not that of the hf: model.")]
Column = Annotated[str | None, typer.Option(help="Text: the column of a table.")]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Modules whose nodes stay, such as 'layer4.*'. Repeatable.")
]
Input = Annotated[
    list[str],
    typer.Option("--input", metavar="SHAPE", help="Such as 1,3,32,32 or 1,128:int64. Repeat for more inputs."),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the named data; or set MIPP_DATA_DIR.")]
MaxSamples = Annotated[int, typer.Option(min=1, help="Calibration samples to read.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the method. Repeatable.")
]
Width = Annotated[
    list[str] | None, typer.Option(metavar="GROUP=N", help=LIMIT + "nodes to keep in one group. Repeatable.")
]
Compensate = Annotated[
    bool, typer.Option("--compensate/--no-compensate", help="Refit weights downstream of removed nodes.")
]
Recover = Annotated[
    str | None, typer.Option(metavar="distill", help="Go on with a minute of distillation, without labels.")
]
MemoryLimit = Annotated[
    str | None, typer.Option(metavar="BYTES", help="What may be kept in memory, such as 2GB; 4GB by default.")
]
Method = Annotated[str, typer.Option(help="See `mipp methods`.")]
Device = Annotated[str | None, typer.Option(help="Where to work, such as cuda.")]
Evaluate = Annotated[
    bool | None,
    typer.Option(
        "--evaluate/--no-evaluate",
        help="Accuracy on the test split, by default where there is one; of a file with labels, on a fifth of it.",
    ),
]
Methods = Annotated[
    str,
    typer.Option(
        metavar="LIST", help="Such as mipp,l1,thinet:rescale=true,random@mipp (random nodes at MIPP's widths)."
    ),
]
_Options = dict[str, tuple[Any, Any]]
"""Annotation and default of options by name."""
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: the result, or {'error': {'type', 'message'}}.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes: only the result.")]


def expand(**groups: _Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replaces arguments of a command by several options each, which come as a dict of what is given or default."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shown = [
            parameter.replace(name=name, annotation=annotation, default=default)
            for key, parameter in signature(command).parameters.items()
            for name, (annotation, default) in groups.get(key, {key: (parameter.annotation, parameter.default)}).items()
        ]

        def run(**given: Any) -> None:
            found = {key: {name: given.pop(name) for name in options} for key, options in groups.items()}
            command(**given, **found)

        run.__signature__ = Signature(shown)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


AMOUNTS: _Options = {
    name: (Annotated[str | None, typer.Option(metavar="AMOUNT", help=f"{LIMIT}{constraint.meaning}.")], None)
    for name, constraint in CONSTRAINTS.items()
}
DATA: _Options = {
    "data": (DataName, None),
    "images": (Images, None),
    "size": (Size, None),
    "mean": (Mean, None),
    "std": (Std, None),
    "skip_bad": (SkipBad, False),
    "text": (Text, None),
    "length": (Length, 128),
    "tokenizer": (Tokenizer, None),
    "column": (Column, None),
    "data_dir": (DataDir, None),
    "labels": (Labels, None),
}
CHOICE: _Options = {
    "method": (Method, "mipp"),
    "settings": (Settings, None),
    "exclude": (Exclude, None),
    "compensate": (Compensate, True),
    "recover": (Recover, None),
    "max_samples": (MaxSamples, 1024),
    "seed": (Seed, 0),
    "device": (Device, None),
}
