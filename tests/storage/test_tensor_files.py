"""Files of tensors of anybody: what cannot be read is told in one line."""

import pytest
import torch
from safetensors.torch import save_file

from mipp.runtime.typed import FormError
from mipp.storage.tensor_files import read_tensors


def test_tensors_come_back_and_what_is_no_such_file_is_refused(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["a"], torch.arange(3.0))
    (tmp_path / "b.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FormError):
        read_tensors(tmp_path / "b.safetensors")
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "c.safetensors")
