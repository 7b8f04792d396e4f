"""A pruned Hugging Face model as a folder: weights, configuration, tokenizer, report, plan, and a model card."""

import json
import shlex
import sys
from pathlib import Path

import mipp
from mipp.cli.options import ModelSource
from mipp.runtime.requirements import require
from mipp.runtime.typed import read_json
from mipp.storage.hugging_face import save_pretrained
from mipp.storage.places import PAGE, PLAN, PRUNED_FORM, REPORT

_CARD = """---
library_name: transformers
base_model: {base}
tags: [pruned, mipp]
---

# {name}, pruned

{removed}. Whole nodes were removed and the weights behind them refitted by least squares, without labels, by
[mipp](https://arxiv.org/abs/2411.00147) {version}. Calibrated on {data}.

| | dense | pruned |
|---|---|---|
{rows}

```python
{load}
```

Made by `{command}`. `{page}` in this folder shows every layer.
"""


def save(result: mipp.Result, source: ModelSource, processor: object | None, data: str, out: Path, named: Path) -> bool:
    """Writes the folder, which its card calls `named`; returns True where stock `from_pretrained` loads it."""

    def add(part: Path) -> None:
        (part / PLAN).write_text(result.plan.to_json(), encoding="utf-8")
        (part / REPORT).write_text(json.dumps(result.report.to_dict(), indent=1), encoding="utf-8")
        result.report.to_html(part / PAGE)
        stock = PRUNED_FORM not in read_json(part / "config.json")
        (part / "README.md").write_text(_card(result, source, data, named, stock=stock), encoding="utf-8")

    return save_pretrained(result.model, out, processor, add)


def processor(source: ModelSource) -> object | None:
    """The tokenizer or image processor of the folder, if it has one."""
    transformers = require("transformers", "hf:...")
    for auto in (transformers.AutoTokenizer, transformers.AutoImageProcessor, transformers.AutoFeatureExtractor):
        try:
            found: object = auto.from_pretrained(source.within, trust_remote_code=source.trust_remote_code)
        except (
            OSError,
            ValueError,
            ImportError,
            KeyError,
            TypeError,
            AttributeError,
        ):  # whatever says: not of this kind
            continue
        return found
    return None


def _card(result: mipp.Result, source: ModelSource, data: str, out: Path, *, stock: bool) -> str:
    before, after = result.report.before, result.report.after
    rows = [("parameters", f"{before.params:,}", f"{after.params:,}"), ("MACs", f"{before.macs:,}", f"{after.macs:,}")]
    rows += [(name, f"{value:.4g}", f"{after.metrics[name]:.4g}") for name, value in before.metrics.items()]
    kind = type(result.model).__name__.removeprefix("Pruned")
    load = (
        f"from transformers import {kind}\n\nmodel = {kind}.from_pretrained({str(out)!r})"
        if stock
        else f"import mipp\n\nmodel = mipp.from_pretrained({str(out)!r})  # or stock, with trust_remote_code=True"
    )
    return _CARD.format(
        base=source.within,
        name=Path(source.within).name,
        removed=f"{before.nodes - after.nodes:,} of {before.nodes:,} nodes (neurons, heads, channels) are gone",
        version=mipp.__version__,
        data=data,
        rows="\n".join(f"| {' | '.join(row)} |" for row in rows),
        load=load,
        command=f"mipp {shlex.join(sys.argv[1:])}",
        page=PAGE,
    )
