"""Formats of data sets."""

from __future__ import annotations

import pytest
from data.own_tasks import TopicsFormat

from quala.data.formats import DataFormat, Glue, Squad


@pytest.mark.parametrize(
    ("written", "subset", "title"),
    [
        (Squad(), None, "SQuAD 1.1"),
        (Glue(), "sst2", "SST-2"),
        (Glue(), "mrpc", "MRPC"),
        (Glue(), None, "GLUE"),
        (TopicsFormat(), None, "TopicsFormat"),
    ],
)
def test_a_format_knows_the_name_of_its_data(
    written: DataFormat, subset: str | None, title: str
) -> None:
    assert written.title(subset) == title
