"""Networks of other libraries, small and without weights, from graph to saved result: `python -m benchmarks.libraries`.

A library that is not installed is left out, and the table says so; none of them is a dependency of the project.
"""

import argparse
import importlib
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import mipp
from benchmarks.markdown import load
from benchmarks.record import Record, Row
from benchmarks.supported import PAGE, limited, page
from benchmarks.zoo.checks import computes_the_same, loads, outcome, trains
from mipp.data.calibration import as_call
from mipp.graph.call import Call
from mipp.surgery.proof import outputs

LIMIT = 420.0  # seconds for a network
MACS = 0.5
Inputs = Callable[[int, int, torch.Generator], Any]
NETWORKS: dict[str, "Network"] = {}
_TOKENS, _SIDE = 64, 64


@dataclass(frozen=True)
class Network:
    """A network of a library.

    Attributes:
        library: The distribution that it comes from.
        build: Makes it, in eval mode, with random weights.
        inputs: `inputs(samples, size, generator)` -> a Tensor, a tuple of arguments or a dict.
        sizes: The size that it is pruned at, and another.
    """

    name: str
    library: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    sizes: tuple[int, int]

    def batch(self, samples: int, seed: int, size: int | None = None) -> Any:
        return self.inputs(samples, size or self.sizes[0], torch.Generator().manual_seed(seed))


_OPERATORS: list[torch.library.Library] = []


def declare_operators() -> bool:
    """Declares the operators that torchvision's Python code expects, if its binary does not fit this torch."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:  # nobody will ask for it
        return False
    except RuntimeError:
        _OPERATORS.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _OPERATORS[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="names or globs; all by default")
    wanted = parser.parse_args().names
    torch.set_num_threads(1)
    declare_operators()
    record = Record("libraries", limit=LIMIT, macs=MACS)
    record.head["command"] = "python -m benchmarks.libraries"
    chosen = [n for n in NETWORKS.values() if not wanted or any(fnmatchcase(n.name, glob) for glob in wanted)]
    again = {network.name for network in chosen}
    record.rows = [row for row in record.rows if row["network"] in NETWORKS and row["network"] not in again]
    record.save()
    for network in chosen:
        record.measure({"network": network.name, "library": network.library}, partial(measured, network))
    record.rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
    record.save()
    PAGE.write_text(page(load("supported")["rows"]))


def measured(network: Network) -> Row:
    """The row of one network; it runs in a process of its own, with a time limit."""
    try:
        version = importlib.metadata.version(network.library)
    except importlib.metadata.PackageNotFoundError:
        return {"version": None}
    start = time.perf_counter()
    row = limited(partial(check, network), LIMIT)
    return {"version": version, **row, "seconds": round(time.perf_counter() - start, 1)}


def check(network: Network) -> Row:
    """All facts about one network, as JSON-able data."""
    torch.manual_seed(0)
    model = network.build().eval()
    found = mipp.inspect(model, network.batch(2, 0))
    batches = [(network.batch(8, 100 + i), None) for i in range(3)]
    result = mipp.prune(model, batches, mipp.Budget(macs=MACS), progress=False)
    cut, masked = mipp.apply(result.plan, model), mipp.mask(result.plan, model)
    fresh, other = as_call(network.batch(2, 7)), as_call(network.batch(2, 7, network.sizes[1]))
    return {
        "groups": len(found.groups),
        "nodes": found.num_nodes,
        "frozen": [[f.name, f.nodes, f.reason, f.op] for f in found.frozen],
        "multiples": sorted({g.multiple for g in found.groups.values()} - {1}),
        "macs": round(result.report.after.macs / result.report.before.macs, 3),
        "checks": {
            "cut == masked": outcome(lambda: computes_the_same(cut, masked, fresh)),
            "other size": outcome(lambda: runs(cut, other)),
            "train": outcome(lambda: trains(result.model, fresh)),
            "save and load": outcome(lambda: loads(result, network.build().eval(), fresh)),
        },
    }


def runs(cut: nn.Module, call: Call) -> None:
    """Runs the smaller network on inputs of another size."""
    if not all(bool(t.isfinite().all()) for t in outputs(cut, call, None) if t.is_floating_point()):
        raise ValueError("outputs that are not finite")


def network(name: str, library: str, inputs: Inputs, sizes: tuple[int, int]) -> Callable[[Any], Any]:
    """Registers the function below it as the builder of a network."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        NETWORKS[name] = Network(name, library, build, inputs, sizes)
        return build

    return register


# --- inputs -----------------------------------------------------------------------------------------------------------


