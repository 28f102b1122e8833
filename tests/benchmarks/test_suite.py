# SPDX-License-Identifier: Apache-2.0
"""The suite's tasks: right answers, halves that share nothing, families alike."""

import collections

import pytest

from jax_surgery.benchmarks import suite
from jax_surgery.benchmarks.suite import TASKS, items
from jax_surgery.data import records
from jax_surgery.data.tokens import encode
from jax_surgery.data.words import word_tokenizer

BY_FAMILY = collections.defaultdict(list)
for task in TASKS.values():
    BY_FAMILY[task.family].append(task)


def numbers(text: str) -> list[int]:
    return [int(word[1:]) for word in text.split()]


RULES = {
    "add": lambda a, b: (a + b) % 23,
    "sub": lambda a, b: (a - b) % 23,
    "larger": max,
    "smaller": min,
}
STRINGS = {
    "copy": lambda s: s,
    "reverse": lambda s: s[::-1],
    "sort": sorted,
    "rotate": lambda s: s[1:] + s[:1],
}


@pytest.mark.parametrize("name", RULES)
def test_arithmetic_is_right_and_complete(name):
    found = items(name, "all")
    assert len(found) == len(set(found)) == 23**2
    for arguments, answer in found:
        assert numbers(answer) == [RULES[name](*numbers(arguments))]


@pytest.mark.parametrize("name", STRINGS)
def test_strings_are_right_and_those_asked_are_never_trained_on(name):
    for arguments, answer in items(name, "all"):
        assert answer.split() == list(STRINGS[name](arguments.split()))
    asked = {arguments for arguments, _ in items(name, "all")}
    trained = {arguments for arguments, _ in items(name, "train")}
    assert len(asked) == 800 and len(trained) == 4000 and not asked & trained


def test_dictionaries_are_one_to_one_and_differ():
    books = [dict(items(f"dict_{which}", "all")) for which in "abc"]
    for book in books:
        assert len(book) == len(set(book.values())) == 40
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = sum(books[one][word] == books[other][word] for word in books[one])
        assert same <= 4


def test_people_share_names_and_are_never_the_same():
    groups = [
        {" ".join(a.split()[:2]) for a, _ in items(f"people_{g}", "all")} for g in "abc"
    ]
    assert all(len(group) == 40 for group in groups)
    assert not groups[0] & groups[1] and not (groups[0] | groups[1]) & groups[2]
    firsts = [{name.split()[0] for name in group} for group in groups]
    assert len(firsts[0] & firsts[1]) >= 10


def test_next_and_previous_undo_each_other():
    after, before = (dict(items(name, "all")) for name in ("next", "previous"))
    assert all(before[after[word]] == word for word in after)
    word, seen = "o0", set()
    while word not in seen:
        seen.add(word)
        word = after[word]
    assert len(seen) == 40  # one cycle


@pytest.mark.parametrize("name", TASKS)
def test_halves_share_no_item_and_answers_vary(name):
    first, second = items(name, "first"), items(name, "second")
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(items(name, "all"))
    assert abs(len(first) - len(second)) <= 1
    answers = collections.Counter(word for _, a in first + second for word in a.split())
    most = answers.most_common(1)[0][1] / answers.total()
    # What is told by the format alone is hardly better than chance.
    assert most <= max(3 * TASKS[name].chance, 0.15)


def test_families_and_what_is_reserved():
    pretrained = [TASKS[name] for name in suite.PRETRAINED]
    assert len(pretrained) >= 12
    assert sum(task.status == "reserved" for task in pretrained) >= 4
    sizes = collections.Counter(task.family for task in pretrained)
    assert all(size in (2, 3) for size in sizes.values())
    for family in BY_FAMILY.values():
        assert len({task.variant for task in family}) == len(family)


def test_the_pretraining_text_holds_each_task_alike_and_no_new_one():
    rows = suite.load("pretrain")
    begins = collections.Counter(" ".join(r["prompt"].split()[:2]) for r in rows)
    wanted = {f"{TASKS[n].family} {TASKS[n].variant}" for n in suite.PRETRAINED}
    assert set(begins) == wanted and set(begins.values()) == {1000}


def test_a_source_gives_records_whose_answers_alone_are_learned():
    found = records.read_source("suite:add:first")
    tokenizer = word_tokenizer([r.text for r in found], 64)
    document = encode(found, tokenizer, 32)[0]
    words = tokenizer.convert_ids_to_tokens(document.tokens)
    assert words[0] == "<s>" and words[1:3] == ["sum", "one"] and words[-1] == "</s>"
    learned = [w for w, use in zip(words, document.learned, strict=True) if use]
    assert learned == [found[0].answer.strip(), "</s>"]
    again = tokenizer.decode(document.tokens, skip_special_tokens=True)
    assert again == found[0].text


def test_wrong_names_are_told():
    with pytest.raises(ValueError, match="suite task 'ad' does not exist; choose.*add"):
        records.read_source("suite:ad")
    with pytest.raises(ValueError, match="suite split 'third'"):
        records.read_source("suite:add:third")
    with pytest.raises(ValueError, match="vocab_size=5.*have 8 words"):
        word_tokenizer(["a b c d"], 5)
