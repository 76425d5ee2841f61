"""Predict for the rows of a file: streamed, in their order, and resumed after a kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from quala.data.files import suffix_of
from quala.data.tables import WRITTEN, Kinds, Line, RowFile, write_rows
from quala.durable import located, read_whole, replacing, write_whole
from quala.errors import QualaError, unknown
from quala.manifest import MANIFEST
from quala.runtime.answerer import QuestionAnswerer
from quala.runtime.card import FILE, Budget, Query, Reply, check_words
from quala.runtime.prediction import Prediction, TextQuery
from quala.runtime.texts import Classifier, Embedder, Regressor, Tagger, TextPredictor

ROWS, CHARACTERS = 256, 2**18
"""Of one step, after which what was predicted is on disk: enough for batches of one length, and
seconds at most. Guesses."""
TOLD = 20
"""Failed rows that are named."""
NPY, ANSWERS = ".npy", ".json"
"""Files that hold no rows: an array of embeddings, and SQuAD's predictions {id: text}."""
Model = QuestionAnswerer | TextPredictor
Said = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowJob:
    """What to predict: rows of `data` to `out`, each within a budget.

    `columns` names the columns of `text` and `pair`, or `question`, `context` and `id`, where they
    have other names. `top_k` is that of `TextQuery`. `n_best` adds so many answers to a question.
    `prefix` stands before the names of the columns that are added.
    """

    data: Path
    out: Path
    columns: Mapping[str, str] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    top_k: int = 1
    n_best: int = 0
    prefix: str = ""
    quoting: str = "detect"


@dataclass(slots=True)
class RowsDone:
    """The rows that were read and those that failed, the first of them with reasons."""

    rows: int = 0
    failed: int = 0
    reasons: list[tuple[int, str]] = field(default_factory=list)

    def count(self, found: Iterable[Said]) -> None:
        """Add the next rows."""
        for one in found:
            self.rows += 1
            if one.get("error"):
                self.failed += 1
                if self.failed <= TOLD:
                    self.reasons.append((self.rows, one["error"]))


def predict_rows(
    model: Model, job: RowJob, *, advance: Callable[[float], object] = lambda share: None
) -> RowsDone:
    """Predict for all rows of a file, and write them with the predictions' columns.

    What is done is kept beside `out` as it goes; the same job goes on there after a kill and makes
    the same file. `out` is there only when it is whole. A row that fails has the reason in its
    column `error`, and no prediction. `advance` is called with shares of the whole. Raises
    QualaError, before anything is predicted, for files, columns and budgets that cannot be.
    """
    rows = _Rows(model, job)
    done, identity = RowsDone(), rows.identity()
    with _Spool(job.out).opened(identity, rows.pace) as spool:
        last = 0.0
        for chunk in rows.chunks():
            queries = rows.queries(chunk)
            found = spool.next(len(chunk))
            if found is None:
                found = rows.predicted(queries)
                spool.add(found)
            done.count(found)
            advance((chunk[-1].done - last) / (rows.source.total or 1.0))
            last = chunk[-1].done
        if rows.identity() != identity:
            raise QualaError(f"`{job.data}` was changed while it was read: nothing is written.")
        rows.write(spool)
    return done


