"""The command `mipp`: argument parsing. What a command does is in the module of its name, imported when it runs."""

from collections.abc import Callable
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from mipp.cli.errors import Group
from mipp.plan.registry import CONSTRAINTS

app = typer.Typer(
    cls=Group,
    help="Structured pruning for PyTorch that preserves the information each layer passes to the next.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut words off at 80 columns
)

_LIMIT = "Budget: "
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
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Images: leave out files that cannot be read.")]
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
    list[str] | None, typer.Option(metavar="GROUP=N", help=_LIMIT + "nodes to keep in one group. Repeatable.")
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
Evaluate = Annotated[
    bool | None,
    typer.Option("--evaluate/--no-evaluate", help="Accuracy on the test split; by default where there is one."),
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


def _expand(**groups: _Options) -> Callable[[Callable[..., None]], Callable[..., None]]:
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


_AMOUNTS: _Options = {
    name: (Annotated[str | None, typer.Option(metavar="AMOUNT", help=f"{_LIMIT}{constraint.meaning}.")], None)
    for name, constraint in CONSTRAINTS.items()
}
_DATA: _Options = {
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
}


def main() -> None:
    """Runs the command."""
    app(prog_name="mipp")


@app.callback()
def _common(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=lambda v: _version(v)),
    ] = False,
) -> None:
    """Options of every command; `Group` reads --debug."""


