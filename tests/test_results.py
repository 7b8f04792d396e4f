"""Every number in the README and the results page comes from a file that a program wrote."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_pages_show_what_the_result_files_hold():
    command = [sys.executable, "-m", "benchmarks.tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_result_files_say_where_they_come_from():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        data = json.loads(path.read_text())
        assert {"program", "command", "machine", "settings", "rows"} <= data.keys()
        assert {"cpu", "threads", "versions"} <= data["machine"].keys()
        assert "/" not in data["command"]
