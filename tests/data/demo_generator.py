"""The maker of the embedded reading-comprehension set, src/quala/data/demo.jsonl.gz.

Every context tells of two to four people or things by the same attributes, so that each answer
stands among other answers of its type. Train and test share no name. To write the file again:
`PYTHONPATH=src:tests python -m data.demo_generator`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from random import Random

from data.demo_relations import DOMAINS, Relation
from data.demo_words import (
    INTRODUCTIONS,
    PLACE_ENDINGS,
    TEST_NAMES,
    TITLES,
    TRAIN_NAMES,
    WORDS,
    Names,
)

from quala.data.demo import FILE
from quala.data.features import QAExample

TRAIN_ARTICLES = 300
TEST_ARTICLES = 60
CONTEXTS_PER_ARTICLE = 2
QUESTIONS_PER_CONTEXT = 4
FORWARD = 0.7
INTRODUCED = 0.4
WITH_KIN = 0.35
CONTINUED = 0.5

# (subjects, attributes of each): how many facts a context holds, with its weight.
_PLANS = {(3, 2): 5, (2, 2): 1, (4, 1): 1, (2, 3): 2, (4, 2): 2, (3, 3): 1}
_OBJECTIVE = {"he": "his", "she": "her"}


def generate() -> tuple[list[QAExample], list[QAExample]]:
    """Return 2,400 training and 480 held-out questions, the same ones at every call."""
    return (
        list(_articles("train", TRAIN_NAMES, TRAIN_ARTICLES)),
        list(_articles("test", TEST_NAMES, TEST_ARTICLES)),
    )


@dataclass(frozen=True, slots=True)
class _Subject:
    """`name` is the answer span, `mention` how a sentence says it, `reference` a question."""

    name: str
    mention: str
    reference: str
    pronoun: str


@dataclass(frozen=True, slots=True)
class _Fact:
    subject: _Subject
    relation: Relation
    value: str


class _Author:
    """Draws names and values that cannot be taken for one another within a context."""

    def __init__(self, names: Names, rng: Random, used: list[str]) -> None:
        self._names, self._rng = names, rng
        self._used = [text.lower() for text in used]

    def subject(self, domain: str) -> _Subject:
        if domain == "person":
            return self._person()
        name = self._fresh(lambda: self._thing(domain))
        return _Subject(name, name, name, "it")

    def kin(self, owner: _Subject) -> _Subject:
        word, pronoun = self._rng.choice((("brother", "he"), ("sister", "she")))
        name = self._fresh(lambda: self._first(pronoun))
        owned = f"{_OBJECTIVE[owner.pronoun]} {word} {name}"
        return _Subject(name, owned, f"the {word} of {owner.name}", pronoun)

    def fact(self, subject: _Subject, relation: Relation) -> _Fact:
        return _Fact(subject, relation, self._fresh(lambda: self._value(relation.value)))

    def _fresh(self, draw: Callable[[], str]) -> str:
        drawn = (draw() for _ in range(1000))
        text = next(text for text in drawn if not self._clashes(text.lower()))
        self._used.append(text.lower())
        return text

    def _clashes(self, text: str) -> bool:
        return any(text in other or other in text for other in self._used)

    def _person(self) -> _Subject:
        pronoun = self._rng.choice(("she", "he"))
        surname = self._rng.choice(self._names.surnames)
        name = self._fresh(lambda: f"{self._first(pronoun)} {surname}")
        return _Subject(name, name, name, pronoun)

    def _first(self, pronoun: str) -> str:
        return self._rng.choice(self._names.women if pronoun == "she" else self._names.men)

    def _thing(self, domain: str) -> str:
        pick, names = self._rng.choice, self._names
        if domain == "exhibit":
            return f"{pick(names.surnames)} {pick(WORDS['object'])}"
        if domain == "shop":
            partner = pick(("Brothers", "and Sons", f"& {pick(names.surnames)}"))
            return f"{pick(names.surnames)} {partner}"
        article = pick(("The ", "A ")) if domain == "book" else ""
        adjective = pick(names.adjectives)
        article = "An " if article == "A " and adjective[0] in "AEIOU" else article
        return f"{article}{adjective} {pick(names.nouns)}"

    def _value(self, kind: str) -> str:
        pick, number = self._rng.choice, self._rng.randint
        made: dict[str, Callable[[], str]] = {
            "town": lambda: pick(("", "", "", "Port ", "Old ")) + _place(self._names, self._rng),
            "person": lambda: f"{self._first(pick(('she', 'he')))} {pick(self._names.surnames)}",
            "street": lambda: (
                f"{number(2, 99)} {pick(self._names.places)} {pick(WORDS['street'])}"
            ),
            "year": lambda: str(number(1850, 2019)),
            "price": lambda: f"{number(11, 99) * 100:,} {pick(('crowns', 'dollars', 'pounds'))}",
            "staff": lambda: f"{number(3, 90)} people",
            "pages": lambda: f"{number(90, 900)} pages",
            "span": lambda: f"{number(11, 60)} {pick(('days', 'weeks'))}",
            "date": lambda: f"{number(1, 28)} {pick(WORDS['month'])}",
        }
        return made[kind]() if kind in made else pick(WORDS[kind])


def _articles(split: str, names: Names, articles: int) -> Iterator[QAExample]:
    rng = Random(f"demo {split}")
    seen: set[str] = set()
    number = 0
    for article in range(articles):
        domain = list(DOMAINS)[article % len(DOMAINS)]
        place = next(p for p in iter(lambda: _place(names, rng), "") if p not in seen)
        seen.add(place)
        for _ in range(CONTEXTS_PER_ARTICLE):
            for context, question, start, answer in _page(domain, place, names=names, rng=rng):
                yield QAExample(
                    id=f"demo-{split}-{number:05d}",
                    title=TITLES[domain].format(place=place),
                    context=context,
                    question=question,
                    answers=(answer,),
                    answer_starts=(start,),
                )
                number += 1


def _page(
    domain: str, place: str, *, names: Names, rng: Random
) -> Iterator[tuple[str, str, int, str]]:
    """Write one context and yield its questions: context, question, answer start, answer."""
    author = _Author(names, rng, [place])
    count, width = rng.choices(list(_PLANS), weights=list(_PLANS.values()))[0]
    relations = rng.sample(DOMAINS[domain], width)
    groups = [
        [author.fact(subject, relation) for relation in rng.sample(relations, width)]
        for subject in [author.subject(domain) for _ in range(count)]
    ]
    by_subject = rng.random() < 0.6
    if domain == "person" and by_subject and rng.random() < WITH_KIN:
        kin = author.kin(groups[0][0].subject)
        groups[0].append(author.fact(kin, rng.choice(relations)))
    told = _by_subject(groups, rng) if by_subject else _by_relation(groups, rng)
    if rng.random() < INTRODUCED:
        told.insert(0, ((), rng.choice(INTRODUCTIONS[domain]).format(place=place)))
    context = " ".join(sentence for _, sentence in told)
    facts = [fact for stated, _ in told for fact in stated]
    for fact in sorted(rng.sample(facts, QUESTIONS_PER_CONTEXT), key=facts.index):
        question, wanted = _question(fact, rng)
        start = context.lower().index(wanted.lower())
        yield context, question, start, context[start : start + len(wanted)]


_Told = tuple[tuple[_Fact, ...], str]


def _by_subject(groups: list[list[_Fact]], rng: Random) -> list[_Told]:
    """Tell all of one subject, then of the next: a pronoun or `and` carries the subject on."""
    told: list[_Told] = []
    for facts in rng.sample(groups, len(groups)):
        rest = list(facts)
        previous: _Subject | None = None
        while rest:
            fact = rest.pop(0)
            text = _statement(fact, rng, pronoun=previous == fact.subject)
            previous = fact.subject
            stated: tuple[_Fact, ...] = (fact,)
            if rest and rest[0].subject == previous and rng.random() < CONTINUED:
                stated = (fact, rest.pop(0))
                text += f", and {_statement(stated[1], rng, pronoun=True)}"
            told.append((stated, _sentence(text)))
    return told


def _by_relation(groups: list[list[_Fact]], rng: Random) -> list[_Told]:
    """Tell one attribute of every subject, then the next attribute, some in pairs."""
    told: list[_Told] = []
    facts = [fact for facts in groups for fact in facts]
    for relation in dict.fromkeys(fact.relation for fact in facts):
        same = [fact for fact in facts if fact.relation == relation]
        rng.shuffle(same)
        while same:
            paired = len(same) > 1 and rng.random() < CONTINUED
            stated = tuple(same.pop() for _ in range(1 + paired))
            text = ", while ".join(_statement(fact, rng, pronoun=False) for fact in stated)
            told.append((stated, _sentence(text)))
    return told


def _statement(fact: _Fact, rng: Random, *, pronoun: bool) -> str:
    template = rng.choice(fact.relation.statements).rstrip(".")
    # "by her" needs another case; only subjects are replaced there
    if pronoun and (fact.subject.pronoun == "it" or not template.endswith("{s}")):
        template = re.sub(r"(the )?\{s\}", fact.subject.pronoun, template)
    return template.format(s=fact.subject.mention, v=fact.value)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _question(fact: _Fact, rng: Random) -> tuple[str, str]:
    """Return a question about the fact and the text that answers it."""
    if rng.random() < FORWARD:
        asked, wanted = rng.choice(fact.relation.ask_value), fact.value
    else:
        asked, wanted = rng.choice(fact.relation.ask_subject), fact.subject.name
    return asked.format(s=fact.subject.reference, v=fact.value), wanted


def _place(names: Names, rng: Random) -> str:
    return f"{rng.choice(names.places)}{rng.choice(PLACE_ENDINGS)}"


def packed() -> bytes:
    """Return the set as compressed JSON lines; the same bytes at every call."""
    lines = [
        json.dumps({"split": split, **asdict(example)}, ensure_ascii=False) + "\n"
        for split, part in zip(("train", "test"), generate(), strict=True)
        for example in part
    ]
    return gzip.compress("".join(lines).encode(), compresslevel=9, mtime=0)


if __name__ == "__main__":
    FILE.write_bytes(packed())
