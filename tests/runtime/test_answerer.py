"""Answers within budgets, from text to characters."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import FakeEngine
from unanswerable import with_threshold

import quala
from quala.cli.answer import work_text
from quala.errors import QualaError
from quala.lengths import LengthConfig, Units
from quala.manifest import check_folder
from quala.runtime.answerer import QuestionAnswerer, load, load_answerer
from quala.runtime.card import LOADED, SHIPPED, Budget, Point, Query, shipped
from quala.runtime.engine import Inputs

QUESTION = "Who wrote the report?"
CONTEXT = "The committee met in Paris. Its report was written by Anna, a lawyer, in the spring."


@pytest.fixture(scope="module")
def answerer(export_folder: Path) -> QuestionAnswerer:
    return load(export_folder)


def test_answers_are_pieces_of_the_context(answerer: QuestionAnswerer) -> None:
    reply = answerer.answer(QUESTION, CONTEXT, top_k=3)
    assert len(reply.answers) == 3
    for answer in reply.answers:
        assert CONTEXT[answer.start : answer.end] == answer.text
    scores = [answer.score for answer in reply.answers]
    assert scores == sorted(scores, reverse=True)
    assert reply.lengths == (128, 128)
    assert reply.milliseconds > 0


def test_answers_are_those_of_the_evaluation(export_folder: Path, tiny_checkpoint: Path) -> None:
    """The runtime cuts windows and decodes as the test set is scored."""
    from transformers import AutoTokenizer

    from quala.data.spec import DataSpec
    from quala.data.taskdata import TaskData

    spec = DataSpec(task="squad", name="demo", max_length=128, doc_stride=32, max_test=6)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    part = TaskData(spec, tokenizer).test
    answerer = load(export_folder)
    queries = [Query(question=one.question, context=one.context) for one in part.examples]
    _, features = answerer.features(queries)
    assert (features.input_ids == part.features.input_ids).all()
    assert (features.char_spans == part.features.char_spans).all()
    assert (features.segment_one == part.features.segment_one).all()


def test_a_batch_equals_single_answers(answerer: QuestionAnswerer) -> None:
    budgets = [Budget(), Budget(keep=0.8), Budget(lengths=(60, 20)), Budget(keep=0.8)]
    queries = [
        Query(question=QUESTION, context=CONTEXT + " More words." * n, budget=budget)
        for n, budget in enumerate(budgets)
    ]
    for reply, query in zip(answerer.answer_batch(queries), queries, strict=True):
        (alone,) = answerer.answer_batch([query])
        assert reply.lengths == alone.lengths
        assert [a.text for a in reply.answers] == [a.text for a in alone.answers]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_windows_that_run_among_others_give_the_same_reply(
    answerer: QuestionAnswerer, size: int
) -> None:
    budgets = [Budget(), Budget(keep=0.8), Budget(lengths=(60, 20))]
    queries = [
        Query(question=QUESTION, context=CONTEXT * times, budget=budget, survivors=times == 7)
        for times, budget in zip((20, 7, 1), budgets)
    ]
    works = [work for query in queries for work in answerer.prepare([query])]
    windows = [(work, window) for work in works for window in range(len(work.tokens))]
    windows = windows[::2] + windows[1::2]
    for first in range(0, len(windows), size):
        answerer.run(windows[first : first + size])
    for work, whole in zip(works, answerer.answer_batch(queries), strict=True):
        reply = answerer.finish(work)
        assert reply.milliseconds > 0
        assert replace(reply, milliseconds=whole.milliseconds) == whole


def test_a_long_context_is_windowed(answerer: QuestionAnswerer) -> None:
    reply = answerer.answer(QUESTION, CONTEXT * 20)
    assert reply.windows > 3
    assert reply.answers[0].text in CONTEXT * 20


@pytest.mark.parametrize(
    ("budget", "lengths"),
    [
        ({}, (128, 128)),
        ({"keep": 1.0}, (128, 128)),
        ({"lengths": (100, 50)}, (100, 50)),
        ({"budget_macs": 1e12}, (128, 128)),
        ({"budget_ms": 1e6}, (128, 128)),
    ],
)
def test_a_budget_buys_the_best_point(
    answerer: QuestionAnswerer, budget: dict[str, object], lengths: tuple[int, ...]
) -> None:
    reply = answerer.answer(QUESTION, CONTEXT, **budget)  # type: ignore[arg-type]
    assert (reply.lengths, reply.note) == (lengths, None)


def test_a_share_of_the_work_is_kept(answerer: QuestionAnswerer) -> None:
    tokens = [40]
    work = [point.macs(answerer.facts.arch, tokens) for point in answerer.facts.front]
    point, _ = answerer.facts.choose(Budget(keep=(work[1] + 1) / work[0]), tokens)
    assert point.lengths.lengths == (128, 40)


def test_the_cheapest_answers_below_the_front(answerer: QuestionAnswerer) -> None:
    reply = answerer.answer(QUESTION, CONTEXT, budget_macs=10)
    assert reply.lengths == (60, 20)
    assert reply.note is not None
    assert "cheapest" in reply.note


def test_strict_refuses_a_budget_below_the_front(answerer: QuestionAnswerer) -> None:
    with pytest.raises(QualaError, match="No point of the front"):
        answerer.answer(QUESTION, CONTEXT, budget_ms=1e-9, strict=True)


def test_survivors_are_told_layer_by_layer(answerer: QuestionAnswerer) -> None:
    query = Query(
        question=QUESTION, context=CONTEXT, budget=Budget(lengths=(60, 20)), survivors=True
    )
    (reply,) = answerer.answer_batch([query])
    first, second = reply.layers
    assert second.kept < first.kept < first.tokens
    assert set(second.spans) <= set(first.spans)
    assert all(CONTEXT[start:end].strip() for start, end in first.spans)


@pytest.mark.parametrize(
    ("question", "context", "match"),
    [
        ("", CONTEXT, "question is empty"),
        (QUESTION, "  \n", "context is empty"),
        (QUESTION, 3, "must be text, got int"),
        (QUESTION, "\u200b\u200b", "context has no words"),
        ("\u200b \ufeff", CONTEXT, "question has no words"),
        ("\x00\x07", CONTEXT, "question has no words"),
        ("\u0301", CONTEXT, "no words in the question"),  # an accent, which the tokenizer drops
        ("[PAD] [PAD]", CONTEXT, "no words in the question"),
        ("[SEP]", CONTEXT, "no words in the question"),
        (QUESTION, "[PAD] [SEP]", "no words in the context"),
        (QUESTION, "[PAD] " * 300, "no words in the context"),
        ("Who \ud800?", CONTEXT, "question is not valid Unicode at character 4"),
        (QUESTION, "Ada \udcff", "context is not valid Unicode at character 4"),
    ],
)
def test_text_that_is_none_is_refused(
    answerer: QuestionAnswerer, question: str, context: str, match: str
) -> None:
    with pytest.raises(QualaError, match=match):
        answerer.answer(question, context)


def test_one_question_without_words_among_others_is_refused(answerer: QuestionAnswerer) -> None:
    queries = [
        Query(question=text, context=CONTEXT * times)
        for text, times in (("Who?", 20), ("[PAD]", 20), ("?", 1))
    ]
    assert len(answerer.answer_batch([queries[0], queries[2]])) == 2
    with pytest.raises(QualaError, match="no words in the question"):
        answerer.answer_batch(queries)


def test_a_question_that_is_cut_is_said(answerer: QuestionAnswerer) -> None:
    most = answerer.facts.max_question_length
    whole = " ".join(["who"] * most)
    assert answerer.answer(whole, CONTEXT).note is None
    reply, same = (answerer.answer(whole + more, CONTEXT, keep=1) for more in (" who", " it it"))
    assert reply.note == "The question has 65 tokens, of which the model reads the first 64."
    assert reply.answers == same.answers
    both = answerer.answer(whole + " who", CONTEXT, budget_macs=10).note
    assert both is not None
    assert "No point of the front" in both
    assert both.endswith("reads the first 64.")


def test_all_the_answers_wanted_are_given(answerer: QuestionAnswerer) -> None:
    context = CONTEXT * 2
    assert len(answerer.answer(QUESTION, context, top_k=20).answers) == answerer.facts.n_best
    more = answerer.answer(QUESTION, context, top_k=50).answers
    assert len({(answer.start, answer.end) for answer in more}) == 50
    assert more[0].text == answerer.answer(QUESTION, context).answers[0].text


def test_special_tokens_in_text_are_those_of_transformers(
    answerer: QuestionAnswerer, tiny_checkpoint: Path
) -> None:
    """Training, transformers and serving read the same ids, whatever the text holds."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    question, context = "Who [SEP] wrote?", f"[SEP] Anna [PAD]. [CLS] {CONTEXT} [MASK]"
    _, features = answerer.features([Query(question=question, context=context)])
    assert features.input_ids.tolist() == tokenizer(question, context)["input_ids"]


