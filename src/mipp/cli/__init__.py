"""The command `mipp`: argument parsing. What a command does is in the module of its name, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from mipp.cli import options
from mipp.cli.errors import Group

app = typer.Typer(
    cls=Group,
    help="Structured pruning for PyTorch that preserves the information each layer passes to the next.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut words off at 80 columns
)


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


@app.command("demo", short_help="Train, prune and fine-tune a small network, in a minute.")
def _demo(
    *,
    out: Annotated[
        Path, typer.Option(help="Folder for the results; what an earlier demo left there is replaced.")
    ] = Path("runs/demo"),
    seed: options.Seed = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 10,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a small network on handwritten digits, prune it to 50 % and to 20 % of its MACs, and fine-tune both."""
    from mipp.cli.demo import run

    run(out, seed=seed, epochs=epochs, json=json, quiet=quiet)


@app.command("inspect")
@options.expand
def _inspect(
    model: options.ModelSource, *, input: options.Input, exclude: options.Exclude = None, json: options.Json = False
) -> None:
    """Show what can be pruned from a model, and what cannot and why."""
    from mipp.cli.inspect import run

    run(model, input, exclude=exclude or [], json=json)


@app.command("prune")
@options.expand
def _prune(
    *,
    source: options.Source,
    budgeted: options.Budgeted,
    chosen: options.Chosen,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder from which an interrupted run goes on.")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for plan, weights and report.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prune a model to a budget and show what it cost."""
    from mipp.cli.prune import run

    run(source, budgeted, chosen, checkpoint, out, json=json, quiet=quiet)


@app.command("frontier", short_help="Prune to several budgets: quality against size.")
@options.expand
def _frontier(
    *,
    source: options.Source,
    chosen: options.Chosen,
    budgets: Annotated[
        str, typer.Option(metavar="LIST", help="Such as macs=0.7,macs=0.5,macs=0.3:round_to=8.")
    ] = "macs=0.8,macs=0.65,macs=0.5,macs=0.35,macs=0.25",
    out: Annotated[Path | None, typer.Option(help="New folder, with one inside for each budget.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prune to several budgets from one set of statistics: the curve of quality against size."""
    from mipp.cli.frontier import run

    run(source, budgets, chosen, out, json=json, quiet=quiet)


@app.command("select", short_help="Select the inputs (pixels) that inform a model.")
@options.expand
def _select(
    *,
    source: options.Source,
    num_features: Annotated[
        str | None,
        typer.Option(
            metavar="N|FRACTION|auto", help="Inputs to keep; by default, and with auto, --set confidence=X decides."
        ),
    ] = None,
    settings: options.Settings = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The selection as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="The selected pixels, .png or .svg.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Select the inputs (pixels) that inform about the first layer of a model, pruned or not."""
    from mipp.cli.select import run

    run(source, settings or [], num_features, out, picture, json=json, quiet=quiet)


@app.command("compare", short_help="Compare methods, budgets and seeds in a table and plots.")
@options.expand
def _compare(
    *,
    compared: options.Compared,
    trained: options.Trained,
    out: Annotated[Path, typer.Option(help="Folder of the results; runs that are in it are not done again.")] = Path(
        "runs/compare"
    ),
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run a grid of methods, budgets and seeds; finished runs are skipped; one table and the plots."""
    from mipp.cli.compare import run

    run(compared, trained, out, json=json, quiet=quiet)


@app.command("report")
def _report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `mipp prune --out` wrote.")],
    *,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the page anew to this file.")] = None,
    json: options.Json = False,
) -> None:
    """Show the report of a saved result."""
    from mipp.cli.report import run

    run(folder, html=html, json=json)


@app.command("export", short_help="Export a model to ONNX or torch.export, and check it.")
@options.expand
def _export(
    *,
    model: options.ModelSource,
    input: options.Input,
    out: Annotated[Path, typer.Option(metavar="FILE", help="New file: .onnx, or .pt2 for torch.export.")],
    dynamic: Annotated[
        list[int] | None,
        typer.Option(metavar="DIM", help="Dimension that may change later, such as 1 for length. Repeatable."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Export a model, pruned or not, to ONNX or torch.export, and check what was written."""
    from mipp.cli.export import run

    run(model, input, dynamic, out=out, json=json)


@app.command("methods", short_help="List the methods, and the fields that --set changes.")
def _methods(*, json: options.Json = False) -> None:
    """List the pruning methods and the fields that --set can change."""
    from mipp.cli.methods import run

    run(json=json)


def _version(wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mipp {version('torch-mipp')}")
        raise typer.Exit