@app.command("demo")
def _demo(
    *,
    out: Annotated[
        Path, typer.Option(help="Folder for the results; what an earlier demo left there is replaced.")
    ] = Path("runs/demo"),
    seed: Seed = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 10,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small network on handwritten digits, prune it to 50 % and to 20 % of its MACs, and fine-tune both."""
    from mipp.cli.demo import run

    run(out, seed=seed, epochs=epochs, json=json, quiet=quiet)


@app.command("inspect")
def _inspect(
    model: Model,
    *,
    input: Input,
    weights: Weights = None,
    trust_remote_code: Trust = False,
    exclude: Exclude = None,
    json: Json = False,
) -> None:
    """Show what can be pruned from a model, and what cannot and why."""
    from mipp.cli.inspect import run
    from mipp.cli.models import ModelSource

    run(ModelSource(model, weights, trust_remote_code), input, exclude=exclude or [], json=json)


@app.command("prune")
@_expand(source=_DATA, amounts=_AMOUNTS)
def _prune(
    model: Model,
    *,
    source: dict[str, Any],
    weights: Weights = None,
    trust_remote_code: Trust = False,
    amounts: dict[str, Any],
    width: Width = None,
    min_keep: Annotated[int, typer.Option(help=_LIMIT + "fewest nodes in any group.")] = 1,
    round_to: Annotated[int, typer.Option(help=_LIMIT + "widths are multiples of this.")] = 1,
    uniform: Annotated[bool, typer.Option("--uniform", help=_LIMIT + "groups of one kind get the same width.")] = False,
    runtime: Annotated[str, typer.Option(help=_LIMIT + "latency is measured in torch or onnxruntime.")] = "torch",
    method: Annotated[str, typer.Option(help="See `mipp methods`.")] = "mipp",
    settings: Settings = None,
    exclude: Exclude = None,
    compensate: Compensate = True,
    recover: Recover = None,
    max_samples: MaxSamples = 1024,
    seed: Seed = 0,
    device: Annotated[str | None, typer.Option(help="Where to work, such as cuda.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder from which an interrupted run goes on.")] = None,
    memory_limit: MemoryLimit = None,
    out: Annotated[Path | None, typer.Option(help="New folder for plan, weights and report.")] = None,
    evaluate: Evaluate = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prune a model to a budget and show what it cost."""
    from mipp.cli.models import ModelSource
    from mipp.cli.prune import Budgeted, Chosen, run
    from mipp.cli.sources import DataSource, Source

    run(
        Source(
            ModelSource(model, weights, trust_remote_code),
            DataSource(**source),
            max_samples,
            seed,
        ),
        Budgeted(amounts, width or [], min_keep, round_to, uniform, runtime),
        Chosen(method, settings or [], exclude or [], compensate, recover, evaluate, device, checkpoint, memory_limit),
        out,
        json=json,
        quiet=quiet,
    )


@app.command("select")
@_expand(source=_DATA)
def _select(
    model: Model,
    *,
    source: dict[str, Any],
    weights: Weights = None,
    trust_remote_code: Trust = False,
    num_features: Annotated[
        str | None,
        typer.Option(
            metavar="N|FRACTION|auto", help="Inputs to keep; by default, and with auto, --set confidence=X decides."
        ),
    ] = None,
    settings: Settings = None,
    max_samples: MaxSamples = 1024,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The selection as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="The selected pixels, .png or .svg.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Select the inputs (pixels) that inform about the first layer of a model, pruned or not."""
    from mipp.cli.models import ModelSource
    from mipp.cli.select import run
    from mipp.cli.sources import DataSource, Source

    run(
        Source(
            ModelSource(model, weights, trust_remote_code),
            DataSource(**source),
            max_samples,
            seed,
        ),
        settings or [],
        num_features,
        out,
        picture,
        json=json,
        quiet=quiet,
    )


@app.command("compare")
def _compare(
    *,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Import path package.module:factory, such as mipp.zoo:DigitsCNN.")
    ],
    data: Annotated[str, typer.Option(metavar="NAME", help="digits, mnist, cifar10 or cifar100.")],
    methods: Methods,
    budgets: Annotated[str, typer.Option(metavar="LIST", help="Such as macs=0.5,macs=0.2,nodes=0.1:min_keep=0.")],
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Such as 0,1,2.")] = "0",
    out: Annotated[Path, typer.Option(help="Folder of the results; runs that are in it are not done again.")] = Path(
        "runs/compare"
    ),
    weights: Weights = None,
    data_dir: DataDir = None,
    before_epochs: Annotated[float, typer.Option(min=0, help="Train this long before pruning.")] = 0,
    after_epochs: Annotated[float, typer.Option(min=0, help="Train copies this long after pruning.")] = 0,
    whole_epochs: Annotated[float, typer.Option(min=0, help="A whole training, for imp, oto and scratch.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Before pruning, and in a whole training.")] = 0.05,
    after_learning_rate: Annotated[float, typer.Option(help="After pruning.")] = 0.01,
    max_samples: MaxSamples = 1024,
    exclude: Exclude = None,
    compensate: Annotated[
        bool, typer.Option("--compensate/--no-compensate", help="Also measure with the refit.")
    ] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a grid of methods, budgets and seeds; finished runs are skipped; one table and the plots."""
    from mipp.cli.compare import Compared, Trained, run

    run(
        Compared(model, weights, data, data_dir, methods, budgets, seeds),
        Trained(
            before_epochs,
            after_epochs,
            whole_epochs,
            learning_rate,
            after_learning_rate,
            max_samples,
            exclude or [],
            compensate,
        ),
        out,
        json=json,
        quiet=quiet,
    )


@app.command("report")
def _report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `mipp prune --out` wrote.")],
    *,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page anew to this file.")] = None,
    json: Json = False,
) -> None:
    """Show the report of a saved result."""
    from mipp.cli.report import run

    run(folder, html=html, json=json)


@app.command("export")
def _export(
    model: Model,
    *,
    input: Input,
    out: Annotated[Path, typer.Option(metavar="FILE", help="New file: .onnx, or .pt2 for torch.export.")],
    dynamic: Annotated[
        list[int] | None,
        typer.Option(metavar="DIM", help="Dimension that may change later, such as 1 for length. Repeatable."),
    ] = None,
    weights: Weights = None,
    trust_remote_code: Trust = False,
    json: Json = False,
) -> None:
    """Export a model, pruned or not, to ONNX or torch.export, and check what was written."""
    from mipp.cli.export import run
    from mipp.cli.models import ModelSource

    run(ModelSource(model, weights, trust_remote_code), input, dynamic, out=out, json=json)


@app.command("methods")
def _methods(*, json: Json = False) -> None:
    """List the pruning methods and the fields that --set can change."""
    from mipp.cli.methods import run

    run(json=json)


def _version(wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mipp {version('torch-mipp')}")
        raise typer.Exit
