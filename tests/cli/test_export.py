"""`mipp export`: a file that was run, with its difference from the model."""

from command_line import run


def test_people_are_told_the_difference(tmp_path):
    shown = run("export", "nets:Net", "--input", "2,4", "--out", "net.pt2").stdout
    assert shown.startswith("Wrote net.pt2; it was run, and differs from the model by ")
    assert (tmp_path / "net.pt2").stat().st_size > 0
