"""Predictions for the rows of files: streamed, in order, resumed, with failed rows named."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import ExportOf, FakeEngine

from quala.errors import QualaError
from quala.runtime import rows
from quala.runtime.answerer import QuestionAnswerer, load, load_answerer
from quala.runtime.card import Budget
from quala.runtime.rows import Model, RowJob, predict_rows
from quala.runtime.texts import Classifier, Embedder

WORDS = "The report of the committee was written by Anna in Paris".split()
ROWS = [
    {"id": number, "text": " ".join(WORDS[: 1 + number % 11]), "size": number / 4}
    for number in range(40)
]
COLUMNS = ["id", "text", "size", "prediction", "probability", "note", "error"]


@pytest.fixture(scope="module")
def model(export_of: ExportOf) -> Model:
    return load(export_of("classification"))


@pytest.fixture(scope="module")
def answerer(export_folder: Path) -> QuestionAnswerer:
    return load_answerer(export_folder)


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROWS", 8)


def write_jsonl(file: Path, found: Any) -> Path:
    file.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return file


def write_table(file: Path) -> Path:
    """Write ROWS in the format of the file's name."""
    packed = file.suffix == ".gz"
    opened: Callable[..., Any] = gzip.open if packed else open
    name = file.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=13)
        return file
    with opened(file, "wt", encoding="utf-8", newline="") as stream:
        if name.endswith(".jsonl"):
            stream.writelines(json.dumps(one) + "\n" for one in ROWS)
        elif name.endswith(".json"):
            json.dump(ROWS, stream)
        else:
            writer = csv.writer(stream, delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writerow(ROWS[0])
            writer.writerows(one.values() for one in ROWS)
    return file


def read_table(file: Path) -> list[dict[str, Any]]:
    packed = file.suffix == ".gz"
    opened: Callable[..., Any] = gzip.open if packed else open
    name = file.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        found: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return found
    with opened(file, "rt", encoding="utf-8", newline="") as stream:
        if name.endswith(".jsonl"):
            return [json.loads(line) for line in stream]
        return list(csv.DictReader(stream, delimiter="\t" if name.endswith(".tsv") else ","))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("in.jsonl", "out.jsonl"),
        ("in.jsonl.gz", "out.csv.gz"),
        ("in.csv", "out.parquet"),
        ("in.tsv.gz", "out.tsv"),
        ("in.parquet", "out.jsonl.gz"),
        ("in.parquet", "out.parquet"),
        ("in.jsonl", "out.parquet"),
        ("in.json", "out.csv"),
    ],
)
def test_each_format_has_the_same_rows_in_order(
    model: Classifier, source: str, target: str, tmp_path: Path
) -> None:
    data, out = write_table(tmp_path / source), tmp_path / target
    shares: list[float] = []
    done = predict_rows(model, RowJob(data=data, out=out), advance=shares.append)
    assert (done.rows, done.failed) == (40, 0)
    found = read_table(out)
    assert list(found[0]) == COLUMNS
    for row, one in zip(ROWS, found, strict=True):
        assert (int(one["id"]), one["text"], float(one["size"])) == tuple(row.values())
        alone = model.predict(str(row["text"]))
        assert one["prediction"] == alone.label
        assert float(one["probability"]) == pytest.approx(alone.scores[0].probability, abs=1e-4)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([source, target])
    if source != "in.json":
        assert sum(shares) == pytest.approx(1)
        assert len(shares) == 5


