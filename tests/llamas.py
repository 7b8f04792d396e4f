"""A small Llama and its inputs."""

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")


LLAMA = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip


def llama(**options) -> nn.Module:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **options)).eval()


def ids(samples: int = 4) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.randint(50, (samples, 7), generator=torch.Generator().manual_seed(1))}


def halves(groups) -> dict[str, list[int]]:
    return {name: list(range(0, group.size, 2)) for name, group in groups.items()}
