"""Text to windows of tokens, with the `tokenizers` library alone: no torch, no transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenizers import Tokenizer

from quala.data.examples import QAExample
from quala.data.features import FeatureSet
from quala.data.spec import DataSpec
from quala.data.windows import qa_features
from quala.errors import QualaError
from quala.runtime.query import Query

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE, FACTS = "tokenizer.json", "tokenizer_config.json"


class _Pair(dict[str, Any]):
    """What a transformers tokenizer returns for one pair."""

    def __init__(self, encoding: Any) -> None:
        super().__init__(input_ids=encoding.ids)
        self._sides = encoding.sequence_ids

    def sequence_ids(self, index: int) -> list[int | None]:
        """Return which text each token belongs to."""
        return list(self._sides)


class TextTokenizer:
    """The part of a transformers tokenizer that `qa_features` uses."""

    is_fast = True
    padding_side = "right"

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json. Raises QualaError when it is missing or damaged."""
        try:
            self._inner = Tokenizer.from_file(str(folder / FILE))
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception for damaged files
            reason = str(error).partition("\n")[0]
            raise QualaError(f"Could not read a tokenizer from `{folder}`: {reason}") from error
        self._inner.no_truncation()
        self._inner.no_padding()
        self.pad_token_id = self._inner.token_to_id(str(facts.get("pad_token", "[PAD]")))

    def __call__(self, text: Any, pair: str | None = None, **options: Any) -> dict[str, Any]:
        """Encode one pair with special tokens, or many texts without."""
        if pair is not None:
            return _Pair(self._inner.encode(text, pair))
        encoded = self._inner.encode_batch(text, add_special_tokens=False)
        return {
            "input_ids": [one.ids for one in encoded],
            "offset_mapping": [one.offsets for one in encoded],
        }


class Windows:
    """Cuts questions and contexts into the windows that the model was trained on."""

    def __init__(self, folder: Path, *, max_length: int, doc_stride: int, question: int) -> None:
        self._tokenizer = TextTokenizer(folder)
        self._spec = DataSpec(
            task="squad",
            name="demo",
            max_length=max_length,
            doc_stride=doc_stride,
            max_question_length=question,
        )

    def features(self, queries: Sequence[Query]) -> tuple[list[QAExample], FeatureSet]:
        """Return the queries as examples, and their windows.

        Raises QualaError for a context in which the tokenizer finds nothing.
        """
        examples = [
            QAExample(str(number), "", query.context, query.question)
            for number, query in enumerate(queries)
        ]
        tokenizer = cast("PreTrainedTokenizerBase", self._tokenizer)
        features = qa_features(examples, tokenizer, self._spec)
        ranges = features.context_range
        if ranges is None or (ranges[:, 0] == ranges[:, 1]).any():
            raise QualaError("The tokenizer finds no words in the context.")
        return examples, features
