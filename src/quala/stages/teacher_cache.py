"""A teacher's outputs on disk: arrays mapped into memory, written once, in any order."""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from quala.compress.partial_states import KeptState
from quala.durable import read_whole, write_whole
from quala.errors import QualaError

Ints = NDArray[np.int64]
Array = NDArray[Any]
MEBIBYTE = 2**20
_PROGRESS = "progress.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the outputs for each of n features are, and how many of them are kept.

    The feature `rows[i]` has the logits `answers[i]` to `answers[i + 1]` and the kept tokens
    `tokens[i]` to `tokens[i + 1]`: as many of each state, though not the same ones.
    """

    rows: Ints  # (n,), rising
    answers: Ints  # (n + 1,)
    tokens: Ints  # (n + 1,)
    outputs: int
    spans: bool
    """Whether each token has logits; otherwise each input has."""
    states: tuple[int, ...]
    """The teacher's hidden states that are kept, rising."""
    hidden: int
    """The width of a hidden state, H."""
    entries: int
    """Entries kept of each token, w."""
    full_precision: bool

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The shape and type of each array."""
        arrays: dict[str, tuple[tuple[int, ...], str]] = {
            "logits": ((int(self.answers[-1]), self.outputs), "<f4")
        }
        if self.states:
            tokens = (int(self.tokens[-1]), len(self.states))
            arrays["tokens"] = (tokens, "<u2")
            arrays["values"] = ((*tokens, self.entries), "<f4" if self.full_precision else "<f2")
            if self.entries < self.hidden:
                arrays["columns"] = ((*tokens, self.entries), "<u2")
        return arrays

    @property
    def bytes(self) -> int:
        """The size of all arrays."""
        return sum(
            int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in self.arrays.values()
        )

    def slots(self, features: Ints) -> Ints:
        """Return where in `rows` these features are; raise QualaError for others."""
        slots = np.searchsorted(self.rows, features)
        found = slots < len(self.rows)
        found[found] = self.rows[slots[found]] == features[found]
        if not found.all():
            raise QualaError(f"The teacher's cache lacks the input {features[~found][0]}.")
        return slots

    def to_json(self) -> dict[str, Any]:
        """Return the facts in which two layouts of one training may differ."""
        arrays = {name: [list(shape), kind] for name, (shape, kind) in self.arrays.items()}
        return {"arrays": arrays, "states": list(self.states)}


class AnswerStore:
    """The arrays of a layout in a folder. What was written before a kill is read back.

    Raises QualaError when the disk has no room for them, before anything is written.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        if self._noted().get("layout") != layout.to_json() or not self._opened():
            self._create()
            self._opened()

    def _opened(self) -> bool:
        """Open the arrays; return whether they are as the layout says."""
        try:
            self.arrays: Mapping[str, Array] = {
                name: open_memmap(self._file(name), mode="r+") for name in self.layout.arrays
            }
        except (OSError, ValueError):  # torn
            return False
        return all(
            (array.shape, array.dtype.str) == self.layout.arrays[name]
            for name, array in self.arrays.items()
        )

    def done(self, batches: Sequence[Sequence[int]]) -> int:
        """Return how many of these batches, each some slots, are on disk as they were written."""
        noted = self._noted()
        sums = noted.get("sums", [])
        if not sums:  # nothing yet, or a cache of an earlier version
            return int(noted.get("batches", 0))
        for number, (slots, expected) in enumerate(zip(batches, sums)):
            if self._sum(slots) != expected:
                log.warning("`%s` is torn, as after a power cut: it is filled again.", self.folder)
                self._note(sums[:number])
                return number
        return len(sums)

    def commit(self, batches: Sequence[Sequence[int]]) -> None:
        """Note that the first batches, these, were written, once they are on disk."""
        for array in self.arrays.values():
            array.flush()  # type: ignore[attr-defined]
        sums = self._noted().get("sums", [])
        self._note([*sums, *map(self._sum, batches[len(sums) :])])

    def _sum(self, slots: Sequence[int]) -> int:
        """Return a checksum of what is stored for some slots."""
        where = np.asarray(slots, dtype=np.int64)
        answers, _, _ = places(self.layout.answers, where)
        tokens, _, _ = places(self.layout.tokens, where)
        total = 0
        for name, array in self.arrays.items():
            rows = array[answers if name == "logits" else tokens]
            total = zlib.crc32(rows.tobytes(), total)
        return total

    def write(self, slots: Sequence[int], logits: torch.Tensor, kept: Sequence[KeptState]) -> None:
        """Write the logits (sum of answers, outputs) and one kept state of each kind.

        `slots` are places in the layout's rows; logits and states are in their order. Raises
        QualaError for values that float16 does not hold.
        """
        where = np.asarray(slots, dtype=np.int64)
        answers, _, _ = places(self.layout.answers, where)
        self.arrays["logits"][answers] = logits.float().cpu().numpy()
        tokens, _, _ = places(self.layout.tokens, where)
        for number, state in enumerate(kept):
            self.arrays["tokens"][tokens, number] = state.token.cpu().numpy()
            self.arrays["values"][tokens, number] = self._rounded(state.values)
            if state.columns is not None:
                self.arrays["columns"][tokens, number] = state.columns.cpu().numpy()

    def logits(self, slots: Ints) -> tuple[Array, Ints, Ints]:
        """Return the logits of these features, and each one's row among them and place there."""
        answers, example, place = places(self.layout.answers, slots)
        return self.arrays["logits"][answers], example, place

    def states(self, slots: Ints, device: torch.device) -> list[KeptState]:
        """Return the kept part of each state of these features."""
        tokens, example, _ = places(self.layout.tokens, slots)
        rows = torch.from_numpy(example).to(device)
        found = {
            name: torch.from_numpy(_wide(self.arrays[name][tokens])).to(device)
            for name in self.layout.arrays
            if name != "logits"
        }
        return [
            KeptState(
                example=rows,
                token=found["tokens"][:, number],
                values=found["values"][:, number].float(),
                columns=found["columns"][:, number] if "columns" in found else None,
                hidden=self.layout.hidden,
            )
            for number in range(len(self.layout.states))
        ]

    def _rounded(self, values: torch.Tensor) -> Array:
        if self.layout.full_precision:
            return values.float().cpu().numpy()
        rounded = values.half()
        if not bool(rounded.isfinite().all()):
            raise QualaError(
                f"The teacher's hidden states reach {float(values.abs().max()):.3g}, which "
                "float16 does not hold: set `cache.full_precision=true`."
            )
        return rounded.cpu().numpy()

    def _create(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        needed, free = self.layout.bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            raise QualaError(
                f"The teacher's cache takes {needed / MEBIBYTE:.0f} MiB, the disk of "
                f"`{self.folder}` has {free / MEBIBYTE:.0f} free: keep less by `cache.depth`, "
                "`cache.tokens` or `cache.width`."
            )
        for name, (shape, kind) in self.layout.arrays.items():
            open_memmap(self._file(name), mode="w+", dtype=kind, shape=shape)
            with self._file(name).open("r+b") as file:
                # A mapped file that outgrows its disk ends the process without a message.
                os.posix_fallocate(file.fileno(), 0, self._file(name).stat().st_size)
        self._note([])

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _note(self, sums: Sequence[int]) -> None:
        noted = {"layout": self.layout.to_json(), "batches": len(sums), "sums": sums}
        write_whole(self.folder / _PROGRESS, json.dumps(noted))

    def _noted(self) -> dict[str, Any]:
        return read_whole(self.folder / _PROGRESS) or {}


def places(offsets: Ints, slots: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the flat places `offsets[i]` to `offsets[i + 1]` of these slots, joined.

    With each comes the slot's number among `slots` and the place within the slot.
    """
    starts, counts = offsets[slots], offsets[slots + 1] - offsets[slots]
    example = np.repeat(np.arange(len(slots)), counts)
    before = np.cumsum(counts) - counts
    place = np.arange(int(counts.sum())) - np.repeat(before, counts)
    return np.repeat(starts, counts) + place, example, place


def _wide(values: Array) -> Array:
    """Return integers as PyTorch indexes with them, other values as they are."""
    return values.astype(np.int64) if values.dtype.kind == "u" else values
