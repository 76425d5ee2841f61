from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quala.data.features import QAExample
from quala.data.read import (
    is_blank,
    knows_unanswerable,
    numbered_names,
    read_glue,
    read_squad,
    remarks,
    source_files,
    split_sources,
)
from quala.data.spec import DataSpec
from quala.data.task import Classes, Value
from quala.errors import QualaError

ROW: dict[str, Any] = {
    "id": "1",
    "title": "Cats",
    "context": "The cat sat.",
    "question": "Who sat?",
    "answers": {"text": ["The cat"], "answer_start": [0]},
}
SQUAD: dict[str, Any] = {
    "version": "1.1",
    "data": [
        {
            "title": "Cats",
            "paragraphs": [
                {
                    "context": "The cat sat.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who sat?",
                            "answers": [{"text": "The cat", "answer_start": 0}],
                        }
                    ],
                }
            ],
        }
    ],
}


def squad(path: Path, **fields: Any) -> DataSpec:
    return DataSpec(task="squad", path=str(path), **fields)


def glue(path: Path, **fields: Any) -> DataSpec:
    return DataSpec(task="glue", path=str(path), **fields)


def deep(levels: int) -> list[Any]:
    """Return lists in one another."""
    found: list[Any] = []
    for _ in range(levels - 1):
        found = [found]
    return found


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def impossible() -> dict[str, Any]:
    content = json.loads(json.dumps(SQUAD))
    extra = {"id": "2", "question": "Who ran?", "answers": [], "is_impossible": True}
    content["data"][0]["paragraphs"][0]["qas"].append(extra)
    return content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.json", SQUAD),
        ("train-v1.1.json", SQUAD),
        ("train.json", [ROW]),
        ("train.json", json.dumps(ROW) + "\n" + json.dumps({**ROW, "id": "2"}) + "\n"),
        ("train.jsonl", "\ufeff" + json.dumps(ROW) + "\n\n"),
        ("data/train-00000-of-00001.jsonl", json.dumps(ROW)),
    ],
)
def test_questions_are_read_from_every_json(tmp_path: Path, name: str, content: object) -> None:
    write(tmp_path / name, content)
    example = read_squad(squad(tmp_path), "train")[0]
    assert (example.id, example.title, example.answers) == ("1", "Cats", ("The cat",))
    assert example.answer_starts == (0,)


def test_questions_are_read_from_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([ROW]), tmp_path / "validation.parquet")
    assert read_squad(squad(tmp_path), "validation")[0].question == "Who sat?"


def test_a_dev_file_is_the_validation_split(tmp_path: Path) -> None:
    write(tmp_path / "dev-v1.1.json", SQUAD)
    assert len(read_squad(squad(tmp_path), "validation")) == 1


def test_shards_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        write(tmp_path / f"train-0000{number}.jsonl", json.dumps({**ROW, "id": str(number)}))
    assert [example.id for example in read_squad(squad(tmp_path), "train")] == ["0", "1"]


def test_ids_and_titles_may_be_missing(tmp_path: Path) -> None:
    rows = [{key: ROW[key] for key in ("context", "question", "answers")}] * 2
    write(tmp_path / "train.json", rows)
    assert [example.id for example in read_squad(squad(tmp_path), "train")] == ["0", "1"]


def test_unanswerable_questions_are_refused_with_the_way_out(tmp_path: Path) -> None:
    write(tmp_path / "train.json", impossible())
    with pytest.raises(
        QualaError, match=r"question 2: .*`data.unanswerable=drop`.*`data.unanswerable=keep`"
    ):
        read_squad(squad(tmp_path), "train")


