"""`mipp report` and `mipp export`: a saved result is shown again and exported."""

import json

import torch
from command_line import prune, refusal, result_of, run


class TestReportAndExport:
    def test_the_report_of_a_saved_result_is_shown_again(self, tmp_path):
        shown = run(*prune("--nodes", "4", "--out", "small")).stdout
        assert run("report", "small").stdout == shown
        assert result_of("report", "small") == json.loads((tmp_path / "small/report.json").read_text())
        assert run("report", "small", "--html", "page.html").exit_code == 0
        assert (tmp_path / "page.html").read_text() == (tmp_path / "small/report.html").read_text()

    def test_a_pruned_model_is_exported_and_checked(self):
        run(*prune("--nodes", "4", "--out", "small"))
        options = ("export", "nets:Net", "--input", "2,4", "--weights", "small", "--out", "small.pt2")
        assert result_of(*options)["difference"] < 1e-5
        assert torch.export.load("small.pt2").module()(torch.randn(5, 4)).shape == (5, 3)
        assert "small.pt2 exists already" in refusal(*options)

    def test_of_a_curve_one_of_its_folders_is_named(self):
        budgets = ("--budgets", "nodes=0.75,nodes=0.5")
        run("frontier", "nets:Net", "--data", "data.safetensors", *budgets, "--out", "curve")
        assert "In it are curve/nodes=0.5, curve/nodes=0.75." in refusal("report", "curve")

    def test_what_is_no_saved_result_is_refused(self, tmp_path):
        assert "There is no small/report.json" in refusal("report", "small")
        (tmp_path / "report.json").write_text("{")
        assert "damaged" in refusal("report", ".")
        (tmp_path / "report.json").write_text("{}")
        assert "lacks the field" in refusal("report", ".")
        assert ".onnx or .pt2" in refusal("export", "nets:Net", "--input", "2,4", "--out", "small.bin")
