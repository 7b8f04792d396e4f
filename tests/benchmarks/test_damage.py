"""A case of damage depends on its seed alone."""

import json
from random import Random

from benchmarks.damage import damage_json


def damaged(seed):
    tree = {"kept": {"a": [0, 1], "b": [2]}, "sizes": {"a": 2, "b": 3}}
    random = Random(seed)
    for _ in range(4):
        tree = damage_json(tree, random)
        if not isinstance(tree, dict | list):
            break
    return json.dumps(tree)


def test_no_case_changes_another():
    assert [damaged(seed) for seed in range(3000)] == [damaged(seed) for seed in range(3000)]
