"""`mipp methods`: each method with what it needs and its fields."""

from command_line import result_of, run

from mipp import methods


def test_every_method_is_listed_with_its_needs_and_fields():
    found = result_of("methods")
    assert found.keys() == methods.all().keys()
    assert found["thinet"]["fields"].keys() >= {"rescale"}
    assert found["imp"]["needs"]["training"] is True
    assert all(method["summary"] for method in found.values())


def test_people_read_it_as_a_table():
    shown = " ".join(run("methods").stdout.split())
    assert "needs data, labels, gradients" in shown
    assert "needs nothing" in shown
