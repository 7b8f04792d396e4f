"""Damage: values that nobody expects, put into JSON, bytes and command lines at random places."""

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

ODD = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 2**64, 10**30, -(2**63) - 1, 0.5, -0.0, 1e308, math.nan, math.inf,
    -math.inf, "", "x", "weight", "forward", "\ud800", "\x00", "\u202e", "a" * 300, [], {}, [[]], [0], [0, 1, 2, 3],
    [2**62] * 4, [2**31, 1, 1, 1], {"a": 1}, "listed", "regular", "torch.quint8", "F64", "I8",
)  # fmt: skip
"""Values of JSON."""
NUMBERS = ("9" * 5000, "1" * 21, "1e999", "-" + "9" * 400, "NaN", "Infinity")
"""Numbers as they may stand in a file, in place of one of its own."""
_split = str.split
WORDS = (
    "", " ", "9" * 5000, str(2**80), "x" * 300, "x" * 6000, "a/" * 200, "0=" + "9" * 5000, "--",
    *_split("""
    -1 0 1 0.5 1e999 nan inf a.b \udcff é [ * , 1,2 1,,2 99999999999,9 2,4:int64 2,4 / . /dev/null nets nets: :Net
    nets:Net nets:Tokens hf: timm:x hf:. data.npy data.safetensors = a= =b 0=3 0=99999999999999999999 noise=nan noise=-1
    positions=9999999999999999999999 confidence=0.9 order=mi true None cuda:99 meta cpu:7 l1 random@mipp
    random@random@l1 macs=0.5 nodes=4:min_keep=0 digits saved deep/er/file.png out.svg out.onnx out.pt2 1GB 2XB
    """),
)  # fmt: skip
"""Words of a command line."""


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in JSON."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def damage_json(tree: Any, random: Random) -> Any:
    """JSON with one value dropped, renamed, moved, changed by a little, or replaced; in place."""
    paths = list(places(tree))
    path = random.choice(paths)
    if not path:
        return _odd(random)
    owner, key = _at(tree, path[:-1]), path[-1]
    kind = random.random()
    if kind < 0.15:
        del owner[key]
    elif kind < 0.3 and isinstance(owner, dict):
        owner[random.choice(["x", *(str(p[-1]) for p in paths if p)])] = owner.pop(key)
    elif kind < 0.45 and isinstance(owner[key], int):
        owner[key] += random.choice([-1, 1, 10, 2**31])
    elif kind < 0.6:
        owner[key] = json.loads(json.dumps(_at(tree, random.choice(paths))))
    else:
        owner[key] = _odd(random)
    return tree


def damage_text(text: str, random: Random) -> str:
    """A text of JSON with damage that only text can have: long numbers, deep nesting, halves."""
    kind = random.random()
    if kind < 0.4:
        digits = [n for n, letter in enumerate(text) if letter.isdecimal()] or [0]
        at = random.choice(digits)
        return text[:at] + random.choice(NUMBERS) + text[at + 1 :]
    if kind < 0.5:
        at = random.randrange(len(text) + 1)
        return text[:at] + random.choice("[{") * random.choice([3, 100_000]) + text[at:]
    return damage_bytes(text.encode("utf-8", "surrogatepass"), random).decode("latin-1")


def damage_bytes(content: bytes, random: Random) -> bytes:
    """A file that was cut short, written over, or doubled in part."""
    kind, at = random.random(), random.randrange(len(content) + 1)
    if kind < 0.3:
        return content[:at]
    if kind < 0.7:
        changed = bytearray(content)
        for _ in range(random.choice([1, 1, 4, 32])):
            if changed:
                changed[random.randrange(len(changed))] = random.randrange(256)
        return bytes(changed)
    return content[:at] + content[max(at - 9, 0) :] if kind < 0.9 else random.randbytes(random.choice([0, 1, 8, 200]))


def damage_line(words: list[str], options: list[str], random: Random) -> list[str]:
    """A command line with odd words in place of its own, and odd options."""
    words = list(words)
    for _ in range(random.choice([1, 1, 2])):
        kind = random.random()
        if kind < 0.5 and len(words) > 1:
            words[random.randrange(1, len(words))] = random.choice(WORDS)
        elif kind < 0.9:
            words += [random.choice(options), random.choice(WORDS)]
        else:
            del words[random.randrange(len(words))]
    return words


def _odd(random: Random) -> Any:
    """An odd value of its own, since what is damaged again would damage it for all later cases."""
    return copy.deepcopy(random.choice(ODD))


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
