"""Folders as people have them: images in class folders, and a Hugging Face folder with texts beside it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch


def save_images(folder: Path, number: int = 15) -> None:
    """Writes that many small images of two classes."""
    pillow = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, low in (("cats", 0), ("dogs", 128)):
        (folder / name).mkdir(parents=True)
        for n in range(number):
            pixels = rng.integers(low, low + 128, (20, 24, 3), dtype=np.uint8)
            pillow.fromarray(pixels).save(folder / name / f"{n}.png")


def save_language_model(folder: Path) -> None:
    """Writes a small Llama with a tokenizer of 20 words to llama/, and texts to notes.txt and notes.jsonl."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{n}": n for n in range(19)} | {"<unk>": 19}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "llama")
    wrapped.save_pretrained(folder / "llama")
    rng = np.random.default_rng(0)
    lines = [" ".join(f"w{n}" for n in rng.integers(0, 19, 40)) for _ in range(30)]
    (folder / "notes.txt").write_text("\n".join(lines))
    (folder / "notes.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
