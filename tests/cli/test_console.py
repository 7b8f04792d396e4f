"""Messages to people go to stderr, results to stdout."""

from mipp.cli.console import first_line, note, only_results_on_stdout, show, table


def test_what_others_print_and_notes_are_no_results(capsys):
    with only_results_on_stdout():
        print("loading")  # noqa: T201
    note("no [markup]", quiet=False)
    note("unheard", quiet=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "loading\nno [markup]\n"


def test_a_result_is_json_or_what_people_are_shown(capsys):
    shown = table(["name", "number"])
    shown.add_row("a", "1")
    show({"a": 1}, shown, json=True)
    show({"a": 1}, "one a", json=False)
    show({"a": 1}, shown, json=False)
    assert capsys.readouterr().out.split("\n")[:4] == ['{"a": 1}', "one a", "name  number", "a          1"]


def test_the_first_line_of_an_error_may_be_empty():
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == ""