class _Rows:
    """The rows of a job, as queries of its model."""

    def __init__(self, model: Model, job: RowJob) -> None:
        self.model, self.job = model, job
        self._check_out()
        model.facts.choose(replace(job.budget, strict=False), [model.facts.sequence_length])
        self.source = RowFile(job.data, quoting=job.quoting)
        names = self.source.columns
        if names is None:
            first = next((one for one in self.source if one.error is None), None)
            if first is None:
                raise QualaError(f"No row of `{job.data}` can be read.")
            names = tuple(first.row)
        self.columns = _columns(model, names, job.columns)
        self.null = may_be_null(model)
        added = added_columns(type(model), top_k=job.top_k, n_best=job.n_best, null=self.null)
        self.kinds = {f"{job.prefix}{name}": kind for name, kind in added.items()}
        both = sorted(self.kinds.keys() & set(names))
        if both and suffix_of(job.out) in WRITTEN:
            raise QualaError(
                f"`{job.data}` has a column `{both[0]}` already, as the predictions have: choose "
                "`--prefix`, which stands before their names."
            )
        self._seen: set[str] = set()

    def _check_out(self) -> None:
        job, suffix = self.job, suffix_of(self.job.out)
        own = {QuestionAnswerer: ANSWERS, Embedder: NPY}.get(type(self.model))
        allowed = [*WRITTEN, *([own] if own else [])]
        if suffix not in allowed or (suffix == own and job.out.suffix.lower() != own):
            raise unknown("format of `--out`", suffix or job.out.name, allowed)
        if job.out.suffix.lower() == ".gz" and suffix == ".parquet":
            raise QualaError(f"Parquet is packed by itself, got `{job.out}`.")
        if job.out.exists():
            raise QualaError(f"`{job.out}` exists already: remove it, or choose another `--out`.")
        if not job.out.absolute().parent.is_dir():
            raise QualaError(f"`--out` names a file in a folder that does not exist: `{job.out}`.")

    def identity(self) -> dict[str, Any]:
        """Return what a job that goes on must have in common with the one before."""
        source, facts = self.model.source, self.job.data.stat()
        files = [source / name for name in (FILE, MANIFEST)] if source else []
        digest = hashlib.sha256(b"".join(one.read_bytes() for one in files if one.is_file()))
        job = self.job
        budget = json.loads(json.dumps(asdict(job.budget)))
        return {
            "model": digest.hexdigest(),
            "data": [str(job.data.absolute()), facts.st_size, facts.st_mtime_ns],
            "budget": {name: one for name, one in budget.items() if one or name != "layers"},
            "columns": dict(self.columns),
            "options": [job.top_k, job.n_best, job.prefix, job.quoting, self.model.engine.name],
        }

    def pace(self, known: float | None) -> float | None:
        """Return how slow this machine is, as it was known; a budget in time depends on it."""
        return self.model.pace(known) if self.job.budget.ms is not None else None

    def chunks(self) -> Iterator[list[Line]]:
        """Yield the rows, as many at a time as are predicted together."""
        chunk: list[Line] = []
        size = 0
        for line in self.source:
            chunk.append(line)
            size += sum(len(str(line.row.get(column, ""))) for column in self.columns.values())
            if len(chunk) == ROWS or size >= CHARACTERS:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def queries(self, chunk: Sequence[Line]) -> list[Query | TextQuery | str]:
        """Return the query of each row, or why there is none."""
        found: list[Query | TextQuery | str] = []
        for line in chunk:
            try:
                found.append(self._query(line))
            except QualaError as error:
                found.append(str(error))
        return found

    def _query(self, line: Line) -> Query | TextQuery:
        if line.error is not None:
            raise QualaError(line.error)
        if suffix_of(self.job.out) in WRITTEN and (both := self.kinds.keys() & line.row.keys()):
            raise QualaError(f"The row has its own `{min(both)}`, which is not kept.")
        given = {}
        for role, column in self.columns.items():
            if column not in line.row:
                raise QualaError(f"The row has no `{column}`.")
            given[role] = line.row[column]
        if self.source.columns is None and self.model.pairs and "pair" not in given:
            more = [name for name in ("pair", "text_pair") if line.row.get(name) is not None]
            if more and not self.job.columns:
                raise QualaError(f"The row has a `{more[0]}`, which the first row does not have.")
        if isinstance(self.model, QuestionAnswerer):
            if suffix_of(self.job.out) == ANSWERS and "id" in given:
                self._check_id(given["id"])
            given.pop("id", None)
            top_k = max(1, self.job.n_best)
            return Query(**given, budget=self.job.budget, top_k=top_k)
        for role, value in given.items():
            check_words(role, value)
        return TextQuery(**given, budget=self.job.budget, top_k=self.job.top_k)

    def _check_id(self, identity: object) -> None:
        if isinstance(identity, bool) or not isinstance(identity, str | int | float):
            raise QualaError(f"The id must be a text or a number, got {type(identity).__name__}.")
        if str(identity) in self._seen:
            raise QualaError(f"The id `{identity}` is that of an earlier row.")
        self._seen.add(str(identity))

    def predicted(self, queries: Sequence[Query | TextQuery | str]) -> list[Said]:
        """Return what is added to each row."""
        model: Any = self.model
        asked = [one for one in queries if not isinstance(one, str)]
        works: list[Any]
        try:
            works = model.prepare(asked) if asked else []
        except QualaError:  # of one of them, which the others need not suffer from
            works = [_tried(lambda one: model.prepare([one])[0], one) for one in asked]
        able = [work for work in works if not isinstance(work, QualaError)]
        model.run([(work, window) for work in able for window in range(len(work.rows))])
        found = iter(works)
        said = []
        for one in queries:
            reply = QualaError(one) if isinstance(one, str) else next(found)
            if not isinstance(reply, QualaError):
                reply = _tried(model.finish, reply)
            said.append(
                {"error": str(reply)} if isinstance(reply, QualaError) else added_values(reply)
            )
        return said

    def write(self, spool: _Spool) -> None:
        """Write the output from what was predicted."""
        job, suffix = self.job, suffix_of(self.job.out)
        if suffix == ANSWERS and isinstance(self.model, QuestionAnswerer):
            files = {"nbest_": "answers"} if job.n_best else {}
            files |= {"na_prob_": "no_answer"} if self.null else {}
            for prefix, name in (files | {"": "answer"}).items():
                with replacing(job.out.with_name(f"{prefix}{job.out.name}")) as partial:
                    self._write_object(partial, spool, name)
            return
        with replacing(job.out) as partial:
            if suffix == NPY:
                self._write_array(partial, spool)
            else:
                names = [(name.removeprefix(job.prefix), name) for name in self.kinds]
                write_rows(
                    self.source,
                    lambda: ({own: one.get(name) for name, own in names} for one in spool),
                    self.kinds,
                    partial,
                    job.out,
                )

    def _write_object(self, file: Path, spool: _Spool, name: str) -> None:
        identity = self.columns.get("id")
        with file.open("w", encoding="utf-8", errors="backslashreplace") as text:
            before = "{\n"
            for number, (line, said) in enumerate(zip(self.source, spool, strict=True)):
                if not said.get("error"):
                    key = str(line.row[identity] if identity else number)
                    none = "" if said[name] is None else said[name]  # as SQuAD 2.0 has it
                    value = json.dumps(none, ensure_ascii=False)
                    text.write(f"{before}{json.dumps(key, ensure_ascii=False)}: {value}")
                    before = ",\n"
            text.write("{}\n" if before == "{\n" else "\n}\n")

    def _write_array(self, file: Path, spool: _Spool) -> None:
        sizes = [len(said.get("embedding") or ()) for said in spool]
        shape = len(sizes), max(sizes)
        array: Any = np.lib.format.open_memmap(file, "w+", np.dtype(np.float32), shape)
        for number, said in enumerate(spool):
            array[number] = np.nan if said.get("error") else said["embedding"]
        array.flush()


