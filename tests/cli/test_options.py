"""Options come to a command in the groups that it takes them in."""

import dataclasses

import pytest
import typer
from typer.testing import CliRunner

from mipp.cli.errors import CommandError
from mipp.cli.options import Budgeted, ModelSource, Source, expand
from mipp.plan.registry import CONSTRAINTS


def run(command, *given: str):
    app = typer.Typer()
    app.command()(expand(command))
    return CliRunner().invoke(app, given)


def test_a_command_gets_its_groups_made_of_what_was_given_and_of_the_defaults():
    found = []

    def command(source: Source, *, more: int = 3) -> None:
        """Does nothing."""
        found.append((source, more))

    assert run(command, "it", "--images", "photos", "--length", "7").exit_code == 0
    ((source, more),) = found
    assert (source.model, source.seed, more) == (ModelSource("it"), 0, 3)
    assert (str(source.data.images), source.data.length, source.data.data) == ("photos", 7, None)


def test_what_a_group_refuses_is_an_error_of_the_command():
    def command(source: Source) -> None:
        """Does nothing."""

    assert isinstance(run(command, "it").exception, CommandError)


def test_there_is_an_amount_for_every_kind_of_budget():
    found = []

    def command(budgeted: Budgeted) -> None:
        """Does nothing."""
        found.append(budgeted)

    assert run(command, "--macs", "0.5").exit_code == 0
    assert found[0].amounts == {name: "0.5" if name == "macs" else None for name in CONSTRAINTS}
    assert dataclasses.replace(found[0], amounts={}) == Budgeted({})


@pytest.mark.parametrize(
    ("name", "library", "within"),
    [("hf:a/b", "hf", "a/b"), ("timm:resnet18", "timm", "resnet18"), ("nets:Net", "", "nets:Net")],
)
def test_a_prefix_is_that_of_a_library(name, library, within):
    source = ModelSource(name)
    assert (source.library, source.within) == (library, within)