def test_types_of_a_parquet_file_stay(model: Model, tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "when": pa.array([1, 2], pa.timestamp("ms"))})
    pq.write_table(table, tmp_path / "in.parquet")
    job = RowJob(data=tmp_path / "in.parquet", out=tmp_path / "out.parquet", top_k=0)
    predict_rows(model, job)
    schema = pq.read_schema(job.out)
    assert schema.field("when").type == pa.timestamp("ms")
    assert schema.field("probability").type == pa.float64()
    (first, _) = pq.read_table(job.out).to_pylist()
    assert first["scores"][0]["label"] == first["prediction"]
    assert sum(one["probability"] for one in first["scores"]) == pytest.approx(1, abs=1e-5)


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("torn", [0, 7], ids=["between two steps", "within a line"])
@pytest.mark.parametrize("target", ["out.jsonl", "out.csv.gz", "out.parquet"])
def test_a_killed_job_goes_on(
    model: Classifier, target: str, torn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [*ROWS[:3], {"id": 3, "text": ""}, *ROWS[4:]]
    data = write_jsonl(tmp_path / "in.jsonl", found)
    (tmp_path / "whole").mkdir()
    model.pace(1.0)
    whole = RowJob(data=data, out=tmp_path / "whole" / target, budget=Budget(ms=30))
    predict_rows(model, whole)
    job = replace(whole, out=tmp_path / target)

    asked: list[str] = []
    run = model.run

    def dying(windows: Any) -> None:
        if len(asked) >= 3 * 8 - 1:
            raise Killed
        asked.extend(work.query.text for work, _ in windows)
        run(windows)

    monkeypatch.setattr(model, "run", dying)
    with pytest.raises(Killed):
        predict_rows(model, job)
    assert not job.out.exists()
    part = tmp_path / f"{target}.part"
    assert part.read_bytes().count(b"\n") == 24
    with part.open("ab") as stream:
        stream.write(b'{"note": null'[:torn])

    def counting(windows: Any) -> None:
        asked.extend(work.query.text for work, _ in windows)
        run(windows)

    monkeypatch.setattr(model, "run", counting)
    model.pace(123.0)  # of the process that was killed it was another one
    done = predict_rows(model, job)
    assert (done.rows, done.failed) == (40, 1)
    assert done.reasons == [(4, "The text is empty.")]
    assert asked == [one["text"] for one in found if one["text"]]
    assert job.out.read_bytes() == whole.out.read_bytes()
    assert not list(tmp_path.glob("*.part*"))


def test_a_step_that_is_torn_is_predicted_again(model: Model, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "whole").mkdir()
    whole = RowJob(data=data, out=tmp_path / "whole" / "out.jsonl")
    predict_rows(model, whole)
    job = replace(whole, out=tmp_path / "out.jsonl")
    with pytest.raises(Killed):
        predict_rows(model, job, advance=_kill_at(0.5))
    part = tmp_path / "out.jsonl.part"
    part.write_bytes(part.read_bytes()[:-5])
    predict_rows(model, job)
    assert job.out.read_bytes() == whole.out.read_bytes()


def _kill_at(share: float) -> Callable[[float], None]:
    done = 0.0

    def advance(more: float) -> None:
        nonlocal done
        done += more
        if done >= share:
            raise Killed

    return advance


def test_what_another_job_left_is_not_used(model: Model, tmp_path: Path) -> None:
    job = RowJob(data=write_jsonl(tmp_path / "in.jsonl", ROWS), out=tmp_path / "out.jsonl")
    with pytest.raises(Killed):
        predict_rows(model, job, advance=_kill_at(0.5))
    with pytest.raises(QualaError, match=r"out\.jsonl\.part` was begun with another budget"):
        predict_rows(model, replace(job, budget=Budget(keep=0.5)))
    write_jsonl(job.data, ROWS[:-1])
    with pytest.raises(QualaError, match="was begun with another data: remove it"):
        predict_rows(model, job)


HOSTILE = [
    b'{"id": 1, "text": "fine"}',
    b'{"id": 2}',
    b'{"id": 3, "text": ""}',
    b'{"id": 4, "text": NaN}',
    b'{"id": 5, "text": "cut',
    b'{"id": 6, "text": "\\ud800"}',
    b'["no", "object"]',
    b'{"id": 8, "text": "\xff"}',
    b"",
    b'{"id": 9, "text": "[SEP]"}',
    b'{"id": 10, "text": "' + b"LONG" + b'"}',
    b'{"id": 11, "text": "fine", "more": [1]}',
]


@pytest.mark.parametrize("target", ["out.jsonl", "out.csv", "out.parquet"])
def test_rows_that_cannot_be_are_named(model: Model, target: str, tmp_path: Path) -> None:
    words = 105_000 if target == "out.jsonl" else 100
    lines = b"\n".join(HOSTILE).replace(b"LONG", b"committee " * words)
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
    job = RowJob(data=tmp_path / "in.jsonl", out=tmp_path / target)
    done = predict_rows(model, job)
    assert done.rows == 11
    assert [place for place, _ in done.reasons] == [2, 3, 4, 5, 6, 7, 8, 9]
    told = dict(done.reasons)
    assert told[2] == "The row has no `text`."
    assert told[4] == "The text must be text, got float."
    assert told[5].startswith("line 5 is not valid JSON: Unterminated string")
    assert told[7] == "line 7 must be an object, got list."
    assert told[8] == "line 8 is no UTF-8 text."
    assert told[9] == "The tokenizer finds no words in the text."
    csv.field_size_limit(2**31 - 1)
    found = read_table(job.out)
    failed = [place for place, row in enumerate(found, start=1) if row["error"]]
    assert failed == [2, 3, 4, 5, 6, 7, 8, 9]
    assert all(not row["prediction"] for row in found if row["error"])
    assert re.fullmatch(r"The text has \d+ tokens, of which .* reads 64\.", found[9]["note"])
    assert str(found[8]["id"]).startswith("9")


def test_a_pair_that_the_first_row_lacks_is_not_ignored(model: Model, tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "pair": "c"}, {"text": "b", "pair": None}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    job = RowJob(data=tmp_path / "in.jsonl", out=tmp_path / "out.jsonl")
    done = predict_rows(model, job)
    assert done.reasons == [(2, "The row has a `pair`, which the first row does not have.")]
    texts = replace(job, columns={"text": "text"}, out=tmp_path / "texts.jsonl")
    assert predict_rows(model, texts).failed == 0


def test_rows_of_csv_that_cannot_be(model: Model, tmp_path: Path) -> None:
    lines = ["id,text", '1,"two\nlines"', "2,too,many", '3,"quote"d', "", "4,fine", "5"]
    (tmp_path / "in.csv").write_text("\r\n".join(lines), newline="")
    job = RowJob(data=tmp_path / "in.csv", out=tmp_path / "out.csv")
    done = predict_rows(model, job)
    assert [place for place, _ in done.reasons] == [2, 3, 5]
    found = read_table(job.out)
    assert [one["id"] for one in found] == ["1", "2", "", "4", "5"]
    assert found[0]["text"] == "two\r\nlines" or found[0]["text"] == "two\nlines"
    (tmp_path / "in.csv").write_text('id,text\n1,fine\n2,"never closed\n3,lost\n')
    job = replace(job, out=tmp_path / "other.csv")
    with pytest.raises(QualaError, match="a quote is not closed"):
        predict_rows(model, job)
    assert not job.out.exists()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"out": "out.txt"}, r"Unknown format of `--out` `\.txt`"),
    ({"out": "out.npy"}, r"Unknown format of `--out` `\.npy`"),
    ({"out": "no/out.csv"}, "a folder that does not exist"),
    ({"out": "out.parquet.gz"}, "Parquet is packed by itself"),
    ({"out": "in.jsonl"}, "exists already"),
    ({"data": "gone.jsonl"}, "does not exist"),
    ({"data": "empty.jsonl"}, r"No row of .* can be read|holds no rows"),
    ({"columns": {"texts": "text"}}, "Unknown name in `--columns` `texts`"),
    ({"columns": {"text": "texts"}}, "Unknown column `texts`. Did you mean `text`"),
    ({"columns": {"pair": "id"}}, "Which column is the text"),
    ({"budget": Budget(lengths=(9, 8, 7))}, "lengths"),
    ({"prefix": "my_"}, "column `my_note` already"),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED)
