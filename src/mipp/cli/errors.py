"""Errors of the command: one paragraph and an exit code; the traceback is shown on request."""

import json
import sys
import traceback
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from mipp.errors import InternalError, MippError, clip, quote
from mipp.runtime.mistakes import is_own

START = """mipp makes a trained PyTorch network smaller. Five things one does:

  see what can be removed, and what cannot and why
      mipp inspect torchvision:resnet18 --input 1,3,224,224
  prune to a budget, on a folder of images, and keep the result
      mipp prune torchvision:resnet18 --images photos --macs 0.5 --out half
  see quality against size, and choose
      mipp frontier torchvision:resnet18 --images photos --out curve
  compare methods on a data set
      mipp compare --model mipp.zoo:DigitsCNN --data digits --methods mipp,l1 \\
        --budgets macs=0.5 --before-epochs 5
  deploy what was pruned
      mipp export torchvision:resnet18 --weights half --input 1,3,224,224 \\
        --out half.onnx

A model is hf:FOLDER_OR_NAME, timm:NAME, torchvision:NAME or
package.module:factory. mipp demo shows it all on a small network in a minute.
mipp methods lists the methods, mipp --help the commands, and
mipp COMMAND --help the options of one."""
REFUSED, BROKEN, INTERRUPTED = 2, 1, 130
_LONGEST = 2000
"""Characters of a paragraph."""


class CommandError(MippError):
    """An argument of the command is wrong."""


class Group(TyperGroup):
    """A command group that reports its errors itself, as text on stderr or with --json as JSON on stdout."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any
    ) -> NoReturn:
        given = list(sys.argv[1:] if args is None else args)
        if not given:
            typer.echo(START)
            sys.exit(0)
        wants_json, debug = "--json" in given, "--debug" in given
        given = [argument for argument in given if argument != "--debug"]  # so that --debug may stand at any place
        extra["standalone_mode"] = False
        try:
            code = super().main(given, prog_name, *rest, **extra)
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except (Exception, SystemExit) as error:  # no command ends by itself: code of the user's does
            if debug:
                traceback.print_exception(error)
            code = _report(error, as_json=wants_json)
        if code == INTERRUPTED:
            _write("Interrupted", "Interrupted.", as_json=wants_json)
        sys.exit(code if isinstance(code, int) else 0)


def unknown(what: str, name: str, names: Iterable[str]) -> CommandError:
    """The error for a name that does not exist, with the nearest one that does."""
    names = list(names)
    near = get_close_matches(clip(name).lower(), names, 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(names)}."
    return CommandError(f"No {what} is called '{clip(name)}'; {hint}")


def _report(error: BaseException, *, as_json: bool) -> int:
    kind = type(error).__name__
    if isinstance(error, MippError):
        _write(kind, str(error), as_json=as_json)
        return REFUSED
    if hasattr(error, "format_message"):  # what typer raises for a wrong command line, in all its versions
        context = getattr(error, "ctx", None)
        words = () if context is None else context.command_path.split()[1:]
        _write(kind, f"{error.format_message()} See {' '.join(('mipp', *words, '--help'))}.", as_json=as_json)
        return REFUSED
    if isinstance(error, OSError) and error.filename is not None:  # of a file that an argument names
        _write(kind, f"{clip(str(error.filename))} cannot be used: {error.strerror}. Choose another.", as_json=as_json)
        return REFUSED
    if is_own(error):
        error = InternalError(error)
    if isinstance(error, InternalError):
        _write(kind, str(error), as_json=as_json)
        return BROKEN
    if isinstance(error, SystemExit):
        _write(kind, f"Code of the model or the data called sys.exit({quote(error.code)}).", as_json=as_json)
        return REFUSED
    said = " ".join(str(error).split())[: _LONGEST // 2]
    message = f"{kind}: {said}. The model, or mipp, did not expect this; --debug shows where it happened."
    _write(kind, message, as_json=as_json)
    return BROKEN


def _write(kind: str, message: str, *, as_json: bool) -> None:
    paragraph = " ".join(map(clip, message.split()))
    if len(paragraph) > _LONGEST:
        paragraph = f"{paragraph[:_LONGEST]}…"
    if as_json:
        typer.echo(json.dumps({"error": {"type": kind, "message": paragraph}}))
    else:
        typer.echo(paragraph if kind == "Interrupted" else f"Error: {paragraph}", err=True)