def test_numbers_may_be_those_of_numpy(answerer: QuestionAnswerer) -> None:
    reply = answerer.answer(QUESTION, CONTEXT, lengths=np.array([60, 20]), top_k=np.int64(2))
    assert reply.lengths == (60, 20)
    assert len(reply.answers) == 2
    assert answerer.answer(QUESTION, CONTEXT, keep=np.float32(1)).lengths == (128, 128)


@pytest.mark.parametrize(
    ("budget", "match"),
    [
        ({"budget_ms": 0}, "above 0"),
        ({"budget_ms": float("nan")}, "above 0"),
        ({"keep": 1.5}, "at most 1"),
        ({"keep": 0.5, "budget_ms": 3}, "one of ms, macs, keep, lengths"),
        ({"lengths": (64, 32, 16)}, "Expected 2 lengths"),
        ({"lengths": (20, 60)}, "must not grow"),
        ({"lengths": (600, 60)}, "must not exceed"),
        ({"lengths": (10**30, 60)}, "must not exceed"),
        ({"lengths": "384"}, "`lengths` must be whole numbers, got '384'"),
        ({"lengths": 60}, "`lengths` must be whole numbers, got 60"),
        ({"lengths": [60.0, 20.0]}, "`lengths` must be whole numbers"),
        ({"keep": "0.5"}, "`keep` must be a number above 0, got '0.5'"),
        ({"keep": True}, "`keep` must be a number above 0, got True"),
        ({"budget_ms": "5"}, "`ms` must be a number above 0"),
        ({"budget_macs": [1]}, "`macs` must be a number above 0"),
        ({"top_k": 0}, "`top_k` must be a whole number from 1 to 100, got 0"),
        ({"top_k": 101}, "from 1 to 100, got 101"),
        ({"top_k": True}, "from 1 to 100, got True"),
        ({"top_k": "2"}, "from 1 to 100, got '2'"),
        ({"top_k": 2.0}, r"from 1 to 100, got 2\.0"),
    ],
)
def test_budgets_that_cannot_be_are_refused(
    answerer: QuestionAnswerer, budget: dict[str, object], match: str
) -> None:
    with pytest.raises(QualaError, match=match):
        answerer.answer(QUESTION, CONTEXT, **budget)  # type: ignore[arg-type]


