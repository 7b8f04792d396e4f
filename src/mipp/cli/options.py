"""Options by the group that a command takes them in: as a dataclass, whose fields are the options and their help."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from mipp.cli.errors import CommandError
from mipp.plan.registry import CONSTRAINTS

LIBRARIES = ("hf", "timm", "torchvision")
"""Prefixes of names of models."""

Exclude = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Modules whose nodes stay, such as 'layer4.*'. Repeatable.")
]
Input = Annotated[
    list[str],
    typer.Option("--input", metavar="SHAPE", help="Such as 1,3,32,32 or 1,128:int64. Repeat for more inputs."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the method. Repeatable.")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER", help="A .safetensors or .pth state dict, or a folder that `mipp prune --out` wrote."
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the named data; or set MIPP_DATA_DIR.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: the result, or {'error': {'type', 'message'}}.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes: only the result.")]


@dataclass(frozen=True)
class ModelSource:
    """A model as it is named on the command line."""

    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Import path package.module:factory, such as mipp.zoo:DigitsCNN; or hf:FOLDER_OR_NAME, timm:NAME, "
            "torchvision:NAME.",
        ),
    ]
    weights: Weights = None
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the code that a Hugging Face folder brings.")
    ] = False

    @property
    def library(self) -> str:
        """The prefix of the name: hf, timm, torchvision; else nothing."""
        prefix, colon, _ = self.name.partition(":")
        return prefix if colon and prefix in LIBRARIES else ""

    @property
    def within(self) -> str:
        """The name behind the prefix."""
        return self.name.partition(":")[2] if self.library else self.name


@dataclass(frozen=True)
class DataSource:
    """Calibration data as they are named on the command line: by one of data, images and text."""

    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|PATH",
            help="Calibration data: digits, mnist, cifar10, cifar100 (normalised by mipp.zoo.load(NAME, 'train').mean "
            "and .std); a .safetensors file with the tensor 'input' (and 'labels'); or a .npy file. Images are floats, "
            "[samples, channels, height, width], normalised as the model was trained.",
        ),
    ] = None
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Classes of the samples of a .npy file, as .npy.")
    ] = None
    data_dir: DataDir = None
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Or a folder of images: flat, or a folder for each class, or 'train' and 'val' with these inside. "
            "Class folders give accuracy before and after, on 'val' or a fifth of the images.",
        ),
    ] = None
    size: Annotated[int | None, typer.Option(help="Images: height and width in pixels.")] = None
    mean: Annotated[
        str | None, typer.Option(metavar="LIST", help="Images: mean by channel, such as 0.485,0.456,0.406.")
    ] = None
    std: Annotated[str | None, typer.Option(metavar="LIST", help="Images: standard deviation by channel.")] = None
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images or rows that cannot be read.")] = False
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Or text: a file; or a .jsonl, .parquet or `datasets` folder with --column."),
    ] = None
    length: Annotated[int, typer.Option(min=2, help="Text: tokens in a piece.")] = 128
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Text: a tokenizer, if not that of the hf: model.")
    ] = None
    column: Annotated[str | None, typer.Option(help="Text: the column of a table.")] = None

    def __post_init__(self) -> None:
        given = [name for name in ("data", "images", "text") if getattr(self, name) is not None]
        if self.labels is not None and self.data is None:
            raise CommandError("--labels belongs to --data FILE.npy; images have their labels from class folders.")
        if len(given) != 1:
            found = " and ".join(f"--{name}" for name in given) or "none of them is given"
            raise CommandError(f"Calibration data are one of --data, --images and --text; {found}.")

    @property
    def words(self) -> str:
        """The kind of the data, for people."""
        return self.data or (f"images in {self.images}" if self.images else f"text in {self.text}")


@dataclass(frozen=True)
class Source:
    """A model and what it is calibrated on."""

    model: ModelSource
    data: DataSource
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Calibration samples to read, 1,024 unless --effort says otherwise.")
    ] = None
    seed: Seed = 0


Amounts = Annotated[
    dict[str, str | None],
    {
        name: Annotated[str | None, typer.Option(metavar="AMOUNT", help=f"Budget: {constraint.meaning}.")]
        for name, constraint in CONSTRAINTS.items()
    },
]
"""An option for every kind of budget, by name; as text, since a float and an int differ."""


@dataclass(frozen=True)
class Budgeted:
    """The options of the budget."""

    amounts: Amounts
    width: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP=N", help="Budget: nodes to keep in one group. Repeatable."),
    ] = None
    min_keep: Annotated[int, typer.Option(help="Budget: fewest nodes in any group.")] = 1
    round_to: Annotated[int, typer.Option(help="Budget: widths are multiples of this.")] = 1
    uniform: Annotated[bool, typer.Option("--uniform", help="Budget: groups of one kind get the same width.")] = False
    runtime: Annotated[str, typer.Option(help="Budget: latency is measured in torch or onnxruntime.")] = "torch"


@dataclass(frozen=True)
class Chosen:
    """The method, and how `mipp.prune` is to run."""

    method: Annotated[str, typer.Option(help="See `mipp methods`.")] = "mipp"
    settings: Settings = None
    exclude: Exclude = None
    compensate: Annotated[
        bool, typer.Option("--compensate/--no-compensate", help="Refit weights downstream of removed nodes.")
    ] = True
    recover: Annotated[
        str | None, typer.Option(metavar="distill", help="Go on with a minute of distillation, without labels.")
    ] = None
    evaluate: Annotated[
        bool | None,
        typer.Option(
            "--evaluate/--no-evaluate",
            help="Accuracy on the test split, by default where there is one; of a file with labels, on a fifth of it.",
        ),
    ] = None
    effort: Annotated[
        str, typer.Option(metavar="LEVEL", help="fast, default or best: how many samples and rows it takes.")
    ] = "default"
    device: Annotated[str | None, typer.Option(help="Where to work, such as cuda.")] = None
    memory_limit: Annotated[
        str | None, typer.Option(metavar="BYTES", help="What may be kept in memory, such as 2GB; 4GB by default.")
    ] = None


@dataclass(frozen=True)
class Compared:
    """The networks, data, methods and budgets of a comparison."""

    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Import path package.module:factory, such as mipp.zoo:DigitsCNN.")
    ]
    data: Annotated[str, typer.Option(metavar="NAME", help="digits, mnist, cifar10 or cifar100.")]
    methods: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Such as mipp,l1,thinet:rescale=true,random@mipp (random nodes at MIPP's widths)."
        ),
    ]
    budgets: Annotated[str, typer.Option(metavar="LIST", help="Such as macs=0.5,macs=0.2,nodes=0.1:min_keep=0.")]
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Such as 0,1,2.")] = "0"
    weights: Weights = None
    data_dir: DataDir = None
    max_samples: Annotated[int, typer.Option(min=1, help="Calibration samples to read.")] = 1024
    exclude: Exclude = None
    compensate: Annotated[bool, typer.Option("--compensate/--no-compensate", help="Also measure with the refit.")] = (
        True
    )


@dataclass(frozen=True)
class Trained:
    """Recipes of training before and after pruning."""

    before_epochs: Annotated[float, typer.Option(min=0, help="Train this long before pruning.")] = 0
    after_epochs: Annotated[float, typer.Option(min=0, help="Train copies this long after pruning.")] = 0
    whole_epochs: Annotated[float, typer.Option(min=0, help="A whole training, for imp, oto and scratch.")] = 1
    learning_rate: Annotated[float, typer.Option(help="Before pruning, and in a whole training.")] = 0.05
    after_learning_rate: Annotated[float, typer.Option(help="After pruning.")] = 0.01


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """Shows the options that the groups of a command consist of; the command gets the groups, made of them."""
    taken = signature(command).parameters.values()
    shown = [option for p in taken for option in _options(p.name, p.annotation, p.default)]

    def run(**given: Any) -> None:
        command(**{p.name: _make(p.name, p.annotation, given) for p in taken})

    run.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in shown}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _options(name: str, kind: Any, default: Any) -> Iterator[Parameter]:
    """The options that an argument stands for: those of a dataclass or of a table, else the one that it is."""
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            yield from _options(
                field.name, hints[field.name], Parameter.empty if field.default is MISSING else field.default
            )
    elif (table := _table(kind)) is not None:
        yield from (Parameter(n, Parameter.KEYWORD_ONLY, default=None, annotation=hint) for n, hint in table.items())
    else:
        yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _make(name: str, kind: Any, given: dict[str, Any]) -> Any:
    """The value of an argument from the options that it stands for."""
    if is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        return kind(**{field.name: _make(field.name, hints[field.name], given) for field in fields(kind)})  # type: ignore[operator]
    table = _table(kind)
    return given[name] if table is None else {option: given[option] for option in table}


def _table(kind: Any) -> dict[str, Any] | None:
    """The options by name that stand behind the type of an argument such as `Amounts`."""
    found = getattr(kind, "__metadata__", (None,))[0]
    return found if isinstance(found, dict) else None
