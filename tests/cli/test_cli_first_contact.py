"""Data as people have them: what is wrong with them is said in one sentence, and what can be used is used."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import prune, refusal, result_of, run

import mipp
from mipp.cli.errors import CommandError
from mipp.cli.texts import Table
from mipp.errors import CalibrationError


def test_the_list_of_commands_is_not_cut_off():
    assert "..." not in run("--help").stdout.partition("Commands:")[2]


def save_digits(name, form=lambda images: images):
    np.save(name, form(np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)))


class TestArrays:
    def test_bytes_are_refused(self):
        save_digits("bytes.npy", lambda images: images.astype(np.uint8))
        said = refusal(*prune("--macs", "0.5", model="mipp.zoo:DigitsCNN", data="bytes.npy"))
        assert "holds uint8; expected floats" in said
        assert "(pixels / 255 - mean) / std" in said

    def test_channels_that_come_last_are_named(self):
        save_digits("last.npy", lambda images: np.moveaxis(images, 1, -1))
        said = refusal(*prune("--macs", "0.5", model="mipp.zoo:DigitsCNN", data="last.npy"))
        assert "[samples, height, width, channels]; expected [samples, channels, height, width]" in said

    def test_labels_are_held_out_to_evaluate_on(self):
        np.save("labels.npy", np.random.default_rng(1).integers(0, 3, 64))
        options = ("--nodes", "4", "--labels", "labels.npy", "--evaluate")
        report = result_of(*prune(*options))["report"]
        assert report["before"]["metrics"].keys() == {"accuracy"}
        assert any("Calibrated on 52 samples" in note for note in report["notes"])
        assert result_of(*prune("--nodes", "4", "--evaluate", data="data.safetensors"))["report"]["after"]["metrics"]

    def test_labels_of_another_length_are_refused(self):
        np.save("labels.npy", np.zeros(3, int))
        said = refusal(*prune("--nodes", "4", "--labels", "labels.npy"))
        assert "labels of shape [3]; expected one for each of the 64 samples" in said


class TestTables:
    def write(self, *lines):
        Path("rows.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return Path("rows.jsonl")

    def test_a_wrong_column_is_named_with_those_there_are(self):
        path = self.write({"text": "a", "label": 1})
        with pytest.raises(CommandError, match="has the columns text, label; expected one of them by --column"):
            Table(path, "body").texts()

    def test_a_bad_row_is_refused_or_left_out(self, capsys):
        path = self.write({"text": "a"}, {"text": None}, "no json", {"text": "b"})
        with pytest.raises(CalibrationError, match=r"Row 2 of rows.jsonl holds no text .*\(2 of 4\)"):
            Table(path, "text").texts()
        assert Table(path, "text", skip_bad=True).texts() == ["a", "b"]
        assert "Left out: 2 of 4 rows" in capsys.readouterr().err

    def test_folders_of_datasets_with_splits_are_read(self):
        datasets = pytest.importorskip("datasets")
        one = datasets.Dataset.from_dict({"text": ["a", "b"]})
        one.save_to_disk("one")
        datasets.DatasetDict({"test": one.select([1]), "train": one}).save_to_disk("splits")
        assert Table(Path("one"), "text").texts() == Table(Path("splits"), "text").texts() == ["a", "b"]


def trained(images):
    """A network whose batch norm has seen these images."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.Flatten()
    )
    for _ in range(60):
        model(images)
    return model.eval()


@pytest.mark.parametrize(
    ("change", "hinted"),
    [
        (lambda x: x, False),
        (lambda x: 255 * (x / 4 + 0.5), True),
        (lambda x: x / 5, True),
        (lambda x: x[:6] * 1.2, False),
    ],
    ids=["as in training", "bytes", "not divided", "other samples, a fifth brighter"],
)
def test_another_normalisation_than_in_training_is_noticed_by_batch_norm(change, hinted):
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    result = mipp.prune(trained(images), [change(images)], mipp.Budget(nodes=0.5), progress=False)
    assert any("normalised as in training?" in note for note in result.report.notes) == hinted


def test_the_examples_of_compare_run():
    options = "--methods l1 --budgets macs=0.5 --max-samples 32 --no-compensate"
    answer = run("compare", "--model", "mipp.zoo:DigitsCNN", "--data", "digits", *options.split())
    assert answer.exit_code == 0, answer.output