def test_unanswerable_questions_can_be_dropped(tmp_path: Path) -> None:
    write(tmp_path / "train.json", impossible())
    kept = read_squad(squad(tmp_path, unanswerable="drop"), "train")
    assert [example.id for example in kept] == ["1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": None}, "record 2: `context` must be a string, got nothing"),
        ({"context": 3}, "`context` must be a string, got int"),
        ({"answers": "cat"}, "`answers` must hold"),
        ({"answers": {"text": ["The cat"], "answer_start": [1]}}, "does not stand at"),
        ({"answers": {"text": ["The cat"], "answer_start": []}}, "lists of equal length"),
        ({"answers": {"text": ["The cat"], "answer_start": ["0"]}}, "whole number"),
        ({"answers": {"text": [7], "answer_start": [0]}}, "must be a string"),
        ({"question": "  "}, "question `2` has no text; `data.unanswerable=drop`"),
        ({"question": "\u200b"}, "question `2` has no text"),
        ({"context": " "}, "does not stand at"),
        ({"answers": {"text": [" "], "answer_start": [3]}}, "does not stand at"),
        ({"id": "1"}, "repeats the question id `1`"),
        ({"id": {"a": 1}}, "`id` must be a string or a number, got dict"),
        ({"id": [1]}, "`id` must be a string or a number, got list"),
        ({"id": True}, "`id` must be a string or a number, got bool"),
        ({"answers": {"text": ["The cat"], "answer_start": [False]}}, "whole number from 0"),
        ({"answers": {"text": ["The cat"], "answer_start": [0.0]}}, "whole number from 0"),
        ({"answers": {"text": ["The cat"], "answer_start": [-1]}}, "whole number from 0"),
        ({"title": "\ud800"}, r"holds `\\ud800`, half of a character"),
        ({"more": deep(101)}, "is nested deeper than 100"),
    ],
)
def test_malformed_records_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path / "train.json", [ROW, {**ROW, "id": "2", **change}])
    with pytest.raises(QualaError, match=message) as error:
        read_squad(squad(tmp_path), "train")
    assert "record 2" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.json", "", "is empty"),
        ("train.json", '{"data": [{"title": "Cats", "para', "line 1 is not valid JSON"),
        ("train.json", {"rows": []}, "must hold a list of records or SQuAD's `data`"),
        ("train.json", {"data": [{"title": "x"}]}, "article 1 has no `paragraphs`"),
        ("train.json", {"data": [{"paragraphs": []}, ROW]}, "article 2 has no `paragraphs`"),
        ("train.json", {"data": []}, "holds no rows"),
        ("train.json", '[\n{"a": ' + "[" * 9999, "line 2 is nested deeper than 100"),
        ("train.jsonl", '\n{"a": ' + "[" * 9999, "line 2 is nested deeper than 100"),
        ("train.json", '[\n{"id": ' + "9" * 5000 + "}]", "line 2 has a number that is too long"),
        ("train.jsonl", '{"id": -' + "9" * 5000 + "}", "line 1 has a number that is too long"),
        ("train.csv", "text,label\na\0b,1\n", "line 2 has a NUL character"),
        ("train.jsonl", json.dumps(ROW) + "\n{", "line 2 is not valid JSON"),
        ("train.jsonl", "[1]", "must be an object, got list"),
        ("train.parquet", "not parquet", "not a readable parquet file"),
    ],
)
def test_broken_files_are_refused(
    tmp_path: Path, name: str, content: object, message: str
) -> None:
    write(tmp_path / name, content)
    with pytest.raises(QualaError, match=message):
        read_squad(squad(tmp_path), "train")


def test_text_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(QualaError, match="UTF-8"):
        read_squad(squad(tmp_path), "train")


def test_a_missing_path_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "squad").mkdir()
    with pytest.raises(QualaError, match=r"Did you mean `.*squad`"):
        read_squad(squad(tmp_path / "sqaud"), "train")


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "x")
    with pytest.raises(QualaError, match=r"no `train` split.*found no data files"):
        read_squad(squad(tmp_path), "train")


def test_an_unknown_file_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QualaError, match="Unknown data file format"):
        read_squad(squad(write(tmp_path / "train.xml", "x")), "train")


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", json.dumps(ROW))
    with pytest.raises(QualaError, match="no `validation` split"):
        read_squad(squad(tmp_path), "validation")


@pytest.mark.parametrize(
    "columns",
    [
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("question", "sentence"),
        ("text_a", "text_b"),
    ],
)
def test_pairs_are_read_from_every_naming(tmp_path: Path, columns: tuple[str, str]) -> None:
    first, second = columns
    write(tmp_path / "train.json", [{first: "a", second: "b", "label": n} for n in (0, 1)])
    examples, _ = read_glue(glue(tmp_path), "train")
    assert [(e.text, e.text_pair, e.label) for e in examples] == [("a", "b", 0), ("a", "b", 1)]


def test_tsv_with_stray_quotes(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", 'sentence\tlabel\n"a stray quote\t1\nit\'s "fine"\t0\n')
    examples, _ = read_glue(glue(tmp_path), "train")
    assert [(e.text, e.label) for e in examples] == [('"a stray quote', 1), ('it\'s "fine"', 0)]