def test_jobs_that_cannot_be_are_refused_before_any_work(
    model: Model, changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"id": 1, "text": "a", "my_note": "b"}])
    (tmp_path / "empty.jsonl").write_text("\n")
    given = {"data": "in.jsonl", "out": "out.jsonl"} | changes
    given |= {name: tmp_path / given[name] for name in ("data", "out")}
    with pytest.raises(QualaError, match=sentence):
        predict_rows(model, RowJob(**given))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty.jsonl", "in.jsonl"]


def test_columns_of_other_names(model: Classifier, tmp_path: Path) -> None:
    found = [{"review": "a fine report", "note": "own", "on": "Paris"}]
    job = RowJob(
        data=write_jsonl(tmp_path / "in.jsonl", found),
        out=tmp_path / "out.jsonl",
        columns={"text": "review", "pair": "on"},
        prefix="said_",
    )
    predict_rows(model, job)
    (row,) = read_table(job.out)
    assert row["note"] == "own"
    assert row["said_prediction"] == model.predict("a fine report", "Paris").label


ASKED = [
    ("q1", "Who wrote the report?", "Its report was written by Anna, a lawyer."),
    ("q2", "Where?", "The committee met in Paris."),
    ("q2", "Again?", "The id is that of another."),
    ("q4", " ", "The question is empty."),
]


