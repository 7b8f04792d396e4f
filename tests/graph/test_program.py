"""The traced program computes what the model computes."""

import pytest
import torch
from cases import CASES, assert_same, inspected, outputs

from mipp.graph.call import Call
from mipp.graph.program import execute
from mipp.graph.trace import trace
from mipp.modules.copies import working_copy


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_traced_program_computes_what_the_model_computes(case):
    """Also on other data of the same shapes."""
    if case.name in ("scale taken from the data", "branch on values"):
        pytest.skip("its scalars are data")
    model = working_copy(inspected(case)[0])
    batch, other = case.batch(2, 1), case.batch(2, 2)
    program = trace(model, as_call(batch))
    named_tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    bound = {i: named_tensors[v.name] for i, v in enumerate(program.values) if v.name} | program.constants
    env = dict(zip(program.inputs, as_call(other).tensors, strict=True))
    with torch.inference_mode():
        execute(program, env, bound, (0, len(program.ops)))
    found = [env[i] if i in env else bound[i] for i in program.outputs]
    assert_same(found, outputs(model, other))


def as_call(batch) -> Call:
    from mipp.data.calibration import as_call as convert

    return convert(batch)