def test_csv_with_quoted_commas_and_line_breaks(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", 'text,label\n"a, b\nc",good\nd,bad\n')
    examples, task = read_glue(glue(tmp_path), "train")
    assert [(e.text, e.label) for e in examples] == [("a, b\nc", 1), ("d", 0)]
    assert isinstance(task, Classes)
    assert task.names == ("bad", "good")


@pytest.mark.parametrize(
    ("labels", "names", "values"),
    [
        ([0, 2, 1], ("0", "1", "2"), [0, 2, 1]),
        ([0.0, 1.0], ("0", "1"), [0, 1]),
        (["yes", "no"], ("no", "yes"), [1, 0]),
        ([0.5, 1.0], None, [0.5, 1.0]),
    ],
)
def test_labels_are_read_as_what_they_are(
    tmp_path: Path, labels: list[Any], names: tuple[str, ...] | None, values: list[float]
) -> None:
    write(tmp_path / "train.json", [{"text": "a", "label": label} for label in labels])
    examples, task = read_glue(glue(tmp_path), "train")
    assert task == (Value() if names is None else Classes(len(names), names=names))
    assert [example.label for example in examples] == values


def test_whole_numbers_of_stsb_are_values(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [{"text": "a", "score": 5}, {"text": "b", "score": 0}])
    examples, task = read_glue(glue(tmp_path, subset="stsb"), "train")
    assert isinstance(task, Value)
    assert [example.label for example in examples] == [5.0, 0.0]


def test_test_labels_are_indexed_as_those_of_train(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [{"text": "a", "label": name} for name in "abc"])
    write(tmp_path / "test.json", [{"text": "a", "label": "c"}])
    spec = glue(tmp_path, test_split="test")
    task = read_glue(spec, "train")[1]
    assert read_glue(spec, "test", task=task)[0][0].label == 2
    write(tmp_path / "test.json", [{"text": "a", "label": "d"}])
    with pytest.raises(QualaError, match="`d` is not one of train's labels: a, b, c"):
        read_glue(spec, "test", task=task)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a", "label": -1}], "unlabeled split"),
        ([{"text": "a", "label": None}], "unlabeled split"),
        ([{"text": "a"}], "has no `label`"),
        ([{"body": "a", "label": 1}], "has no text column"),
        ([{"text": 1, "label": 1}], "`text` must be a string"),
        ([{"text": "a", "label": [1]}], "must be a number or a string"),
        ([{"text": "a", "label": "0" + "9" * 5000}], "`label` has 5,001 characters, a label at"),
        ([{"text": "a", "label": 10**400}], "record 1: `label` must be finite"),
        ([{"text": "a", "label": float("-inf")}], "record 1: `label` must be finite"),
        (
            [{"text": "a", "label": 1}, {"text": "b", "label": float("nan")}],
            "record 2 has no label",
        ),
    ],
)
def test_malformed_sentences_are_named(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    write(tmp_path / "train.json", rows)
    with pytest.raises(QualaError, match=message):
        read_glue(glue(tmp_path), "train")


def test_a_row_with_too_few_columns_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "sentence\tlabel\na\t1\nb\n")
    with pytest.raises(QualaError, match="line 3 has 1 columns, the header 2"):
        read_glue(glue(tmp_path), "train")


def test_a_subset_is_a_sub_folder(tmp_path: Path) -> None:
    write(tmp_path / "sst2" / "train.json", [{"sentence": "a", "label": 1}])
    examples, _ = read_glue(glue(tmp_path, subset="sst2"), "train")
    assert examples[0].text == "a"


def test_only_the_files_of_both_splits_count(tmp_path: Path) -> None:
    for name in ("train.json", "dev.json", "test.json"):
        write(tmp_path / name, SQUAD)
    files = source_files(squad(tmp_path))
    assert files == {"train": [tmp_path / "train.json"], "test": [tmp_path / "dev.json"]}


def test_a_misspelt_subset_reads_no_other_task(tmp_path: Path) -> None:
    for name in ("CoLA", "SST-2"):
        write(tmp_path / name / "train.json", [{"sentence": name, "label": 1}])
    assert read_glue(glue(tmp_path, subset="sst-2"), "train")[0][0].text == "SST-2"
    with pytest.raises(QualaError, match=r"`sst-3`.* Allowed: CoLA, SST-2"):
        read_glue(glue(tmp_path, subset="sst-3"), "train")
    with pytest.raises(QualaError, match=r"Unknown `subset`"):
        read_squad(squad(tmp_path / "CoLA", subset="sst2"), "train")