def test_answers_as_the_official_predictions(answerer: QuestionAnswerer, tmp_path: Path) -> None:
    articles = [
        {"title": "t", "paragraphs": [{"context": text, "qas": [{"id": one, "question": ask}]}]}
        for one, ask, text in ASKED
    ]
    (tmp_path / "dev.json").write_text(json.dumps({"data": articles}))
    job = RowJob(data=tmp_path / "dev.json", out=tmp_path / "predictions.json", n_best=3)
    done = predict_rows(answerer, job)
    assert done.reasons == [
        (3, "The id `q2` is that of an earlier row."),
        (4, "The question is empty."),
    ]
    found = json.loads(job.out.read_text())
    best = json.loads((tmp_path / "nbest_predictions.json").read_text())
    assert list(found) == list(best) == ["q1", "q2"]
    for identity, question, context in ASKED[:2]:
        reply = answerer.answer(question, context, top_k=3)
        assert found[identity] == reply.answers[0].text == best[identity][0]["text"]
        assert [one["text"] for one in best[identity]] == [one.text for one in reply.answers]


def test_answers_as_rows(answerer: QuestionAnswerer, tmp_path: Path) -> None:
    found = [{"ask": ask, "context": text} for _, ask, text in ASKED]
    job = RowJob(
        data=write_jsonl(tmp_path / "in.jsonl", found),
        out=tmp_path / "out.csv",
        columns={"question": "ask"},
    )
    assert predict_rows(answerer, job).failed == 1
    for row in read_table(job.out)[:3]:
        assert row["context"][int(row["start"]) : int(row["end"])] == row["answer"]


@pytest.mark.parametrize("target", ["out.npy", "out.parquet", "out.jsonl"])
def test_embeddings_of_rows(model: Classifier, target: str, tmp_path: Path) -> None:
    card = replace(model.facts, task=Embedder.task, labels=())
    engine = FakeEngine(lambda ids: np.stack([ids.sum(axis=1), ids[:, 1], ids[:, -2]], axis=1))
    embedder = Embedder(card, model.tokenizer, engine)
    data = write_jsonl(tmp_path / "in.jsonl", [*ROWS[:9], {"text": ""}])
    job = RowJob(data=data, out=tmp_path / target)
    assert predict_rows(embedder, job).failed == 1
    wanted = embedder.embed([str(one["text"]) for one in ROWS[:9]])
    if target == "out.npy":
        found = np.load(job.out)
        assert np.isnan(found[9]).all()
    else:
        found = np.array([one["embedding"] for one in read_table(job.out)[:9]], np.float32)
    assert (found[:9] == wanted).all()


def test_a_row_that_has_a_column_of_the_predictions_fails(model: Model, tmp_path: Path) -> None:
    found = [{"text": "a"}, {"text": "b", "prediction": "kept?"}]
    job = RowJob(data=write_jsonl(tmp_path / "in.jsonl", found), out=tmp_path / "out.jsonl")
    done = predict_rows(model, job)
    assert done.reasons == [(2, "The row has its own `prediction`, which is not kept.")]


def test_data_that_change_meanwhile_give_no_file(model: Model, tmp_path: Path) -> None:
    job = RowJob(data=write_jsonl(tmp_path / "in.jsonl", ROWS), out=tmp_path / "out.jsonl")
    with pytest.raises(QualaError, match="was changed while it was read"):
        predict_rows(model, job, advance=lambda share: write_jsonl(job.data, ROWS))
    assert not job.out.exists()


def test_two_commands_do_not_write_one_file(model: Model, tmp_path: Path) -> None:
    job = RowJob(data=write_jsonl(tmp_path / "in.jsonl", ROWS), out=tmp_path / "out.jsonl")

    def again(share: float) -> None:
        with pytest.raises(QualaError, match=r"Another command writes .*out\.jsonl\.part` now"):
            predict_rows(model, job)

    assert predict_rows(model, job, advance=again).rows == 40