def _tried(call: Callable[[Any], Any], value: object) -> Any:
    """Return what a call returns, or why it refuses."""
    try:
        return call(value)
    except QualaError as error:
        return error


def _columns(model: Model, names: Collection[str], mapped: Mapping[str, str]) -> dict[str, str]:
    """Return the columns of the texts by what they are, as they are mapped or usually called."""
    asks, pairs = isinstance(model, QuestionAnswerer), model.pairs
    roles = ("question", "context", "id") if asks else ("text", "pair")[: 1 + pairs]
    for role, column in mapped.items():
        if role not in roles:
            raise unknown("name in `--columns`", role, roles)
        if column not in names:
            raise unknown("column", column, names)
    found = dict(mapped)
    if asks:
        found = {role: role for role in roles if role in names} | found
    elif not mapped:
        from quala.data.read import PAIRS, SINGLES  # what data sets call them

        own = (("text", "pair"), ("text", "text_pair"), ("query", "passage"))
        usual = [*((*own, *PAIRS) if pairs else ()), *((one,) for one in SINGLES)]
        found = next((dict(zip(roles, one)) for one in usual if set(one) <= set(names)), {})
    for role in roles[: 2 if asks else 1]:
        if role not in found:
            raise QualaError(
                f"Which column is the {role}? `--columns {role}=NAME` says it; there are "
                f"{', '.join(map(str, names))}."
            )
    return found