def test_sources_are_named_relative_to_the_path(tmp_path: Path) -> None:
    names = ["train-00000-of-00002.json", "train-00001-of-00002.json", "dev.json"]
    for name in names:
        write(tmp_path / "SST-2" / name, SQUAD)
    expected = {"train": [f"SST-2/{name}" for name in names[:2]], "test": ["SST-2/dev.json"]}
    assert split_sources(glue(tmp_path, subset="sst2")) == expected
    file = glue(tmp_path / "SST-2/dev.json")
    assert split_sources(file) == {"train": ["dev.json"], "test": ["dev.json"]}
    hub = DataSpec(task="squad", name="rajpurkar/squad", revision="abc")
    assert split_sources(hub) == {
        "train": ["rajpurkar/squad@abc train"],
        "test": ["rajpurkar/squad@abc validation"],
    }


def test_one_file_for_both_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.json", SQUAD)
    with pytest.raises(QualaError, match=r"`data.train_split` train and .* training are one file"):
        source_files(squad(tmp_path, test_split="training"))


REVIEWS = [
    {"review": "a", "reply": "b", "stars": n, "sentence1": "c", "sentence2": "d"} for n in (0, 1)
]


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"text": "review", "label": "stars"}, ("a", None)),
        ({"text": "review", "text_pair": "reply", "label": "stars"}, ("a", "b")),
        ({"label": "stars"}, ("c", "d")),
    ],
)
def test_columns_are_read_by_other_names(
    tmp_path: Path, columns: dict[str, str], texts: tuple[str, str | None]
) -> None:
    write(tmp_path / "train.json", REVIEWS)
    examples, _ = read_glue(glue(tmp_path, columns=columns), "train")
    assert [(e.text, e.text_pair, e.label) for e in examples] == [(*texts, 0), (*texts, 1)]


def test_columns_of_questions_are_read_by_other_names(tmp_path: Path) -> None:
    row = {"key": "7", "passage": "The cat sat.", "query": "Who?", "gold": ROW["answers"]}
    write(tmp_path / "train.json", [row])
    columns = {"id": "key", "context": "passage", "question": "query", "answers": "gold"}
    example = read_squad(squad(tmp_path, columns=columns), "train")[0]
    assert (example.id, example.context, example.question) == ("7", "The cat sat.", "Who?")
    assert example.answers == ("The cat",)


def test_a_mapped_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.json", REVIEWS)
    with pytest.raises(QualaError, match=r"in `data.columns.text` `reviw`.* mean `review`"):
        read_glue(glue(tmp_path, columns={"text": "reviw"}), "train")


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        (
            "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            '1\t7\t8\t" Yes , " he said .\tHe agreed .',
            ('" Yes , " he said .', "He agreed .", "1"),
        ),
        (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            "0\t1\t2\tq\tr\t1",
            ("q", "r", "1"),
        ),
        ("index\tsentence1\tsentence2\tlabel1\tgold_label", "0\ta\tb\tx\tno", ("a", "b", "no")),
        ("gj04\t0\t*\tThey drank the pub.", "gj04\t1\t\tHe sank.", ("He sank.", None, "1")),
    ],
)
def test_the_original_files_of_glue_are_read(
    tmp_path: Path, header: str, row: str, expected: tuple[str, str | None, str]
) -> None:
    write(tmp_path / "train.tsv", f"{header}\n{row}\n")
    examples, task = read_glue(glue(tmp_path), "train")
    example = examples[-1]
    assert isinstance(task, Classes)
    assert (example.text, example.text_pair, task.names[int(example.label or 0)]) == expected


def test_a_file_without_header_is_read_by_numbers(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "good,1\nbad,0\n")
    with pytest.raises(QualaError, match=r"no text column.*got good, 1; .*`data.header=false`"):
        read_glue(glue(tmp_path), "train")
    spec = glue(tmp_path, header=False, columns={"text": "1", "label": "2"})
    examples, _ = read_glue(spec, "train")
    assert [(e.text, e.label) for e in examples] == [("good", 1), ("bad", 0)]