def images(samples: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(samples, 3, size, size, generator=generator)


def tokens(samples: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(_TOKENS, (samples, size), generator=generator)


def ids(samples: int, size: int, generator: torch.Generator) -> Mapping[str, Any]:
    return {"input_ids": tokens(samples, size, generator), "use_cache": False}


def waves(samples: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randn(samples, size, generator=generator)


def graphs(samples: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One graph of `size` nodes for each sample, as one graph."""
    nodes = samples * size
    return torch.randn(nodes, 12, generator=generator), torch.randint(nodes, (2, 3 * nodes), generator=generator)


# --- ultralytics ------------------------------------------------------------------------------------------------------


def yolo(file: str) -> nn.Module:
    """A detector from its yaml, with classes few enough for a small image."""
    from ultralytics.nn.tasks import DetectionModel

    detector: nn.Module = DetectionModel(file, nc=8, verbose=False)
    return detector


for _name, _file in (("YOLOv8n", "yolov8n.yaml"), ("YOLO11n", "yolo11n.yaml"), ("YOLOv10n", "yolov10n.yaml")):
    network(_name, "ultralytics", images, (_SIDE, _SIDE + 32))(partial(yolo, _file))


# --- torch_geometric --------------------------------------------------------------------------------------------------


class GraphNetwork(nn.Module):
    """Three graph convolutions."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x, edges))
        out: Tensor = self.layers[-1](x, edges)
        return out


@network("GCN", "torch_geometric", graphs, (10, 15))
def gcn() -> nn.Module:
    from torch_geometric.nn import GCNConv

    return GraphNetwork(GCNConv(12, 32), GCNConv(32, 24), GCNConv(24, 5))


@network("GAT", "torch_geometric", graphs, (10, 15))
def gat() -> nn.Module:
    from torch_geometric.nn import GATConv

    return GraphNetwork(GATConv(12, 8, heads=4), GATConv(32, 8, heads=4), GATConv(32, 5, heads=1))


@network("SAGE", "torch_geometric", graphs, (10, 15))
def sage() -> nn.Module:
    from torch_geometric.nn import SAGEConv

    return GraphNetwork(SAGEConv(12, 32), SAGEConv(32, 24), SAGEConv(24, 5))


# --- x-transformers ---------------------------------------------------------------------------------------------------


@network("Decoder, rotary embeddings", "x-transformers", tokens, (12, 17))
def rotary() -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=32, depth=2, heads=4, attn_dim_head=8, rotary_pos_emb=True)
    wrapper: nn.Module = TransformerWrapper(num_tokens=_TOKENS, max_seq_len=32, attn_layers=layers)
    return wrapper


# --- transformers -----------------------------------------------------------------------------------------------------

_WORDS = {
    "vocab_size": _TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
_LANGUAGE: dict[str, tuple[str, dict[str, Any]]] = {
    "Mixtral": ("Mixtral", {"intermediate_size": 48, "num_local_experts": 4}),
    "Qwen3-MoE": (
        "Qwen3Moe",
        {"intermediate_size": 48, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2,
         "head_dim": 8},
    ),
    "gpt-oss": ("GptOss", {"intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "DeepSeek-V3": (
        "DeepseekV3",
        {"intermediate_size": 48, "moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "n_group": 2, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
         "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "num_key_value_heads": 4},
    ),
}  # fmt: skip


def language_model(name: str, sizes: Mapping[str, Any]) -> nn.Module:
    """A causal language model of transformers, with the experts and the attention of its defaults."""
    import transformers

    config = getattr(transformers, f"{name}Config")(**{**_WORDS, **sizes})
    model: nn.Module = getattr(transformers, f"{name}ForCausalLM")(config)
    return model


for _name, (_prefix, _sizes) in _LANGUAGE.items():
    network(_name, "transformers", ids, (12, 17))(partial(language_model, _prefix, _sizes))


@network("SegFormer", "transformers", images, (64, 96))
def segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[2, 2, 2, 2], hidden_sizes=[16, 24, 32, 48], num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=32,
        num_labels=5,
    )  # fmt: skip
    model: nn.Module = SegformerForSemanticSegmentation(config)
    return model


@network("wav2vec 2.0", "transformers", waves, (1600, 2000))
def wav2vec2() -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        vocab_size=_TOKENS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        conv_dim=(16, 16, 16), conv_stride=(5, 4, 2), conv_kernel=(10, 8, 4), num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4, apply_spec_augment=False,  # else training writes a vector into the stream
    )  # fmt: skip
    model: nn.Module = Wav2Vec2ForCTC(config)
    return model


@network("DINOv2", "transformers", images, (56, 70))
def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14, num_labels=5
    )
    model: nn.Module = Dinov2ForImageClassification(config)
    return model


if __name__ == "__main__":
    main()
