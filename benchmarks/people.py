"""Lines of code that five people type with mipp, Torch-Pruning and Model Optimizer, by each one's documentation.

    python -m benchmarks.people --sources FOLDER

FOLDER has the code of the documents named in `SOURCES`, one file for each. Code of others is no part of ours.
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from benchmarks.markdown import load, table
from benchmarks.record import RESULTS, Row, write
from mipp.report.measuring import machine

ROOT = Path(__file__).parents[1]
YOLO_CHARACTERS = 15_423
"""Length of Torch-Pruning's examples/yolov8/yolov8_pruning.py at commit 5448450."""
TORCH_PRUNING, MODEL_OPTIMIZER = "VainF/Torch-Pruning", "NVIDIA/TensorRT-Model-Optimizer"


@dataclass(frozen=True)
class Source:
    """Code in the documentation of another library.

    Attributes:
        file: Its name in FOLDER.
        place: The document, with the part of it.
        commit: The version that was read.
    """

    file: str
    repository: str
    place: str
    commit: str


SOURCES = (
    Source(
        "torch_pruning_readme.py",
        TORCH_PRUNING,
        "README.md, High-level Pruners",
        "000d36a7c5d396f18c22931e07e91a3c789bde12",
    ),
    Source(
        "torch_pruning_bert.py",
        TORCH_PRUNING,
        "examples/transformers/prune_hf_bert.py",
        "50bf7d906a741d01d005d790d0abf401bf0ffd7e",
    ),
    Source(
        "model_optimizer_fastnas.py",
        MODEL_OPTIMIZER,
        "docs/source/getting_started/5_pruning.rst",
        "7eecd11b0fde7a589b5568f17e19fb67c665730d",
    ),
    Source(
        "model_optimizer_minitron.py",
        MODEL_OPTIMIZER,
        "examples/pruning/README.md, Getting Started",
        "0794a1eaf497b50e51b22060ccbb5f8e297276a4",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True, help="folder of the code that is counted")
    folder = parser.parse_args().sources
    rows: list[Row] = [
        {
            "file": source.file,
            "repository": source.repository,
            "place": source.place,
            "commit": source.commit,
            "lines": count_lines((folder / source.file).read_text()),
        }
        for source in SOURCES
    ]
    rows += [{"heading": heading, **counts} for heading, counts in own_counts().items()]
    head = {"program": "benchmarks.people", "command": "python -m benchmarks.people --sources FOLDER"}
    write(RESULTS / "people.json", {**head, "machine": machine(), "settings": {}}, rows)


def people() -> str:
    """The table of the page: a row for each person."""
    data = load("people")
    lines = {row["file"]: row["lines"] for row in data["rows"] if "file" in row}
    own = {row["heading"]: _write(row) for row in data["rows"] if "heading" in row}
    readme, bert = lines["torch_pruning_readme.py"], lines["torch_pruning_bert.py"]
    fastnas, minitron = lines["model_optimizer_fastnas.py"], lines["model_optimizer_minitron.py"]
    others = {
        "A classifier and a folder of images, without Python": (
            f"{readme} lines [1]; reading images, the loss, training and saving are left out",
            f"{fastnas} lines [3]; data loaders and validation are left out",
        ),
        "A Hugging Face folder": (
            f"{bert} lines for BERT [2]; saving and loading are left out",
            f"{minitron} lines with Megatron-Core [4], to whose format Hugging Face models are converted before",
        ),
        "A training loop": (
            f"{readme} lines [1]; training and the optimiser's state are left out",
            f"{fastnas} lines [3], once, before fine-tuning, which is left out",
        ),
        "A YOLO": (
            f"1 command; the script [5] has {YOLO_CHARACTERS:,} characters, and replaces the block C2f and methods of "
            "ultralytics' trainer",
            "none in the documents read",
        ),
        "A colleague to convince": (
            "MACs and parameters, by two of the lines of [1]; no report in the documents read",
            "statistics of the search, returned by [3]; no report in the documents read",
        ),
    }
    sources = [f"[{n}] {s.repository}, {s.place} ({s.commit[:7]})" for n, s in enumerate(SOURCES, 1)]
    sources.append(f"[{len(SOURCES) + 1}] {TORCH_PRUNING}, examples/yolov8/yolov8_pruning.py (5448450)")
    cells = [[heading, own[heading], *texts] for heading, texts in others.items()]
    below = f"<sub>{'; '.join(sources)}. Counted by `{data['command']}`.</sub>"
    return table(["", "mipp", "Torch-Pruning", "Model Optimizer"], cells, below)


def _write(row: Row) -> str:
    parts = [(row["commands"], "command"), (row["lines"], "line")]
    said = [f"{number} {noun}{'s' * (number != 1)}" for number, noun in parts if number]
    if "characters" in row:
        return f"{said[0]}; the script has {row['characters']:,} characters ({said[1]})"
    return " and ".join(said) or "one call of `mipp.prune`"


def own_counts() -> dict[str, Row]:
    """Commands and lines of Python under each heading of the page, and of the script for a YOLO."""
    page = (ROOT / "docs/people.md").read_text()
    found: dict[str, Row] = {}
    for part in page.split("\n## ")[1:]:
        heading, _, text = part.partition("\n")
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        counts = {kind: sum(count_lines(code) for name, code in blocks if name == kind) for kind in ("sh", "python")}
        found[heading] = {"commands": counts["sh"], "lines": counts["python"]}
    script = ROOT / "examples/yolo.py"
    if script.exists():
        code = script.read_text()
        found["A YOLO"] = {"commands": 1, "lines": count_lines(code), "characters": len(code)}
    return found


def count_lines(code: str) -> int:
    """Lines that are neither blank nor comments, nor in the docstring of the module."""
    code = re.sub(r'\A""".*?"""', "", code, flags=re.DOTALL)
    return sum(1 for line in code.splitlines() if line.strip() and not line.strip().startswith("#"))


if __name__ == "__main__":
    main()