@pytest.mark.parametrize("label", ["", " ", "NaN", "nan", "<NA>", "-1"])
def test_a_missing_label_is_refused_with_its_line(tmp_path: Path, label: str) -> None:
    write(tmp_path / "train.csv", f"text,label\na,0\nb,{label}\n")
    with pytest.raises(QualaError, match=r"train.csv`, line 3 has no label"):
        read_glue(glue(tmp_path), "train")


@pytest.mark.parametrize("label", [None, float("nan")])
def test_a_missing_label_in_parquet_is_refused(tmp_path: Path, label: float | None) -> None:
    table = pa.table({"text": ["a", "b"], "label": pa.array([0.0, label], from_pandas=False)})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(QualaError, match="record 2 has no label"):
        read_glue(glue(tmp_path), "train")


def test_no_agreement_on_a_gold_label_is_no_class(tmp_path: Path) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "gold_label": name} for name in ("neutral", "-")]
    write(tmp_path / "train.json", rows)
    with pytest.raises(QualaError, match="record 2 has no label"):
        read_glue(glue(tmp_path), "train")


def misaligned() -> list[dict[str, Any]]:
    """Three questions; the answer of the second one stands elsewhere."""
    astray = {"text": ["The cat"], "answer_start": [1]}
    return [ROW, {**ROW, "id": "2", "answers": astray}, {**ROW, "id": "3"}]


def test_misaligned_answers_can_be_dropped_with_their_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "train.json", misaligned())
    with pytest.raises(QualaError, match=r"record 2: .*answer_start 1; `data.misaligned=drop`"):
        read_squad(squad(tmp_path), "train")
    kept = read_squad(squad(tmp_path, misaligned="drop"), "train")
    assert [example.id for example in kept] == ["1", "3"]
    said = caplog.messages[-1]
    assert f"1 misaligned questions are left out: `{file}`, record 2 (question `2`)" in said


def test_without_offsets_the_texts_are_enough(tmp_path: Path) -> None:
    rows = [*misaligned(), {**ROW, "id": "4", "answers": {"text": ["sat"]}}]
    write(tmp_path / "train.json", rows)
    read = read_squad(squad(tmp_path), "train", offsets=False)
    assert [(one.answers, one.answer_starts) for one in read] == [(("The cat",), ())] * 3 + [
        (("sat",), ())
    ]


@pytest.mark.parametrize(
    "answers",
    [
        {"text": [], "answer_start": []},
        {"text": [""], "answer_start": [-1]},
        {"text": ["", ""], "answer_start": [0, 0]},
        {"text": [""], "answer_start": [None]},
        [],
        [{"text": "", "answer_start": -1}],
    ],
)
def test_empty_answers_are_none(tmp_path: Path, answers: object) -> None:
    write(tmp_path / "train.json", [ROW, {**ROW, "id": "2", "answers": answers}])
    with pytest.raises(QualaError, match=r"record 2: question `2` has no answer"):
        read_squad(squad(tmp_path), "train")
    kept = read_squad(squad(tmp_path, unanswerable="drop"), "train")
    assert [example.id for example in kept] == ["1"]


def test_questions_without_a_text_can_be_dropped(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [ROW, {**ROW, "id": "2", "question": "\u200b "}])
    left_out: dict[str, int] = {}
    kept = read_squad(squad(tmp_path, unanswerable="drop"), "train", left_out=left_out)
    assert [example.id for example in kept] == ["1"]
    assert left_out == {"train: questions without a text": 1}


@pytest.mark.parametrize(
    ("text", "blank"),
    [("", True), (" \t\u3000", True), ("\u200b\ufeff", True), (".", False), ("a\u200b", False)],
)
def test_a_blank_text_has_no_visible_character(text: str, blank: bool) -> None:
    assert is_blank(text) is blank


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["\u5317\u4eac", "\u0e01\u0e02", "Rome"], True),
        (["\u5317\u4eac", "Rome"], False),
        (["\u5317\u4eac"], True),
        (["\ud55c\uad6d", "\u03c0"], False),
    ],
)
def test_answers_without_blanks_between_words_are_noted(answers: list[str], said: bool) -> None:
    asked = [QAExample(str(n), "", "", "?", (text,)) for n, text in enumerate(answers)]
    assert ["mostly without blanks between words" in one for one in remarks(asked, "test")] == (
        [True] if said else []
    )


def test_answers_may_be_a_list_of_objects(tmp_path: Path) -> None:
    write(tmp_path / "train.json", [{**ROW, "answers": [{"text": "cat", "answer_start": 4}]}])
    example = read_squad(squad(tmp_path), "train")[0]
    assert (example.answers, example.answer_starts) == (("cat",), (4,))