def test_the_shipped_model_answers_at_every_point() -> None:
    model = quala.load("minilm-squad")
    context = "The difference engine was designed by Charles Babbage; Ada Lovelace wrote of it."
    best = model.answer("Who designed the engine?", context).answers[0]
    assert best.text == "Charles Babbage"
    for point in model.facts.front:
        reply = model.answer("Who designed it?", context, lengths=point.lengths.lengths)
        assert reply.answers[0].text in context


def test_the_package_loads_a_folder(export_folder: Path) -> None:
    assert isinstance(quala.load(export_folder), QuestionAnswerer)


def test_a_folder_wins_over_a_shipped_model_of_its_name(
    export_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(export_folder, tmp_path / "minilm-squad")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="`minilm-squad` is the folder here"):
        assert load("minilm-squad").facts.name == "tiny"
    for named in ("./minilm-squad", Path("minilm-squad")):
        assert load(named).facts.name == "tiny"


def test_a_path_is_no_name() -> None:
    for named in ("./minilm-squad", Path("minilm-squad")):
        with pytest.raises(QualaError, match="is no folder"):
            load(named)


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("quala.json", None, "is no export"),
        ("quala.json", "{", "is no export"),
        ("quala.json", '{"kind": "export", "format": 99}', "format 99"),
        ("quala.json", '{"kind": "export", "format": 1}', "damaged"),
        ("tokenizer.json", None, "tokenizer"),
        ("tokenizer.json", "{}", "tokenizer"),
        ("model.onnx", None, "no file"),
        ("model.onnx", "no graph at all", "graph"),
    ],
)
def test_a_damaged_folder_is_refused(
    export_folder: Path, tmp_path: Path, file: str, content: str | None, match: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(export_folder, folder)
    (folder / "manifest.json").unlink()  # as in exports of older versions
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(QualaError, match=match):
        load(folder)


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "`n_best` must be a whole number": lambda facts: facts.update(n_best="x"),
    "`significance` must be text, got null": lambda facts: facts.update(significance=None),
    "`front` must be a list": lambda facts: facts.update(front=5),
    "`front[0].ms.8` must be a finite number": lambda facts: facts["front"][0]["ms"].update(
        {"8": "1"}
    ),
    "`front[0].ms` must hold times above 0": lambda facts: facts["front"][0]["ms"].update(
        {"8": -1.0}
    ),
    "the first point of `front` must be the full length": lambda facts: facts["front"].pop(0),
    "`layers` must be at least 1": lambda facts: facts["arch"].update(layers=10**9),
    "`arch.hidden` must be a whole number": lambda facts: facts["arch"].update(hidden=10**30),
    "`sequence_length` is 500": lambda facts: facts.update(sequence_length=500, front=[
        {**facts["front"][0], "lengths": [500, 500]}]),
    "it has 2 layers and 2 outputs, the card 3 and 2": lambda facts: (
        facts["arch"].update(layers=3),
        [one["lengths"].append(one["lengths"][-1]) for one in facts["front"]],
    ),
    "is the tokenizer of another model": lambda facts: facts["arch"].update(vocabulary=9),
}  # fmt: skip


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_card_is_one_sentence(export_folder: Path, tmp_path: Path, said: str) -> None:
    folder = shutil.copytree(export_folder, tmp_path / "copy")
    (folder / "manifest.json").unlink()
    facts = json.loads((folder / "quala.json").read_text(encoding="utf-8"))
    WRONG[said](facts)
    (folder / "quala.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(QualaError, match=re.escape(said)):
        load(folder)


@pytest.mark.parametrize("name", LOADED)
def test_a_file_of_another_export_is_refused(
    export_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(export_folder, tmp_path / "copy")
    shutil.copy(SHIPPED / "minilm-squad" / name, folder / name)
    with pytest.raises(QualaError, match=rf"{name}` has .* bytes instead of .*is damaged"):
        load(folder)


def test_a_read_me_may_be_edited(export_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(export_folder, tmp_path / "copy")
    (folder / "README.md").write_text("Ours.")
    (folder / "LICENSE").write_text("Ours, too.")
    assert load(folder).facts.name == "tiny"


@pytest.mark.parametrize("name", shipped())
def test_what_comes_with_quala_is_whole(name: str) -> None:
    listed = json.loads((shipped()[name] / "manifest.json").read_text(encoding="utf-8"))
    assert set(LOADED) <= set(listed)
    check_folder(shipped()[name])


def test_a_tokenizer_that_makes_the_library_panic_is_refused(
    export_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(export_folder, tmp_path / "copy")
    (folder / "manifest.json").unlink()
    facts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    facts["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(QualaError, match="Could not read a tokenizer"):
        load(folder)


def test_a_checkpoint_is_no_export(tiny_checkpoint: Path) -> None:
    with pytest.raises(QualaError, match="is no export"):
        load(tiny_checkpoint)


def test_a_model_of_another_task_answers_no_questions(export_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(export_folder, folder)
    facts = json.loads((folder / "quala.json").read_text(encoding="utf-8"))
    text = json.dumps(facts | {"task": "classification"})
    (folder / "quala.json").write_text(text, encoding="utf-8")
    (folder / "manifest.json").unlink()
    with pytest.raises(QualaError, match="its task is classification: use `quala predict`"):
        load_answerer(folder)
    text = json.dumps(facts | {"task": "parsing"})
    (folder / "quala.json").write_text(text, encoding="utf-8")
    with pytest.raises(QualaError, match="the task parsing, for which quala has no predictor"):
        load(folder)


def test_answering_needs_no_torch(export_folder: Path) -> None:
    code = (
        "import sys, quala\n"
        f"model = quala.load({str(export_folder)!r})\n"
        "assert model.answer('Who?', 'It was Anna.').answers\n"
        "assert not {'torch', 'transformers', 'mlflow', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_answer_is_the_reply_above_the_threshold(export_folder: Path, tmp_path: Path) -> None:
    plain = load(export_folder)
    asked = [
        Query(question=question, context=context, top_k=3)
        for question, context in (
            ("Who wrote the report?", "Its report was written by Anna, a lawyer."),
            ("Where is it?", "the cat sat on the mat " * 40),
            ("Who?", "a"),
        )
    ]
    expected = plain.answer_batch(asked)
    assert all(one.no_answer is None for one in expected)
    works = plain.prepare(asked)
    ahead = []
    for work, reply in zip(works, expected, strict=True):
        plain.run([(work, window) for window in range(len(work.rows))])
        lowest = min(float(work.logits[row][0].sum()) for row in work.rows)
        ahead.append(lowest - reply.answers[0].score)
    assert len(works[1].rows) > 1
    middle = sorted(ahead)[1]
    found = load(with_threshold(export_folder, tmp_path / "null", middle)).answer_batch(asked)
    for far, reply, before in zip(ahead, found, expected, strict=True):
        assert reply.answers == (() if far > middle + 1e-6 else before.answers)
        assert reply.no_answer == pytest.approx(1 / (1 + math.exp(middle - far)), abs=1e-5)


@pytest.mark.parametrize("threshold", ["1", True, 1e30])
def test_a_threshold_that_is_no_number_is_refused(
    threshold: Any, export_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(QualaError, match="`null_threshold` must be a finite number"):
        load(with_threshold(export_folder, tmp_path / "null", threshold))


def test_a_sub_network_runs_where_a_budget_buys_it(answerer: QuestionAnswerer) -> None:
    card = answerer.facts
    half = card.full.lengths.of((Units(1, 32), None))
    card = replace(card, front=(*card.front, Point.unmeasured(card.arch, half)))
    ran: list[LengthConfig | None] = []

    class Recording(FakeEngine):
        def logits(self, inputs: Inputs, lengths: LengthConfig | None) -> Any:
            ran.append(lengths)
            return super().logits(inputs, lengths)

    model = QuestionAnswerer(
        card, answerer.tokenizer, Recording(lambda ids: np.zeros((*ids.shape, 2)))
    )
    reply = model.answer(QUESTION, CONTEXT, layers="1x32,-")
    assert (reply.lengths, reply.units) == ((128, 128), "1x32,-")
    assert model.answer(QUESTION, CONTEXT).units is None
    assert ran[:2] == [half, card.full.lengths]
    assert work_text(reply, 128).endswith("128,128 of 128, heads x neurons 1x32 without layer 2")
