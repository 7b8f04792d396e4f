"""`mipp demo`: it shows, saves, and replaces only its own results."""

import json

from command_line import prune, refusal, result_of, run

import mipp
import mipp.zoo


class TestDemo:
    def test_shows_saves_and_replaces_only_its_own(self, monkeypatch, tmp_path):
        load = mipp.zoo.load
        monkeypatch.setattr(mipp.zoo, "load", lambda *which: load(*which).subset(slice(128)))
        answer = run("demo", "--epochs", "1")
        assert answer.exit_code == 0, answer.output
        for heading in ("accuracy", "fine-tuned", "parameters", "MACs", "latency", "nats kept"):
            assert heading in answer.stdout
        assert "mipp inspect mipp.zoo:DigitsCNN" in answer.stderr

        first = (tmp_path / "runs/demo/plan.json").read_bytes()
        reports = result_of("demo", "--epochs", "1", "--quiet")["reports"]
        assert (tmp_path / "runs/demo/plan.json").read_bytes() == first
        for share, folder in (("50", "runs/demo"), ("20", "runs/demo/20")):
            macs = [reports[share][stage]["macs"] for stage in ("before", "after")]
            assert macs[1] <= macs[0] * int(share) / 100
            assert reports[share]["stages"].keys() == {"fine-tuned"}
            assert json.loads((tmp_path / folder / "report.json").read_text()) == reports[share]
            small = mipp.load(folder, mipp.zoo.DigitsCNN)
            assert sum(p.numel() for p in small.parameters()) == reports[share]["after"]["params"]

        (tmp_path / "runs/demo/notes.txt").write_text("mine")
        assert "runs/demo holds files that are not, or not only" in refusal("demo")
        assert (tmp_path / "runs/demo/notes.txt").exists()

    def test_refuses_what_no_demo_wrote(self, tmp_path):
        run(*prune("--nodes", "4", "--out", "other/20"))
        run(*prune("--nodes", "4", "--out", "small"))
        for name in ("plan.json", "model.safetensors", "report.json", "report.html"):
            (tmp_path / "small" / name).rename(tmp_path / "other" / name)
        (tmp_path / "link").symlink_to("other")
        before = sorted(tmp_path.rglob("*"))
        for name in (".", "other", "link", "nets.py"):
            refusal("demo", "--out", name)
        assert sorted(tmp_path.rglob("*")) == before