def may_be_null(model: Model) -> bool:
    """Return whether a model may say that a text does not answer a question."""
    return getattr(model.facts, "null_threshold", None) is not None


def added_columns(
    model: type[Model], *, top_k: int = 1, n_best: int = 0, null: bool = False
) -> Kinds:
    """Return the columns of predictions with their types, as `write_rows` has them."""
    found: dict[str, str] = {}
    if issubclass(model, QuestionAnswerer):
        found = {"answer": "text", "probability": "number", "start": "whole", "end": "whole"}
        found |= {"no_answer": "number"} if null else {}
        found |= {"answers": "json"} if n_best else {}
    elif issubclass(model, Classifier):
        found = {"prediction": "text", "probability": "number"}
        found |= {"scores": "json"} if top_k != 1 else {}
    elif issubclass(model, Regressor):
        found = {"prediction": "number"}
    elif issubclass(model, Tagger):
        found = {"entities": "json"}
    elif issubclass(model, Embedder):
        found = {"embedding": "json"}
    return found | {"note": "text", "error": "text"}


def added_values(reply: Reply | Prediction) -> Said:
    """Return the columns of a reply; numbers with six digits, embeddings as they are."""
    found: Said = {"note": reply.note}
    if isinstance(reply, Reply):
        answers = [_short(asdict(one)) for one in reply.answers]
        best: Said = answers[0] if answers else {}
        found |= {name: best.get(name) for name in ("probability", "start", "end")}
        found |= _short({"no_answer": reply.no_answer})
        return found | {"answer": best.get("text"), "answers": answers}
    if reply.embedding is not None:
        return found | {"embedding": list(reply.embedding)}
    if reply.value is not None:
        return found | _short({"prediction": reply.value})
    if reply.label is not None:
        scores = [_short(asdict(one)) for one in reply.scores]
        share = scores[0]["probability"]
        return found | {"prediction": reply.label, "probability": share, "scores": scores}
    return found | {"entities": [_short(asdict(one)) for one in reply.tags]}


def _short(values: Said) -> Said:
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in values.items()
    }


class _Spool:
    """What was predicted so far, a line a row, in a file beside the output."""

    def __init__(self, out: Path) -> None:
        self.file = out.with_name(f"{out.name}.part")
        self.facts = out.with_name(f"{out.name}.part.json")
        self._stream: IO[bytes]
        self._resumes = False

    @contextmanager
    def opened(
        self, identity: Mapping[str, Any], pace: Callable[[float | None], float | None]
    ) -> Iterator[_Spool]:
        """Go on with what the same job has left, or begin; remove it when the block is done.

        Raises QualaError for what another job has left, and while another process writes.
        """
        with located(self.file), self.file.open("a+b") as self._stream:
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise QualaError(f"Another command writes `{self.file}` now.") from error
            known = read_whole(self.facts)
            self._resumes = isinstance(known, dict)
            if isinstance(known, dict):
                other = [name for name, value in identity.items() if known.get(name) != value]
                if other:
                    raise QualaError(
                        f"`{self.file}` was begun with another {' and '.join(other)}: remove it "
                        f"and `{self.facts.name}`, or choose another `--out`."
                    )
                pace(known.get("pace"))
            else:
                self._stream.truncate(0)
                write_whole(self.facts, json.dumps({**identity, "pace": pace(None)}))
            self._stream.seek(0)
            yield self
            self.file.unlink()
            self.facts.unlink()

    def next(self, count: int) -> list[Said] | None:
        """Return the next rows if they are known; else forget those of them that are."""
        if not self._resumes:
            return None
        place = self._stream.tell()
        lines = [self._stream.readline() for _ in range(count)]
        if all(line.endswith(b"\n") for line in lines):
            return [json.loads(line) for line in lines]
        self._stream.truncate(place)
        self._stream.seek(place)
        self._resumes = False
        return None

    def add(self, found: Iterable[Said]) -> None:
        """Write the next rows; they are on disk when this returns."""
        self._stream.write(b"".join(json.dumps(one).encode() + b"\n" for one in found))
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def __iter__(self) -> Iterator[Said]:
        """Yield all rows."""
        with self.file.open("rb") as stream:
            for line in stream:
                yield json.loads(line)
