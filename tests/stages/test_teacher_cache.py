"""Words on disk: written in any order, read back as they were, refused where there is no room."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from quala.compress.partial_states import KeptState
from quala.errors import QualaError
from quala.stages.teacher_cache import AnswerStore, Layout, places

LAYOUT = Layout(
    rows=np.array([2, 3, 7]),
    answers=np.array([0, 4, 6, 9]),
    tokens=np.array([0, 2, 3, 5]),
    outputs=2,
    spans=True,
    states=(0, 4),
    hidden=6,
    entries=3,
    full_precision=True,
)
SLOTS = [2, 0, 1]  # the order in which batches come


@pytest.fixture
def words() -> tuple[torch.Tensor, list[KeptState]]:
    """Words of the three features, in the order of SLOTS."""
    generator = torch.Generator().manual_seed(0)
    kept = [
        KeptState(
            example=torch.tensor([0, 0, 1, 1, 2]),
            token=torch.randint(0, 300, (5,), generator=generator),
            values=torch.randn(5, 3, generator=generator),
            columns=torch.randint(0, 6, (5, 3), generator=generator),
            hidden=6,
        )
        for _ in range(2)
    ]
    return torch.randn(9, 2, generator=generator), kept


def test_places_are_the_joined_ranges() -> None:
    offsets, slots = np.array([0, 4, 6, 9]), np.array([2, 0, 2])
    found = places(offsets, slots)
    expected = [
        (flat, number, flat - int(offsets[slot]))
        for number, slot in enumerate(slots)
        for flat in range(offsets[slot], offsets[slot + 1])
    ]
    assert list(zip(*(part.tolist() for part in found))) == expected


def test_words_come_back_for_any_inputs(tmp_path: Path, words: Any) -> None:
    logits, kept = words
    AnswerStore(tmp_path / "s", LAYOUT).write(SLOTS, logits, kept)
    store = AnswerStore(tmp_path / "s", LAYOUT)
    found, example, place = store.logits(np.array([1, 2]))
    assert np.array_equal(found, np.concatenate([logits[7:9], logits[0:3]]))
    assert example.tolist() == [0, 0, 1, 1, 1]
    assert place.tolist() == [0, 1, 0, 1, 2]
    states = store.states(np.array([1, 2]), torch.device("cpu"))
    order = [4, 0, 1]  # feature 1 was written last, feature 2 first
    for state, written in zip(states, kept):
        assert state.example.tolist() == [0, 1, 1]
        assert torch.equal(state.token, written.token[order])
        assert torch.equal(state.values, written.values[order])
        assert state.columns is not None
        assert torch.equal(state.columns, written.columns[order])


def test_half_precision_keeps_eleven_bits(tmp_path: Path, words: Any) -> None:
    logits, kept = words
    layout = dataclasses.replace(LAYOUT, full_precision=False)
    store = AnswerStore(tmp_path / "s", layout)
    store.write(SLOTS, logits, kept)
    state = store.states(np.array(SLOTS), torch.device("cpu"))[1]
    assert torch.equal(state.values, kept[1].values.half().float())
    assert layout.bytes == LAYOUT.bytes - 5 * 2 * 3 * 2


def test_the_size_is_that_of_the_files(tmp_path: Path) -> None:
    AnswerStore(tmp_path / "s", LAYOUT)
    files = list((tmp_path / "s").glob("*.npy"))
    headers = 128 * len(files)
    assert sum(file.stat().st_size for file in files) - headers == LAYOUT.bytes
    # Nothing is left for the disk to refuse later.
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)


def test_what_was_committed_is_known_later(tmp_path: Path, words: Any) -> None:
    batches = [[2], [0, 1]]
    store = AnswerStore(tmp_path / "s", LAYOUT)
    assert store.done(batches) == 0
    store.write(SLOTS, *words)
    store.commit(batches[:1])
    assert AnswerStore(tmp_path / "s", LAYOUT).done(batches) == 1
    store.commit(batches)
    assert AnswerStore(tmp_path / "s", LAYOUT).done(batches) == 2


@pytest.mark.parametrize("name", [*LAYOUT.arrays, "progress"])
@pytest.mark.parametrize("harm", ["emptied", "shortened", "zeroed"])
def test_a_torn_file_is_filled_again(tmp_path: Path, words: Any, name: str, harm: str) -> None:
    batches = [[2], [0, 1]]
    store = AnswerStore(tmp_path / "s", LAYOUT)
    store.write(SLOTS, *words)
    store.commit(batches)
    file = next((tmp_path / "s").glob(f"{name}.*[yn]"))
    whole = file.read_bytes()
    kept = {"emptied": 0, "shortened": len(whole) - 7, "zeroed": len(whole) - 7}[harm]
    file.write_bytes(whole[:kept] + bytes(7 if harm == "zeroed" else 0))
    torn = AnswerStore(tmp_path / "s", LAYOUT)
    done = torn.done(batches)
    assert done < 2
    torn.write(SLOTS, *words)
    torn.commit(batches)
    assert file.read_bytes() == whole
    assert AnswerStore(tmp_path / "s", LAYOUT).done(batches) == 2


def test_a_cache_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    AnswerStore(tmp_path / "s", LAYOUT)
    noted = {"layout": LAYOUT.to_json(), "batches": 2}
    (tmp_path / "s" / "progress.json").write_text(json.dumps(noted))
    assert AnswerStore(tmp_path / "s", LAYOUT).done([[2], [0, 1]]) == 2


def test_another_layout_starts_anew(tmp_path: Path) -> None:
    AnswerStore(tmp_path / "s", LAYOUT).commit([[0]])
    other = AnswerStore(tmp_path / "s", dataclasses.replace(LAYOUT, states=(0, 5)))
    assert other.done([[0]]) == 0


def test_a_half_made_store_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "logits.npy").write_bytes(b"half")
    store = AnswerStore(tmp_path / "s", LAYOUT)
    assert store.arrays["logits"].shape == (9, 2)


def test_a_disk_without_room_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=LAYOUT.bytes - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    with pytest.raises(QualaError, match=r"cache takes 0 MiB, .* keep less by `cache.depth`"):
        AnswerStore(tmp_path / "s", LAYOUT)
    assert not list((tmp_path / "s").glob("*.npy"))


def test_values_beyond_half_precision_are_refused(tmp_path: Path, words: Any) -> None:
    logits, kept = words
    kept[0].values[1, 1] = 7e4
    store = AnswerStore(tmp_path / "s", dataclasses.replace(LAYOUT, full_precision=False))
    with pytest.raises(QualaError, match=r"reach 7e\+04, .* `cache.full_precision=true`"):
        store.write(SLOTS, logits, kept)


@pytest.mark.parametrize("feature", [0, 5, 8])
def test_an_input_that_was_not_stored_is_refused(feature: int) -> None:
    with pytest.raises(QualaError, match=f"lacks the input {feature}"):
        LAYOUT.slots(np.array([2, feature]))
