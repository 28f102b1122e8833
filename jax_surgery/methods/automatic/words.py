# SPDX-License-Identifier: Apache-2.0
"""Words of a text, as subjects are found by them.

Scripts that write no spaces between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese)
count each character as a word.
"""

import functools
import re
import unicodedata
from typing import NamedTuple

from jax_surgery.data import general

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_LETTER = rf"[^\W\d_{_UNSPACED}]"
_WORD = re.compile(
    rf"[{_UNSPACED}]|(?:{_LETTER}|\d)(?:{_LETTER}|\d|(?<=\w)['’](?={_LETTER}))*"
)
_SPELLED = re.compile(rf"{_LETTER}+(?:['’]{_LETTER}+)*")
# What may stand between a sentence's beginning and its first word.
_OPENING = " \t\"'“”‘’«»„(["
_ENDS = ".?!:;。？！\n"
_QUOTED = re.compile(
    r"(?<!\w)'(?=\S)(?:[^'\n]|(?<=\w)'(?=\w))+'(?!\w)"
    r"|\"[^\"\n]+\"|“[^”\n]+”|‘(?:[^’\n]|(?<=\w)’(?=\w))+’|«[^»\n]+»|„[^“”\n]+[“”]"
)
STEM = 5  # letters of a word, at least, that others are made from
# Share of the packaged general texts that hold a word of function, such as "which".
FREQUENT = 0.08


class Word(NamedTuple):
    """A word of a text.

    Attributes:
      key: as it is compared: lower case, no accents, no possessive or plural s.
      start, stop: its characters.
      text: as it stands.
      begins: whether it begins a sentence, so that its capital says nothing.
    """

    key: str
    start: int
    stop: int
    text: str
    begins: bool

    @property
    def capital(self) -> bool:
        """Whether it is written with a capital first letter."""
        return self.text[0].isupper()

    @property
    def number(self) -> bool:
        """Whether it holds a digit."""
        return any(char.isdigit() for char in self.text)


def key_of(word: str) -> str:
    """A word as words are compared."""
    plain = unicodedata.normalize("NFKD", word.casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    plain = re.sub(r"['’]s?$", "", plain).replace("'", "").replace("’", "")
    if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss"):
        return plain[:-1]
    return plain


def _begins(before: str) -> bool:
    """Whether a word begins a sentence, by what stands before it."""
    near = before.rstrip(_OPENING)
    initial = re.search(r"(?<!\w)\w\.$", near)  # "F. Scott"
    return not near or (near[-1] in _ENDS and not initial)


def of(text: str, start: int = 0, stop: int | None = None) -> list[Word]:
    """The words of some of a text's characters, in order."""
    found = []
    for match in _WORD.finditer(text, start, len(text) if stop is None else stop):
        if key := key_of(match.group()):
            before = text[max(start, match.start() - 40) : match.start()]
            found.append(Word(key, *match.span(), match.group(), _begins(before)))
    return found


def quoted(text: str, start: int, stop: int) -> list[tuple[int, int]]:
    """Where quoted passages stand within some of a text's characters."""
    return [match.span() for match in _QUOTED.finditer(text, start, stop)]


def related(key: str, keys: set[str]) -> bool:
    """Whether a word is one of some, or is made from one of them: "japanese" of "japan"."""
    stems = (key[:size] for size in range(STEM, len(key)))
    return key in keys or any(stem in keys for stem in stems)


def spelled(text: str) -> set[int]:
    """Characters that go on with the letters of a word, which began before them."""
    found: set[int] = set()
    for match in _SPELLED.finditer(text):
        found.update(range(match.start() + 1, match.end()))
    return found


@functools.cache
def frequent() -> frozenset[str]:
    """Keys of words that many of the packaged general texts and prompts hold.

    Words of function in the languages of those texts, found by counting.
    """
    found: set[str] = set()
    for texts in (general.passages(), general.prompts()):
        counts: dict[str, int] = {}
        for text in texts:
            for key in {word.key for word in of(text) if not word.number}:
                counts[key] = counts.get(key, 0) + 1
        found |= {k for k, n in counts.items() if n >= FREQUENT * len(texts)}
    return frozenset(found)
