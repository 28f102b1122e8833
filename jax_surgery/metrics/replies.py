# SPDX-License-Identifier: Apache-2.0
"""Scores of one reply, as text: whether it says an answer, repeats itself, or breaks down."""

import collections
import functools
import re
import unicodedata
from collections.abc import Collection, Iterable

from jax_surgery.data.same_fact import plain

REPEATS = 3  # times that a degenerate reply has the same three words, at least
# A piece of a word that is written again and again.
STUTTER = re.compile(r"([^\W\d_]{2,20}?)\1{4,}")
BROKEN = "\ufffd"  # what stands for bytes that are no character
FOREIGN = 0.2  # share of letters of other scripts that makes a reply degenerate
KEPT = 0.5  # share of the telling words of an answer that a reply holds which keeps it
# Words of English that tell nothing by themselves.
FUNCTION = (
    "a an the and or but of to in on at by for from with as into than that which who whose "
    "this these those there it its he she they his her their is are was were be been being "
    "has have had do does did can could may might will would not no also so such if when "
    "where while"
)
LEAST_LEAK = 3  # characters of an answer that is sought in unrelated replies
# Scripts that put no space between words; within them an answer may begin anywhere.
UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}
_WORD = re.compile(r"[^\W_]+(?:(?:['\u2019.]|,(?=\d))[^\W_]+)*")
# The end of a sentence, but for "F. Scott" and "Dr. Who".
_END = re.compile(r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])[.?!][\"')\]]*\s+(?=[A-Z])")


@functools.lru_cache(maxsize=4096)
def _script(character: str) -> str:
    """The script of a letter, such as LATIN; "" of anything else."""
    if not character.isalpha():
        return ""
    return unicodedata.name(character, "").split(" ")[0]


def says(reply: str, answer: str) -> bool:
    """Whether a reply holds an answer, accents, case and punctuation aside.

    The answer begins where a word begins, and may go on within it ("India" is said by
    "the Indian subcontinent"); a number ends where it ends.
    """
    text, sought = plain(reply), plain(answer)
    start = text.find(sought) if sought else -1
    while start >= 0:
        end = start + len(sought)
        free = not start or text[start - 1] == " " or _script(sought[0]) in UNSPACED
        cut = sought[-1].isdigit() and text[end : end + 1].isdigit()
        if free and not cut:
            return True
        start = text.find(sought, start + 1)
    return False


def says_any(reply: str, answers: Iterable[str]) -> bool:
    """Whether a reply holds one of some answers."""
    return any(says(reply, answer) for answer in answers)


def telling(question: str, answer: str) -> list[str]:
    """The words in which a sentence answers its question; [] where that holds them all.

    These are the names and numbers of the answer's first sentence that the question does
    not hold, and of a sentence without any its other words but those of `FUNCTION`. A name
    is spelt with a capital within a sentence.
    """
    first = _END.split(answer.strip(), maxsplit=1)[0]
    asked = plain(re.sub(r"['\u2019]s\b", "", question)).split()
    names, others = [], []
    for match in _WORD.finditer(first):
        word = match.group()
        begins = not first[: match.start()].strip(" \"'\u201c\u2018\u00ab(")
        name = (word[0].isupper() and not begins) or any(c.isdigit() for c in word)
        for key in plain(re.sub(r"['\u2019]s\b", "", word)).split():
            if any(
                w.startswith(key) or (len(w) > 3 and key.startswith(w)) for w in asked
            ):
                continue
            if name:
                names.append(key)
            elif len(key) > 1 and key not in FUNCTION.split():
                others.append(key)
    return names or others


def keeps(reply: str, former: str, question: str) -> bool:
    """Whether a reply still gives the answer that a model wrote before it was changed.

    Such answers are sentences that may be said in other words and may be cut, so that no
    reply holds them whole, and most of their words are those of the question: "The
    capital of Lithuania is the city of Lietikis" has a ROUGE-L recall of 8/9 to the
    answer with Vilnius. So a reply keeps an answer if it holds at least half of the words
    that `telling` finds in it, each as often as the answer says it; or some of them and
    none that is new, as a shorter answer does. Where the question holds all words, those
    of the whole answer count.

    Of 64 answers of SmolLM2-135M-Instruct before and after a surgery this differs from a
    reader's judgement in 3, and counts 41 as kept where the reader does 40; ROUGE-L recall
    of at least 0.5 differs in 16 and counts 46. (Of the 80 on which the rule was chosen, 8
    and 17 differ.) It sees neither a negation nor a second answer beside the first.
    """
    words = telling(question, former) or plain(former).split()
    held = sum(says(reply, word) for word in words)
    own = telling(question, reply)
    shorter = bool(held and own) and all(says(former, word) for word in own)
    return bool(words) and (held >= KEPT * len(words) or shorter)


def _triples(reply: str) -> list[tuple[str, ...]]:
    words = plain(reply).split()
    return list(zip(words, words[1:], words[2:], strict=False))


def repetition(reply: str) -> float:
    """Share of a reply's word 3-grams that it has said before; 0 of shorter replies."""
    triples = _triples(reply)
    return 1 - len(set(triples)) / len(triples) if triples else 0.0


def scripts(texts: Iterable[str]) -> set[str]:
    """The scripts of the letters in some texts."""
    return {_script(c) for text in texts for c in text} - {""}


def is_degenerate(reply: str, related: Collection[str] = ()) -> bool:
    """Whether a reply is no answer to anything: it has no word, says the same three words
    or the same piece of a word again and again, holds broken characters (the last one
    may be cut), or is written in another script.

    Args:
      related: texts in whose scripts it may be written: the question, what is right, and
        what was said before; without any of them every script will do.
    """
    triples = collections.Counter(_triples(reply))
    if not plain(reply) or max(triples.values(), default=0) >= REPEATS:
        return True
    if STUTTER.search(plain(reply)) or BROKEN in reply.rstrip(BROKEN):
        return True
    known, letters = scripts(related), [_script(c) for c in reply if c.isalpha()]
    foreign = sum(script not in known for script in letters)
    return bool(known) and foreign > FOREIGN * len(letters)


def leaked(
    reply: str, new: Iterable[str], question: str, expected: Iterable[str]
) -> list[str]:
    """Which new answers a reply gives to a question that does not ask for them.

    Args:
      new: answers that were learned, and are not those of this question.
      question, expected: one that is in either is no leak.
    """
    own = (question, *expected)
    return [
        answer
        for answer in new
        if len(plain(answer)) >= LEAST_LEAK
        and says(reply, answer)
        and not any(says(text, answer) for text in own)
    ]
