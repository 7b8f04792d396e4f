"""Options that several commands share come to a command as one dict."""

import typer
from typer.testing import CliRunner

from mipp.cli.options import AMOUNTS, DATA, expand
from mipp.plan.registry import CONSTRAINTS


def test_there_is_an_amount_for_every_kind_of_budget():
    assert AMOUNTS.keys() == CONSTRAINTS.keys()


def test_a_command_gets_what_was_given_and_the_defaults_in_a_dict():
    app, found = typer.Typer(), {}

    @app.command()
    @expand(data=DATA)
    def command(name: str, *, data: dict) -> None:
        """Does nothing."""
        found.update(name=name, data=data)

    assert CliRunner().invoke(app, ["it", "--length", "7"]).exit_code == 0
    assert found["name"] == "it"
    assert found["data"] == {**{name: default for name, (_, default) in DATA.items()}, "length": 7}
