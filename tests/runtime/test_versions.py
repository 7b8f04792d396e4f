"""Versions that results depend on are recorded by name."""

import torch

from mipp.runtime.versions import versions


def test_versions_are_those_of_what_runs():
    found = versions()
    assert found.keys() == {"python", "torch-mipp", "torch", "numpy", "scipy"}
    assert found["torch"] == torch.__version__
    assert "unknown" not in found.values()