def test_the_hub_is_asked_for_name_subset_split_and_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    asked: list[object] = []

    def load(name: str, subset: str | None, *, split: str, revision: str | None) -> list[Any]:
        asked.append((name, subset, split, revision))
        return [ROW]

    monkeypatch.setattr(datasets, "load_dataset", load)
    spec = DataSpec(task="squad", name="rajpurkar/squad", revision="abc")
    assert read_squad(spec, "train")[0].id == "1"
    assert asked == [("rajpurkar/squad", None, "train", "abc")]


def test_the_hub_names_numbered_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    rows = datasets.Dataset.from_dict(
        {"text": ["a"], "label": [1]}, features=datasets.Features(kinds)
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    spec = DataSpec(task="glue", name="owner/questions", subset="plain")
    assert numbered_names(spec) == ("no", "yes")
    assert read_glue(spec, "train")[1].names == ("1",)
    assert numbered_names(replace(spec, columns={"label": "text"})) == ()


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*_: object, **__: object) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(QualaError, match="does not load: no route to the hub"):
        read_squad(DataSpec(task="squad", name="rajpurkar/squad"), "train")


@pytest.mark.parametrize(
    "row",
    [
        {"answers": {"text": [], "answer_start": []}},
        {"answers": {"text": [""], "answer_start": [-1]}},
        {"answers": [], "is_impossible": True},
        {"answers": [], "is_impossible": None},
        {"answers": {"text": [], "answer_start": []}, "plausible_answers": {"text": ["sat"]}},
    ],
)
@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_unanswerable_rows_are_kept(tmp_path: Path, kind: str, row: dict[str, Any]) -> None:
    extra = {**ROW, "id": "2", **row}
    if kind == "json":
        write(tmp_path / "train.json", [ROW, extra])
    else:
        pq.write_table(pa.Table.from_pylist([extra]), tmp_path / "train.parquet")
    last = read_squad(squad(tmp_path, unanswerable="keep"), "train")[-1]
    assert (last.id, last.answers, last.answer_starts) == ("2", (), ())


@pytest.mark.parametrize("plausible", [[], [{"text": "The cat", "answer_start": 0}]])
def test_official_unanswerable_questions_are_kept(
    tmp_path: Path, plausible: list[dict[str, Any]]
) -> None:
    content = impossible()
    content["data"][0]["paragraphs"][0]["qas"][1]["plausible_answers"] = plausible
    write(tmp_path / "train-v2.0.json", content)
    left_out: dict[str, int] = {}
    examples = read_squad(squad(tmp_path, unanswerable="keep"), "train", left_out=left_out)
    assert [(one.id, one.answers) for one in examples] == [("1", ("The cat",)), ("2", ())]
    assert not left_out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"is_impossible": True}, "question `2` has answers, and `is_impossible` is true"),
        (
            {"is_impossible": False, "answers": []},
            "question `2` has no answer, and `is_impossible` is false",
        ),
        ({"is_impossible": "no"}, "`is_impossible` must be true or false, got `no`"),
        ({"question": " "}, "has no text; `data.unanswerable=drop`"),
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_contradictions_about_answers_are_refused(
    tmp_path: Path, nested: bool, change: dict[str, Any], sentence: str
) -> None:
    if nested:
        content = json.loads(json.dumps(SQUAD))
        questions = content["data"][0]["paragraphs"][0]["qas"]
        questions.append({**questions[0], "id": "2", **change})
    else:
        content = [ROW, {**ROW, "id": "2", **change}]
    write(tmp_path / "train.json", content)
    place = "question 2: " if nested else "record 2: "
    with pytest.raises(QualaError, match=f"train.json`, {place}.*{sentence}"):
        read_squad(squad(tmp_path, unanswerable="keep"), "train")


def test_data_know_of_unanswerable_questions(tmp_path: Path) -> None:
    def knows(rows: list[dict[str, Any]]) -> bool:
        write(tmp_path / "train.json", rows)
        spec = squad(tmp_path, unanswerable="keep")
        return knows_unanswerable(spec, "train", read_squad(spec, "train"))

    assert not knows([ROW])
    assert knows([ROW, {**ROW, "id": "2", "answers": []}])
    assert knows([{**ROW, "is_impossible": False}])
