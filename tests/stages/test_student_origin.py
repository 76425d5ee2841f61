"""What a student remembers of its teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quala.checkpoint import load_with_data
from quala.data.spec import DataSpec
from quala.errors import QualaError
from quala.models.load import source_fingerprint
from quala.stages.student import Origin, Student, followed_heads, origin_of


def _saved(folder: Path, **facts: Any) -> Path:
    folder.mkdir()
    (folder / "quala.json").write_text(json.dumps({"format": 1, **facts}))
    return folder


def test_a_record_is_read_back(tiny_checkpoint: Path, tmp_path: Path) -> None:
    origin = Origin(source_fingerprint(tiny_checkpoint), [1], [[1, 0]])
    student = _saved(tmp_path / "student", **json.loads(json.dumps(origin.to_json())))
    assert origin_of(student, tiny_checkpoint) == origin


def test_a_copy_of_the_teacher_is_the_teacher(tiny_checkpoint: Path, tmp_path: Path) -> None:
    origin = Origin(source_fingerprint(tiny_checkpoint), [1], [[0]])
    student = _saved(tmp_path / "student", **origin.to_json())
    assert origin_of(student, shutil.copytree(tiny_checkpoint, tmp_path / "copy")) == origin


def test_another_teacher_taught_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    origin = Origin("another", [1], [[0]])
    student = _saved(tmp_path / "student", **origin.to_json())
    assert origin_of(student, tiny_checkpoint) is None


def test_a_student_of_its_own_remembers_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert origin_of(tiny_checkpoint, tiny_checkpoint) is None
    assert origin_of(_saved(tmp_path / "student"), tiny_checkpoint) is None


def test_a_damaged_record_is_one_sentence(tiny_checkpoint: Path, tmp_path: Path) -> None:
    student = _saved(tmp_path / "student", copied={"layers": [0]})
    with pytest.raises(QualaError, match=r"`copied` in .* is damaged"):
        origin_of(student, tiny_checkpoint)


def test_copied_layers_follow_their_heads_and_others_all_in_order(
    tiny_checkpoint: Path, spec: DataSpec
) -> None:
    teacher = load_with_data(tiny_checkpoint, spec)  # 2 layers of 2 heads
    origin = Origin("", [0, 1], [[1, 0], [1, 0]])
    pairs = [(0, 0), (1, 0)]
    assert followed_heads(pairs, Student(teacher, origin), teacher) == [[1, 0], [0, 1]]
    assert followed_heads(pairs, Student(teacher), teacher) == [[0, 1], [0, 1]]
