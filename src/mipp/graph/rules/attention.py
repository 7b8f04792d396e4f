"""Fused attention: two products with a softmax between them."""

from collections.abc import Sequence

from mipp.graph.axes import Planes, Reason, merge, varying
from mipp.graph.program import Op, Ref
from mipp.graph.registry import rule
from mipp.graph.rules.products import Factor, product
from mipp.graph.rules.steps import repeat
from mipp.graph.tracker import Walk


@rule("scaled_dot_product_attention")
def attention(op: Op, w: Walk) -> Sequence[Planes]:
    """Heads are rows of every operand; the width of keys may shrink in queries and keys together."""
    q, k, v = op.args[:3]
    ndim = len(w.shape(q))
    batch = "abcdefgh"[: ndim - 2]
    repeats = w.shape(q)[ndim - 3] // w.shape(k)[ndim - 3] if ndim > 2 and op.arguments.get("enable_gqa") else 1
    reason = Reason(f"{op.name} runs over the axis", op.name, op.source)
    keys, values = (repeat(w.of(r), ndim - 3, repeats) for r in (k, v))
    for planes in (w.of(q), keys, values):
        for plane in planes:
            w.atoms.hold(plane, [ndim - 2], reason)
    shape = (*w.shape(q)[:-1], w.shape(k)[-2])
    lead_k, lead_v = (_repeat_shape(w.shape(r)[:-2], repeats) for r in (k, v))
    scores = product(
        op,
        w,
        [Factor(0, w.of(q), w.shape(q), batch + "rx"), Factor(1, keys, (*lead_k, *w.shape(k)[-2:]), batch + "sx")],
        batch + "rs",
    )
    bias = op.arguments.get("attn_mask")
    if isinstance(bias, Ref):
        scores = merge([(scores, shape), (w.of(bias), w.shape(bias))], w.atoms, reason)
    weights = Factor(-1, tuple(p for p in scores if varying(p)), shape, batch + "rs")
    return [product(op, w, [weights, Factor(2, values, (*lead_v, *w.shape(v)[-2:]), batch + "sx")], batch + "rx")]


def _repeat_shape(lead: tuple[int, ...], times: int) -> tuple[int, ...]:
    """The dimensions in front of keys or values: one head for all queries stays one."""
    return lead if times == 1 else (*lead[:-1], lead[-1] * times)
