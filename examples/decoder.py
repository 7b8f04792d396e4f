"""Prune a Hugging Face language model, generate with it, and keep it as a folder."""

import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import mipp

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=200, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0,
)  # fmt: skip
model = LlamaForCausalLM(config)  # yours: AutoModelForCausalLM.from_pretrained(...)
batches = [{"input_ids": torch.randint(1, 200, (8, 32))} for _ in range(4)]  # yours: tokenizer(texts)

budget = mipp.Budget(macs=0.7)  # heads and feed-forward units, each layer as many as it needs
result = mipp.prune(model, batches, budget, exclude=["model.embed_tokens"], progress=False)
print(result.report)

prompt = batches[0]["input_ids"][:1, :8]
small = result.model.eval()
written = small.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
with tempfile.TemporaryDirectory() as folder:
    stock = mipp.save_pretrained(small, Path(folder) / "small")
    print("stock from_pretrained reads it:", stock)
    loaded = mipp.from_pretrained(Path(folder) / "small").eval()
again = loaded.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
print("the same text after loading:", torch.equal(written, again))
