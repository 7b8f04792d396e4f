"""Tensors kept in memory up to a limit, and beyond it in temporary files that are mapped back when they are read.

The files have no name from the moment they are made, so nothing stays behind, not even when the process is killed.
"""

import mmap
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet, finalize

import torch
from torch import Tensor

from mipp.errors import MippError, quote
from mipp.runtime.allocator import give_back

DEFAULT_LIMIT = 4 * 10**9
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_ALIGNMENT = 64  # what torch gives fresh tensors: kernels may round differently on other addresses


def as_bytes(limit: int | str | None) -> int:
    """Reads a memory limit: bytes, or a number with a unit such as "500MB", "2 GB" or "1.5GiB"; None is 4 GB.

    Raises:
        MippError: It is none of these, or not positive.
    """
    if limit is None:
        return DEFAULT_LIMIT
    text = limit if isinstance(limit, str) else quote(limit)
    parts = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(parts.group(2).upper()) if parts else None
    number = int(float(parts.group(1)) * unit) if parts and unit else 0
    if isinstance(limit, bool) or number < 1:
        raise MippError(
            f"memory_limit={quote(limit)} is no amount of memory; expected a positive number of bytes, or a string "
            "such as "
            "'500MB', '2GB' or '1.5GiB'."
        )
    return number


def format_bytes(number: float) -> str:
    """An amount of memory for people, such as "1.5 GB"."""
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if number >= u), (1, "bytes"))
    return f"{number / unit:.3g} {name}"


class Memory:
    """The memory limit: half of it for calibration data and activations, half for statistics.

    Attributes:
        store: Keeps calibration data and activations, beyond the limit in temporary files.
        statistics: Bytes for second moments and what is computed from them.
    """

    def __init__(self, limit: int | str | None = None) -> None:
        half = as_bytes(limit) // 2
        self.store, self.statistics = TensorStore(half), half


class TensorStore:
    """Lists of tensors under one memory limit.

    Attributes:
        limit: Bytes that may stay in memory.
        used: Bytes that do.
        most_on_disk: The largest number of bytes that were in temporary files at one time.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.used, self.most_on_disk = limit, 0, 0
        self._files: WeakSet[_File] = WeakSet()

    def shelf(self) -> "Shelf":
        """A place for tensors that are given up together: what it holds on disk is freed with it."""
        return Shelf(self)

    def give_back(self) -> None:
        """Gives freed memory back to the system, if so much was kept that some of it went to files."""
        if self.most_on_disk:
            give_back()

    def _file(self) -> "_File":
        file = _File()
        self._files.add(file)
        return file

    def _note_size(self) -> None:
        self.most_on_disk = max(self.most_on_disk, sum(file.size for file in self._files))


class Shelf:
    """Puts tensors away; see `TensorStore.shelf`."""

    def __init__(self, store: TensorStore) -> None:
        self._store = store
        self._file: _File | None = None

    def put(self, tensors: Sequence[Tensor]) -> "Stored":
        """Keeps tensors: the very same ones while the limit allows it, else their bytes in a temporary file.

        Raises:
            MippError: The temporary file cannot be written.
        """
        spans = _spans(tensors)
        size = sum(_align(high - low) for low, high in spans.values())
        store = self._store
        if store.used + size <= store.limit or not size or not all(map(_is_plain, tensors)):
            store.used += size
            return Stored(store, size, list(tensors))
        try:
            if self._file is None:
                self._file = store._file()
            return Stored(store, 0, self._file.write(tensors, spans))
        except OSError as error:
            raise MippError(
                f"Writing {format_bytes(size)} of activations to a temporary file in {tempfile.gettempdir()} failed "
                f"({error.strerror or error}). Expected room for what memory_limit ({format_bytes(2 * store.limit)}) "
                "keeps out of memory: set the environment variable TMPDIR to a folder with more room, raise "
                "memory_limit, or give fewer calibration samples."
            ) from error
        finally:
            store._note_size()


class Stored:
    """Tensors that were put away."""

    def __init__(self, store: TensorStore, size: int, content: "list[Tensor] | _Record") -> None:
        self._store, self._size, self._content = store, size, content

    def load(self) -> list[Tensor]:
        """The tensors, with the strides they had, sharing memory where they did."""
        return self._content.load() if isinstance(self._content, _Record) else list(self._content)

    def release(self) -> None:
        """Says that the tensors are no longer needed."""
        self._store.used -= self._size
        self._size, self._content = 0, []


@dataclass(frozen=True)
class _View:
    """A tensor inside a record: where its first element lies, in elements."""

    offset: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class _Record:
    file: "_File"
    start: int
    length: int
    device: torch.device
    views: tuple[_View, ...]

    def load(self) -> list[Tensor]:
        memory = mmap.mmap(self.file.number, self.length, access=mmap.ACCESS_COPY, offset=self.start)
        storage = torch.frombuffer(memory, dtype=torch.uint8).to(self.device).untyped_storage()
        empty = [torch.empty(0, dtype=v.dtype, device=self.device) for v in self.views]
        return [t.set_(storage, v.offset, v.shape, v.stride) for t, v in zip(empty, self.views, strict=True)]


class _File:
    """A temporary file without a name that grows record by record."""

    def __init__(self) -> None:
        self._handle = tempfile.TemporaryFile(prefix="mipp-")  # noqa: SIM115
        self.number, self.size = self._handle.fileno(), 0
        finalize(self, self._handle.close)

    def write(self, tensors: Sequence[Tensor], spans: dict[int, tuple[int, int]]) -> _Record:
        start = self.size
        where: dict[int, int] = {}
        for tensor in tensors:
            key = storage_id(tensor)
            if key not in where:
                where[key] = self.size - start - spans[key][0]
                self._append(_bytes(tensor, *spans[key]), _ALIGNMENT)
        views = tuple(_view(t, where[storage_id(t)]) for t in tensors)
        length = self.size - start
        self._append(b"", mmap.ALLOCATIONGRANULARITY)
        self._handle.flush()
        return _Record(self, start, length, tensors[0].device, views)

    def _append(self, content: bytes | memoryview, alignment: int) -> None:
        self._handle.write(content)
        self.size += len(content)
        missing = -self.size % alignment
        self._handle.write(b"\0" * missing)
        self.size += missing


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and not (tensor.is_conj() or tensor.is_neg())


def storage_id(tensor: Tensor) -> int:
    """The same number for tensors that share memory."""
    return tensor.untyped_storage().data_ptr() if _is_plain(tensor) else id(tensor)


def _spans(tensors: Sequence[Tensor]) -> dict[int, tuple[int, int]]:
    """For every storage the first and the last byte that any of the tensors covers."""
    spans: dict[int, tuple[int, int]] = {}
    for tensor in filter(_is_plain, tensors):
        first = int(tensor.storage_offset()) * tensor.element_size()
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        last = first + (reach * tensor.element_size() if tensor.numel() else 0)
        low, high = spans.get(storage_id(tensor), (first, last))
        spans[storage_id(tensor)] = min(low, first) // _ALIGNMENT * _ALIGNMENT, max(high, last)
    return spans


def _align(size: int) -> int:
    return size + -size % _ALIGNMENT


def _bytes(tensor: Tensor, low: int, high: int) -> memoryview:
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    raw.set_(tensor.untyped_storage(), low, (high - low,), (1,))
    content: memoryview = raw.cpu().numpy().data
    return content


def _view(tensor: Tensor, start: int) -> _View:
    offset = start // tensor.element_size() + int(tensor.storage_offset())
    return _View(offset, tensor.shape, tensor.stride(), tensor.dtype)
