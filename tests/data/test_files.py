"""Which files of a folder are read, and what stands in them."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quala.data import files
from quala.data.files import read_rows
from quala.data.formats import GLUE_SUBSETS
from quala.data.read import class_names, read_glue, read_squad
from quala.data.spec import DataSpec
from quala.data.splits import source_path, split_files
from quala.errors import QualaError


def put(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("text,label\na,0\n")
    return folder


@pytest.mark.parametrize(
    ("there", "split", "read"),
    [
        (["train.csv", "backup/train.csv"], "train", ["train.csv"]),
        (["train.csv", "train_old.csv"], "train", ["train.csv"]),
        (
            ["train_v2.csv", ".ipynb_checkpoints/train_v2-checkpoint.csv"],
            "train",
            ["train_v2.csv"],
        ),
        (["train.csv", "._train.csv"], "train", ["train.csv"]),
        (["data/train.csv"], "train", ["data/train.csv"]),
        (["data/train.csv", "dataset_infos.json"], "train", ["data/train.csv"]),
        (["data/train.csv", "state.json"], "train", ["data/train.csv"]),
        (["dev_matched.tsv", "dev_mismatched.tsv"], "dev_matched", ["dev_matched.tsv"]),
        (["dev_matched.tsv", "dev_mismatched.tsv"], "validation_matched", ["dev_matched.tsv"]),
        (["dev_matched.tsv", "dev.tsv"], "dev_matched.tsv", ["dev_matched.tsv"]),
        (["validation.csv", "dev.csv"], "validation", ["validation.csv"]),
        (["dev.csv", "dev_hard.csv"], "validation", ["dev.csv"]),
        (["Train.CSV"], "train", ["Train.CSV"]),
        (["train.json.gz"], "train", ["train.json.gz"]),
        (["train.csv", "train.parquet"], "train.csv", ["train.csv"]),
        (["parts/0.csv"], "parts/0.csv", ["parts/0.csv"]),
        (
            ["train-00001-of-00002.parquet", "train-00000-of-00002-a09b.parquet"],
            "train",
            ["train-00000-of-00002-a09b.parquet", "train-00001-of-00002.parquet"],
        ),
        (["train_00002.csv", "train_00001.csv"], "train", ["train_00001.csv", "train_00002.csv"]),
        (["training.csv"], "train", ["training.csv"]),
        (["val.csv"], "validation", ["val.csv"]),
    ],
)
def test_the_files_that_the_split_names(
    tmp_path: Path, there: list[str], split: str, read: list[str]
) -> None:
    found = split_files(put(tmp_path, *there), split)
    assert [file.relative_to(tmp_path).as_posix() for file in found] == read


@pytest.mark.parametrize(
    ("there", "split", "message"),
    [
        (
            ["dev_matched.tsv", "dev_mismatched.tsv"],
            "validation",
            "candidates .* dev_matched.tsv, dev_mismatched.tsv; .* `test_split=dev_matched.tsv`",
        ),
        (["dev.csv", "val.csv"], "validation", "candidates .* dev.csv, val.csv"),
        (["train.csv", "train.parquet"], "train", "candidates .* train.csv, train.parquet"),
        (["train.csv", "train.csv.gz"], "train", "candidates .* train.csv, train.csv.gz"),
        (["train_v1.csv", "train_v2.csv"], "train", "candidates .* train_v1.csv, train_v2.csv"),
        (["train-00000-of-00002.csv"], "train", "every shard .* has train-00000-of-00002.csv"),
        (["train-00001-of-00002.csv"], "train", "every shard"),
        (["train-00000-of-00001.csv", "train-00001-of-00002.csv"], "train", "every shard"),
        (["train-00000-of-00001-a.csv", "train-00000-of-00001-b.csv"], "train", "every shard"),
        (["train-00000.csv", "train-00002.csv"], "train", "every shard"),
        (
            ["sst/train.csv", "rte/validation.csv"],
            "train",
            "rte/validation.csv, sst/train.csv; sub",
        ),
        (["data/train.csv", "more/train.csv"], "train", "found data/train.csv, more/train.csv"),
        ([".hidden/train.csv", ".train.csv"], "train", "found no data files"),
        (
            ["trian.csv", "notes.txt"],
            "train",
            "found trian.csv; `data.train_split`",
        ),
    ],
)
def test_no_file_is_guessed(tmp_path: Path, there: list[str], split: str, message: str) -> None:
    with pytest.raises(QualaError, match=message):
        split_files(put(tmp_path, *there), split)


@pytest.mark.parametrize("folder", ["SST-2", "sst2", "SST2", "sst_2"])
def test_the_folder_of_a_glue_task_is_found(tmp_path: Path, folder: str) -> None:
    put(tmp_path, f"{folder}/train.tsv", "CoLA/train.tsv")
    assert source_path(str(tmp_path), "sst2", GLUE_SUBSETS) == tmp_path / folder


@pytest.mark.parametrize(
    ("there", "at", "subset", "message"),
    [
        (["cola/train.csv", "sst2/train.csv"], "", "sst-3", "`sst-3`. Did you mean `sst2`"),
        (["cola/train.csv", "sst2/train.csv"], "", "rte", "`rte`. Allowed: cola, sst2"),
        (["SST-2/train.csv", "sst2/train.csv"], "", "sst2", "has `SST-2` and `sst2`"),
        (["cola/train.csv"], "cola", "sst2", "is of the subset `cola` .* is `sst2`"),
        (["CoLA/train.csv"], "CoLA/train.csv", "sst2", "is of the subset `cola`"),
        (["mrpc.csv"], "mrpc.csv", "sst2", "is of the subset `mrpc`"),
        (["train.csv", "RTE/train.csv"], "", "sst2", "is of the subset `rte`"),
        (["mine/train.csv"], "mine", "clola", "`clola`. Did you mean `cola`"),
        (["mine/train.csv"], "mine/train.csv", "emotion", "Unknown `subset`"),
    ],
)
def test_no_subset_is_ignored(
    tmp_path: Path, there: list[str], at: str, subset: str, message: str
) -> None:
    put(tmp_path, *there)
    with pytest.raises(QualaError, match=message):
        source_path(str(tmp_path / at), subset, GLUE_SUBSETS)


@pytest.mark.parametrize("at", ["", "train.csv"])
def test_a_subset_may_only_choose_the_metric(tmp_path: Path, at: str) -> None:
    put(tmp_path, "train.csv", "backup/train.csv")
    assert source_path(str(tmp_path / at), "mrpc", GLUE_SUBSETS) == tmp_path / at
    with pytest.raises(QualaError, match="Unknown `subset`"):
        source_path(str(tmp_path / at), "mrpc", ())
    assert source_path(str(tmp_path / at), "mine", None) == tmp_path / at


def test_a_folder_chosen_by_another_spelling_has_the_metric_of_its_task(tmp_path: Path) -> None:
    put(tmp_path, "CoLA/train.csv")
    spec = DataSpec(task="glue", path=str(tmp_path), subset="CoLA")
    assert read_glue(spec, "train")[1].metrics[:2] == ("matthews", "accuracy")


def rows(file: Path, content: str | bytes, **options: Any) -> list[Any]:
    raw = content.encode() if isinstance(content, str) else content
    file.write_bytes(gzip.compress(raw, mtime=0) if file.suffix == ".gz" else raw)
    return [dict(row) for _, row in read_rows(file, **options)]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("ending", "content"),
    [
        (".csv", "text,label\na,0\n"),
        (".csv", "text,label\r\na,0\r\n"),
        (".tsv", "text\tlabel\na\t0"),
        (".TSV", "\ntext\tlabel\r\na\t0\r\n"),
        (".jsonl", '{"text": "a", "label": "0"}\r\n'),
        (".json", '[{"text": "a", "label": "0"}]'),
        (".json", '{"data": [{"text": "a", "label": "0"}]}'),
    ],
)
def test_every_format_is_read(
    tmp_path: Path, ending: str, content: str, packed: str, mark: str
) -> None:
    file = tmp_path / f"train{ending}{packed}"
    assert rows(file, mark + content) == [{"text": "a", "label": "0"}]


def test_packed_parquet_is_read(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a"]}), sink)
    assert rows(tmp_path / "x.parquet.gz", sink.getvalue().to_pybytes()) == [{"text": "a"}]


@pytest.mark.parametrize(
    "broken", [b"no gzip", gzip.compress(b"text,label\na,0\n" * 99, mtime=0)[:-20]]
)
def test_a_broken_archive_is_refused(tmp_path: Path, broken: bytes) -> None:
    file = tmp_path / "train.csv.gz"
    file.write_bytes(broken)
    with pytest.raises(QualaError, match="cannot be read"):
        list(read_rows(file))


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0c", "\x0b", "\x1c"])
def test_only_line_breaks_end_a_line(
    tmp_path: Path, ending: str, delimiter: str, inside: str
) -> None:
    text = f"first{inside}second"
    content = f"text{delimiter}label\n{text}{delimiter}1\n"
    assert rows(tmp_path / f"x{ending}", content) == [{"text": text, "label": "1"}]


def test_line_ends_in_quotes_stay_as_they_are(tmp_path: Path) -> None:
    content = 'text,label\r\n"a\r\nb\rc\nd",1\r\n'
    assert rows(tmp_path / "x.csv", content) == [{"text": "a\r\nb\rc\nd", "label": "1"}]


def test_fields_may_be_long(tmp_path: Path) -> None:
    text = "word " * 40_000
    assert rows(tmp_path / "x.csv", f"text,label\n{text},1\n")[0]["text"] == text


TEXTS = ['" Yes , " he said', 'a "b" c', "plain", "tab\there", "two\nlines", '"']


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:3], TEXTS[2:4], TEXTS[2:3]])
@pytest.mark.parametrize("style", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_tsv_as_pandas_writes_it(
    tmp_path: Path, texts: list[str], style: int, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "x.tsv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=style)
        writer.writerows([("text", "label"), *((text, 1) for text in texts)])
    caplog.set_level(logging.INFO)
    assert [row["text"] for _, row in read_rows(file)] == texts
    assert ("has quoted fields" in caplog.text) is ('"' in file.read_text())


@pytest.mark.parametrize("texts", [TEXTS[:3], ['"'], ['"a', "b"], ['"quoted"', 'and " not']])
def test_tsv_as_glue_writes_it(tmp_path: Path, texts: list[str]) -> None:
    content = "\n".join(["text\tlabel", *(f"{text}\t1" for text in texts)])
    assert [row["text"] for row in rows(tmp_path / "x.tsv", content)] == texts


@pytest.mark.parametrize(
    ("content", "line", "quoted", "plain"),
    [
        ('text\tlabel\nx\t0\n"All of it."\t1\n', 3, ["x", "All of it."], ["x", '"All of it."']),
        ('label\ttext\n1\t"a ""\n0\tb"\n', 2, ['a "\n0\tb'], ['"a ""', 'b"']),
        ('label\ttext\n1\t"a\n0\tb"\n', 2, ["a\n0\tb"], ['"a', 'b"']),
    ],
)
def test_quotes_that_may_be_either_are_asked_for(
    tmp_path: Path, content: str, line: int, quoted: list[str], plain: list[str]
) -> None:
    file = tmp_path / "x.tsv"
    with pytest.raises(QualaError, match=rf"line {line}: .*=quoted` or `data.quoting=plain`"):
        rows(file, content)
    assert [row["text"] for row in rows(file, content, quoting="quoted")] == quoted
    assert [row["text"] for row in rows(file, content, quoting="plain")] == plain


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text,label\na,0\n"a stray quote,1\nb,0\n', 3),
        ('text,label\n"a\nb",0\n"he" said,1\n', 4),
        ('text,label\n"x\ny",0\nb\n', 4),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, content: str, line: int) -> None:
    with pytest.raises(QualaError, match=f"line {line} (is malformed|has 1 columns)"):
        rows(tmp_path / "x.csv", content)


def test_quotes_in_csv_may_be_plain(tmp_path: Path) -> None:
    content = 'text,label\n"a stray quote,1\n'
    assert rows(tmp_path / "x.csv", content, quoting="plain")[0]["text"] == '"a stray quote'


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="line 1: the header repeats `text`"):
        rows(tmp_path / "x.csv", "text,text,label\na,b,1\n")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("x.jsonl", '{"text":"a","label":0}\n{"text":"b","label":0,"label":1}\n', "line 2"),
        ("x.json", '[{"text":"a","label":0},{"text":"b","label":0,"label":1}]', "record 2"),
        ("x.json", '[{"label": {"a": 0}}, {"label": [{"label":0,"label":1}]}]', "record 2"),
        ("x.json", '{"data":[{"paragraphs":[{"context":"", "label":0,"label":1}]}]}', "article 1"),
        ("x.json", '{"label":[],"label":[]}', "x.json`"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(
    tmp_path: Path, name: str, content: str, place: str
) -> None:
    with pytest.raises(QualaError, match=f"{place} has the key `label` twice"):
        rows(tmp_path / name, content)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_half_a_character_is_refused_and_a_whole_one_read(tmp_path: Path, name: str) -> None:
    whole = json.dumps({"text": "a \U0001f600", "label": 0})
    assert rows(tmp_path / name, whole + "\n" + whole)[1]["text"] == "a \U0001f600"
    with pytest.raises(QualaError, match=r"line 2 holds `\\ud83d`, half of a character"):
        rows(tmp_path / name, whole + "\n" + whole.replace("\\ude00", ""))


def test_options_of_tables_are_for_tables(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="are for TSV and CSV files"):
        rows(tmp_path / "x.json", json.dumps([{"text": "a"}]), header=False)


def test_the_tables_of_the_real_cases_are_read(real_data: Path) -> None:
    cases = real_data / "cases"
    read = {
        name: len(list(read_rows(cases / name)))
        for name in ("csv/sep/train.csv", "csv/long/train.csv", "shadowed_by_subfolder/train.csv")
    }
    assert set(read.values()) == {30}


@pytest.mark.parametrize("quoted", [True, False])
def test_sentences_of_mrpc_pass_through_tsv(real_data: Path, tmp_path: Path, quoted: bool) -> None:
    columns = pq.read_table(real_data / "glue/mrpc/train.parquet").to_pydict()
    lines = list(zip(columns["sentence1"], columns["sentence2"], map(str, columns["label"])))
    file = tmp_path / "train.tsv"
    with file.open("w", newline="") as stream:
        table = [("sentence1", "sentence2", "label"), *lines]
        if quoted:
            csv.writer(stream, delimiter="\t", lineterminator="\n").writerows(table)
        else:
            stream.write("\n".join("\t".join(line) for line in table))
    assert [tuple(row.values()) for _, row in read_rows(file)] == lines
    assert len(lines) == 3667


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        (
            b'{"info": {"features": {"label": {"names": ["no", "yes"]}, "text": {}}}}',
            ("no", "yes"),
        ),
        (b'{"info": {"features": {"label": {"names": null}}}}', None),
        (b'{"info": {"features": [1]}}', None),
        (b"[]", None),
        (b"?", None),
        (None, None),
    ],
)
def test_numbers_have_the_names_that_the_hub_gives_them(
    tmp_path: Path, facts: bytes | None, names: tuple[str, ...] | None
) -> None:
    metadata = None if facts is None else {b"huggingface": facts}
    table = pa.table({"text": ["a"], "label": [1]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "rows.parquet")
    assert class_names(tmp_path / "rows.parquet") == ({"label": names} if names else {})
    (tmp_path / "rows.csv").write_text("text,label\na,1\n")
    assert class_names(tmp_path / "rows.csv") == {}


BROKEN = pa.StringArray.from_buffers(
    2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")
)
"""Two texts, of which the second is no UTF-8."""


@pytest.mark.parametrize(
    "values", [BROKEN, pa.array([0, 2**62], pa.timestamp("us"))], ids=["text", "time"]
)
def test_a_value_of_parquet_that_python_does_not_have_is_named_by_its_row(
    values: pa.Array, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"text": values}), tmp_path / "train.parquet")
    with pytest.raises(QualaError, match=r"train.parquet`, record 2 cannot be read: "):
        list(read_rows(tmp_path / "train.parquet"))


def test_a_small_parquet_file_of_very_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.parquet"
    pq.write_table(pa.table({"text": ["a"] * 1000}), file)
    assert len(list(read_rows(file))) == 1000
    monkeypatch.setattr(files, "MOST_ROWS", 999)
    with pytest.raises(QualaError, match=r"has 1,000 rows of .* at most 999 rows and"):
        list(read_rows(file))


def test_a_pipe_is_neither_a_file_nor_a_split(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.json")
    with pytest.raises(QualaError, match="is a pipe or a device"):
        source_path(str(tmp_path / "train.json"), None, None)
    with pytest.raises(QualaError, match="no `train` split"):
        split_files(tmp_path, "train")


def test_questions_that_may_be_impossible_say_so_with_true_or_false(tmp_path: Path) -> None:
    question = {"id": "1", "question": "Who?", "answers": [], "is_impossible": "false"}
    content = {"data": [{"paragraphs": [{"context": "a", "qas": [question]}]}]}
    (tmp_path / "train.json").write_text(json.dumps(content), encoding="utf-8")
    spec = DataSpec(task="squad", path=str(tmp_path), unanswerable="drop")
    with pytest.raises(QualaError, match="question 1: `is_impossible` must be true or false"):
        read_squad(spec, "train")


@pytest.mark.parametrize("stored", [b"[" * 9999, b"\xff", b'{"info": {"features": {"a": 5}}}'])
def test_facts_of_another_writer_are_no_class_names(stored: bytes, tmp_path: Path) -> None:
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": stored})
    pq.write_table(table, tmp_path / "train.parquet")
    assert class_names(tmp_path / "train.parquet") == {}
