"""An inspection names every group and every frozen layer."""

import json

from cases import inspected, named


def test_the_table_and_the_data_name_every_group_and_frozen_layer():
    _, found = inspected(named("cifar resnet"))
    text, data = str(found), json.loads(json.dumps(found.to_dict()))
    for name in found.groups:
        assert name in text
    for line in found.frozen:
        assert line.name in text
        assert line.reason in text
    assert [g["name"] for g in data["groups"]] == list(found.groups)
    assert len(data["frozen"]) == len(found.frozen)
    assert data["params"] == sum(p.numel() for p in inspected(named("cifar resnet"))[0].parameters())
