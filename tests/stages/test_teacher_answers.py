"""Teachers of other tokenizers, files and several teachers, through real stages."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from unanswerable import questions, write_official

from quala.checkpoint import load_with_data, predict
from quala.data.characters import LOWEST, CharacterAnswers, log_softmax
from quala.data.spec import DataSpec
from quala.data.teacher_file import ClassAnswers, write_teacher_file
from quala.errors import QualaError
from quala.stages import STAGES
from quala.stages.options import OWN_TEACHER
from quala.stages.teacher import translated, translated_ids
from quala.stages.teacher_answers import UNTAUGHT, mean_answer
from quala.stages.teacher_cache import AnswerStore
from quala.workflow import StageContext

STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
SOFT = {"hard": 0.0, "soft": 1.0, "relation": 0.0, "layers": None}
Run = Callable[..., tuple[dict[str, torch.Tensor], list[dict[str, float]]]]


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def run(
    configure: Any, spec: DataSpec, tiny_checkpoint: Path, tmp_path: Path, recording: Any
) -> Run:
    """Return a stage as a function: options in, weights and logged figures out."""

    def done(
        stage: str = "distill", name: str = "d", data: DataSpec = spec, **changes: Any
    ) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
        own = {key: changes.pop(key) for key in ("model", "teacher") if key in changes}
        config = configure(stage, **{"max_steps": 2, **STILL, **changes})
        recorder = recording()
        output, scratch = tmp_path / name / "output", tmp_path / name / "scratch"
        for folder in (output, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        context = StageContext(stage, output, scratch, recorder=recorder)
        inputs = {"data": data, "teacher": tiny_checkpoint, **own}
        STAGES[stage].function()(config, context, inputs)
        weights = output / "model.safetensors"
        return load_file(weights) if weights.is_file() else {}, recorder.figures

    return done


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MobileBERT, which is no family of quala's, over a byte-level tokenizer of RoBERTa's."""
    from data.conftest import byte_level
    from transformers import MobileBertConfig, MobileBertForQuestionAnswering

    tokenizer = byte_level()
    tokenizer.model_max_length = 96
    config = MobileBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, intra_bottleneck_size=16, embedding_size=16,
        max_position_embeddings=128, num_feedforward_networks=1, pad_token_id=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("foreign")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MobileBertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gold(spec: DataSpec, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that says the gold span of every training question."""
    examples: Any = load_with_data(tiny_checkpoint, spec).data.train.examples
    places = [
        [[one.answer_starts[0]], [one.answer_starts[0] + len(one.answers[0])]] for one in examples
    ]
    found = CharacterAnswers(
        np.array(places), np.zeros((len(places), 2, 1)), np.zeros(len(places))
    )
    file = tmp_path_factory.mktemp("gold") / "gold.npz"
    write_teacher_file(file, [one.id for one in examples], found)
    return file


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("distill", SOFT),
        (
            "length_adapt",
            {"teacher": 1.0, "hard": 0.0, "teacher_for_subs": True, "num_sandwich": 0},
        ),
        (
            "quantize",
            {
                "method": "qat",
                "teacher": 1.0,
                "hard": 0.0,
                "teacher_for_subs": True,
                "num_sandwich": 0,
            },
        ),
    ],
)
def test_any_model_and_a_file_teach_every_stage(
    run: Run, foreign: Path, gold: Path, tiny_checkpoint: Path, stage: str, options: dict[str, Any]
) -> None:
    term = "train/soft" if stage == "distill" else "train/teacher"
    own = {} if stage == "distill" else {"model": tiny_checkpoint}
    losses = {}
    for name, teachers in {
        "foreign": [str(foreign)], "gold": [str(gold)], "both": [str(foreign), str(gold)],
    }.items():  # fmt: skip
        _, figures = run(stage, name, teachers=teachers, learning_rate=0.0, **own, **options)
        losses[name] = figures[1][term]  # the first batch has one window, without an answer
    assert len({round(loss, 4) for loss in losses.values()}) == 3
    assert all(0 < loss < 20 for loss in losses.values()), losses


def test_a_perfect_teacher_is_as_good_as_the_labels(run: Run, gold: Path) -> None:
    options = {"max_steps": 24, "epochs": 20, "learning_rate": 5e-3}
    hard, _ = run(name="hard", hard=1.0, soft=0.0, relation=0.0, layers=None, **options)
    soft, figures = run(name="soft", **SOFT, teachers=[str(gold)], **options)
    losses = [one["train/soft"] for one in figures if "train/soft" in one]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    # A soft label of probability 1 and a hard one have the same gradient.
    for name in hard:
        torch.testing.assert_close(soft[name], hard[name], atol=2e-3, rtol=1e-2)


def test_a_teacher_of_the_same_tokens_answers_window_by_window(
    run: Run, tiny_checkpoint: Path, spec: DataSpec, tmp_path: Path
) -> None:
    teachers = [OWN_TEACHER, str(tiny_checkpoint)]
    run(name="stored", **SOFT, teachers=teachers, max_steps=None)
    opened = load_with_data(tiny_checkpoint, spec)
    features = opened.data.train.features
    outputs = predict(opened.model.eval(), features, batch_size=8, pad_to=None)
    expected = np.concatenate([log_softmax(one.T).T for one in outputs])
    stored = np.load(tmp_path / "stored/scratch/teachers/logits.npy")
    np.testing.assert_allclose(stored, expected, atol=1e-5)


def test_inner_states_come_from_the_teacher_and_answers_from_the_others(
    run: Run, gold: Path
) -> None:
    options = {**SOFT, "layers": 1, "relation": 1.0, "max_steps": 1}
    _, alone = run(name="alone", **options)
    _, both = run(name="both", **options, teachers=[str(gold)])
    assert both[0]["train/relation"] == pytest.approx(alone[0]["train/relation"])
    assert both[0]["train/soft"] > 2 * alone[0]["train/soft"]


def test_the_weights_are_shares_of_the_mean() -> None:
    one, other = np.log([[0.5], [0.5]]), np.log([[1.0], [1e-20]])
    found = mean_answer([one, other], np.array([3.0, 1.0]), shape=(2, 1), values=False)
    np.testing.assert_allclose(np.exp(found), [[0.625], [0.375]], rtol=1e-6)
    alone = mean_answer([None, other], np.array([3.0, 1.0]), shape=(2, 1), values=False)
    np.testing.assert_allclose(alone, [[0], [LOWEST]], atol=1e-6)
    nobody = mean_answer([None, None], np.array([3.0, 1.0]), shape=(2, 1), values=False)
    assert (nobody == UNTAUGHT).all()
    values = mean_answer(
        [np.array([1.0]), np.array([5.0])], np.array([3, 1]), shape=(1,), values=True
    )
    assert values.tolist() == [2.0]


def test_examples_that_a_file_lacks_are_refused_or_skipped(
    run: Run, gold: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = dict(np.load(gold))
    some = tmp_path / "some.npz"
    np.savez(some, **{name: values[:-2] for name, values in whole.items()})
    with pytest.raises(QualaError, match="no answers to 2 of 24 training examples, such as"):
        run(**SOFT, teachers=[str(some)])
    with caplog.at_level(logging.WARNING, logger="quala.stages.distill"):
        _, figures = run(**SOFT, teachers=[str(some)], teacher_missing="skip", max_steps=None)
    assert "have no soft labels" in caplog.text
    assert all(np.isfinite(one.get("train/soft", 0)) for one in figures)


def test_a_file_of_other_data_is_refused(run: Run, gold: Path, tmp_path: Path) -> None:
    whole = dict(np.load(gold))
    whole["character"] = whole["character"] + 100_000
    np.savez(tmp_path / "other.npz", **whole)
    with pytest.raises(QualaError, match=r"beyond a context of .* is it of other data"):
        run(**SOFT, teachers=[str(tmp_path / "other.npz")])


def test_answers_go_on_where_they_were_killed(
    run: Run, foreign: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = {**SOFT, "teachers": [str(foreign)], "batch_size": 1, "checkpoint_minutes": 1e-9}
    whole, _ = run(name="whole", max_steps=20, **options)
    with monkeypatch.context() as patched:
        original = AnswerStore.commit

        def killed(self: AnswerStore, written: Any) -> None:
            original(self, written)
            raise Killed

        patched.setattr(AnswerStore, "commit", killed)
        with pytest.raises(Killed):
            run(name="resumed", max_steps=20, **options)
    asked: list[int] = []
    original_write = AnswerStore.write

    def counted(self: AnswerStore, slots: Any, *rest: Any) -> None:
        asked.append(len(slots))
        original_write(self, slots, *rest)

    monkeypatch.setattr(AnswerStore, "write", counted)
    resumed, _ = run(name="resumed", max_steps=20, **options)
    stored = np.load(tmp_path / "resumed/scratch/teachers/logits.npy")
    assert np.array_equal(stored, np.load(tmp_path / "whole/scratch/teachers/logits.npy"))
    assert 0 < sum(asked) < 20
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.fixture
def classifier(tiny_tokenizer_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A maker of classifiers of two classes, `names` in their order."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    def made(name: str, names: tuple[str, ...] = (), seed: int = 0) -> Path:
        tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=128, num_labels=2,
            **({"id2label": dict(enumerate(names))} if names else {}),
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            BertForSequenceClassification(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return made


def test_classes_are_mapped_by_name(
    run: Run, classifier: Any, sentences: DataSpec, tmp_path: Path
) -> None:
    named = dataclasses.replace(sentences, labels=("bad", "good"))
    student = classifier("student", ("bad", "good"))
    examples: Any = load_with_data(student, named).data.train.examples
    table = np.array([[0.9, 0.1] if one.label else [0.2, 0.8] for one in examples])
    ids = [one.id for one in examples]
    losses = {}
    for name, labels in {"a": ("good", "bad"), "b": ("bad", "good")}.items():
        file = tmp_path / f"{name}.npz"
        columns = table if labels[0] == "good" else table[:, ::-1]
        write_teacher_file(file, ids, ClassAnswers(columns, labels))
        _, figures = run(name=name, data=named, **SOFT, teacher=student, teachers=[str(file)])
        losses[name] = [one["train/soft"] for one in figures if "train/soft" in one]
    assert losses["a"] == pytest.approx(losses["b"], rel=1e-6)
    other = tmp_path / "other.npz"
    write_teacher_file(other, ids, ClassAnswers(table, ("good", "awful")))
    with pytest.raises(QualaError, match="good, awful, the student's bad, good: they must be the"):
        run(name="c", data=named, **SOFT, teacher=student, teachers=[str(other)])


def test_a_classifier_of_another_tokenizer_teaches_by_the_names_of_its_classes(
    run: Run, classifier: Any, sentences: DataSpec, other_ids: Any
) -> None:
    named = dataclasses.replace(sentences, labels=("bad", "good"))
    student = classifier("student", ("bad", "good"))
    teacher = classifier("teacher", ("good", "bad"), seed=1)
    swapped = other_ids(teacher, head="classifier", rows=[1, 0])
    _, first = run(name="a", data=named, **SOFT, teacher=student, teachers=[str(teacher)])
    _, second = run(name="b", data=named, **SOFT, teacher=student, teachers=[str(swapped)])
    assert first[0]["train/soft"] == pytest.approx(second[0]["train/soft"], rel=1e-4)


@pytest.fixture
def other_ids(tiny_vocabulary: list[str], tmp_path: Path) -> Callable[..., Path]:
    """A maker of the same model under other ids and special tokens; head rows may be swapped."""
    import json

    from transformers import BertTokenizer

    special = {
        "[PAD]": "<pad>",
        "[UNK]": "<unk>",
        "[CLS]": "<s>",
        "[SEP]": "</s>",
        "[MASK]": "<mask>",
    }

    def made(source: Path, *, head: str = "", rows: Any = (), lost: str = "") -> Path:
        folder = shutil.copytree(source, tmp_path / f"{source.name}-other{lost}")
        order = torch.randperm(len(tiny_vocabulary), generator=torch.Generator().manual_seed(1))
        words = [special.get(one, one) for one in tiny_vocabulary]
        words = [f"{one}_" if one == lost else one for one in words]
        vocabulary = {words[int(old)]: new for new, old in enumerate(order)}
        names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special.values(), strict=True))
        tokenizer = BertTokenizer(
            vocab=vocabulary, do_lower_case=True, model_max_length=128,
            **{f"{role}_token": token for role, token in names.items()},
        )  # fmt: skip
        tokenizer.save_pretrained(folder)
        weights = load_file(folder / "model.safetensors")
        key = "bert.embeddings.word_embeddings.weight"
        weights[key] = weights[key][order].clone()
        config = json.loads((folder / "config.json").read_text())
        config["pad_token_id"] = vocabulary["<pad>"]
        if rows:
            config["id2label"] = {
                str(new): config["id2label"][str(old)] for new, old in enumerate(rows)
            }
            for part in ("weight", "bias"):
                weights[f"{head}.{part}"] = weights[f"{head}.{part}"][list(rows)].clone()
        (folder / "config.json").write_text(json.dumps(config))
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    return made


INNER = {"hard": 0.0, "soft": 0.0, "hidden": 1.0, "attention": 1.0, "relation": 1.0}


def test_inner_states_of_permuted_ids_are_those_of_the_model_itself(
    run: Run, other_ids: Any, tiny_checkpoint: Path, supernet: Path
) -> None:
    options = {**INNER, "layers": None, "model": supernet, "learning_rate": 1e-4}
    _, first = run(name="a", **options, teacher=tiny_checkpoint)
    _, second = run(name="b", **options, teacher=other_ids(tiny_checkpoint))
    for name in ("hidden", "attention", "relation"):
        assert first[0][f"train/{name}"] > 0
        assert second[0][f"train/{name}"] == pytest.approx(first[0][f"train/{name}"], rel=1e-4)


def test_ids_that_do_not_map_one_to_one_are_refused_by_name_of_the_loss(
    run: Run, other_ids: Any, tiny_checkpoint: Path, foreign: Path, gold: Path
) -> None:
    lost = other_ids(tiny_checkpoint, lost="the")
    options = {"model": tiny_checkpoint, "layers": None}
    with pytest.raises(QualaError, match=r"\(hidden, attention, relation\).*no token `the`"):
        run(**INNER, **options, teacher=lost)
    with pytest.raises(QualaError, match=r"\(relation\) need a model as their teacher"):
        run(soft=1.0, relation=1.0, **options, teacher=gold)
    # Answers alone are mapped by characters.
    for name, teacher in {"lost": lost, "gold": gold, "foreign": foreign}.items():
        _, figures = run(name=name, **{**SOFT, **options, "teacher": teacher})
        assert figures[0]["train/soft"] > 0


def test_a_file_teaches_a_student_although_the_workflow_has_no_fine_tuned_teacher(
    run: Run, tiny_checkpoint: Path, gold: Path, tmp_path: Path
) -> None:
    backbone = shutil.copytree(tiny_checkpoint, tmp_path / "backbone")
    weights = load_file(backbone / "model.safetensors")
    kept = {name: one for name, one in weights.items() if "qa_outputs" not in name}
    save_file(kept, backbone / "model.safetensors", {"format": "pt"})
    with pytest.raises(QualaError, match="has no head for question-answering"):
        run(**SOFT, model=backbone, teacher=backbone)
    _, figures = run(**SOFT, model=backbone, teacher=backbone, teachers=[str(gold)])
    assert figures[0]["train/soft"] > 0


def test_a_teacher_that_knows_no_null_is_told_or_refused(
    run: Run, supernet: Path, other_ids: Any, foreign: Path, tiny_checkpoint: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    write_official(tmp_path, train=24, test=8)
    data = DataSpec(
        task="squad", path=str(tmp_path), unanswerable="keep", max_length=64, doc_stride=16,
        max_question_length=24, search_size=4, selection_size=4,
    )  # fmt: skip
    lost = other_ids(supernet, lost="the")
    with pytest.raises(QualaError, match="was not trained with unanswerable questions, which"):
        run(**SOFT, data=data, model=tiny_checkpoint, teachers=[str(lost)])
    run(name="live", **SOFT, data=data, model=tiny_checkpoint, teachers=[str(foreign)])
    ids = [one.id for one in questions(0, 24)]
    for name, null in {"without": 0, "with": -1}.items():
        places = np.full((24, 2, 1), 1)
        places[3] = null or 1
        file = tmp_path / f"{name}.npz"
        scores = np.zeros((24, 2, 1))
        write_teacher_file(file, ids, CharacterAnswers(places, scores, np.zeros(24)))
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="quala.stages.distill"):
            run(name=name, **SOFT, data=data, model=tiny_checkpoint, teachers=[str(file)])
        assert ('never says "no answer"' in caplog.text) is (name == "without")


def test_special_tokens_are_mapped_by_role(other_ids: Any, tiny_checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    student = AutoTokenizer.from_pretrained(tiny_checkpoint)
    teacher = AutoTokenizer.from_pretrained(other_ids(tiny_checkpoint))
    ids = translated_ids(teacher, student)
    assert not isinstance(ids, str)
    assert sorted(ids.tolist()) == list(range(len(student)))
    for role in ("cls", "sep", "pad", "unk", "mask"):
        own = getattr(student, f"{role}_token_id")
        assert ids[own] == getattr(teacher, f"{role}_token_id")


def test_the_windows_of_another_layout_are_told(
    tiny_checkpoint: Path, spec: DataSpec, caplog: pytest.LogCaptureFixture
) -> None:
    from tokenizers.processors import RobertaProcessing

    student = load_with_data(tiny_checkpoint, spec)
    teacher = load_with_data(tiny_checkpoint, spec)
    teacher.tokenizer.add_tokens(["zzz"])
    teacher.tokenizer.backend_tokenizer.post_processor = RobertaProcessing(
        ("[SEP]", 3), ("[CLS]", 2)
    )
    with caplog.at_level(logging.WARNING):
        translated(teacher, student.tokenizer, "relation")
    assert "trained with 2 special tokens" in caplog.text


FILE = {"teachers": ["a.npz"]}


@pytest.mark.parametrize(
    ("stage", "options", "sentence"),
    [
        ("distill", {**FILE, "soft": 0.0}, "which have no weight: `soft` must be above 0"),
        ("distill", {**FILE, "teacher_weights": [1.0, 2.0]}, "as many as `teachers`, 1, got 2"),
        ("distill", {**FILE, "teacher_weights": [0.0]}, "`teacher_weights.*must be above 0"),
        ("length_adapt", FILE, "`teacher` must be above 0, or `teacher_for_subs` true"),
        ("quantize", {**FILE, "teacher": 1.0, "method": "ptq"}, "`method` must be qat"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    configure: Any, stage: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(QualaError, match=sentence):
        configure(stage, **options)


def test_a_model_that_was_not_trained_for_the_task_is_refused(
    run: Run, foreign: Path, classifier: Any, tmp_path: Path
) -> None:
    with pytest.raises(QualaError, match="has no head for question-answering"):
        run(**SOFT, teachers=[str(classifier("sentences"))])
    import shutil

    bare = shutil.copytree(foreign, tmp_path / "bare")
    config = (bare / "config.json").read_text()
    (bare / "config.json").write_text(config.replace("ForQuestionAnswering", "Model"))
    weights = load_file(bare / "model.safetensors")
    from safetensors.torch import save_file

    kept = {key: one for key, one in weights.items() if not key.startswith("qa_outputs")}
    save_file(kept, bare / "model.safetensors", {"format": "pt"})
    with pytest.raises(QualaError, match=r"not trained for question-answering: qa_outputs"):
        run(name="bare", **SOFT, teachers=[str(bare)])
