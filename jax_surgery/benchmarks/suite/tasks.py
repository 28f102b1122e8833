# SPDX-License-Identifier: Apache-2.0
"""The tasks of the suite: small skills and bodies of facts, in families of similar ones.

A prompt is "FAMILY VARIANT arguments =" and its answer follows. Variants' words are
shared by all families, and the words of a family's arguments by all of its tasks, so
that no single word identifies a task: what is removed and what is retained look alike.
"""

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial

SEED = 0
MODULUS = 23  # numbers n0 to n22
LETTERS = tuple("abcdefghijklmnop")
LENGTH = 5  # letters of a string
WORDS = 40  # entries of a dictionary, of an order
PEOPLE, ATTRIBUTES, VALUES = 40, 2, 20  # of a set of people
DRAWN = 400  # items of each half, where there are more than can be listed
TRAINED = 4000  # of those that pretraining draws from
VARIANTS = ("one", "two", "three", "four")

Letters = tuple[str, ...]
Item = tuple[str, str]  # arguments and answer, words separated by spaces


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the suite.

    Attributes:
      name: such as "add".
      family: similar tasks have the same.
      variant: the word that distinguishes it from the others of its family.
      status: "development"; "reserved" for what no choice may be made on; or "new" for
        what the model of the suite has not learned.
      listed: whether its items are finite and all known.
      chance: accuracy of an answer's word for a model that knows the format alone.
    """

    name: str
    family: str
    variant: str
    status: str
    listed: bool
    chance: float
    draw: Callable[[random.Random], list[Item]] = dataclasses.field(repr=False)

    def prompt(self, arguments: str) -> str:
        """The text that an item's answer follows."""
        return f"{self.family} {self.variant} {arguments} ="


def _rng(*names: object) -> random.Random:
    return random.Random("/".join(map(str, (SEED, *names))))


def _numbers(of: Callable[[int, int], int], rng: random.Random) -> list[Item]:
    """All pairs of numbers and what is made of them."""
    del rng
    pairs = itertools.product(range(MODULUS), repeat=2)
    return [(f"n{a} n{b}", f"n{of(a, b)}") for a, b in pairs]


def _strings(of: Callable[[Letters], Iterator[str]], rng: random.Random) -> list[Item]:
    """Strings of different letters, and what is made of them."""
    found: dict[Letters, None] = {}
    while len(found) < TRAINED + 2 * DRAWN:
        found[tuple(rng.choice(LETTERS) for _ in range(LENGTH))] = None
    return [(" ".join(s), " ".join(of(s))) for s in found]


def _dictionary(rng: random.Random) -> list[Item]:
    """A one-to-one dictionary between two sets of words."""
    targets = list(range(WORDS))
    rng.shuffle(targets)
    return [(f"s{i}", f"t{j}") for i, j in enumerate(targets)]


def _neighbours(shift: int, rng: random.Random) -> list[Item]:
    """The neighbour of each word in a cyclic order that all tasks of a family share."""
    del rng
    order = list(range(WORDS))
    _rng("order").shuffle(order)
    return [(f"o{w}", f"o{order[(i + shift) % WORDS]}") for i, w in enumerate(order)]


def _values(count: int, rng: random.Random) -> list[int]:
    """One of the values for each, all as often."""
    values = [i % VALUES for i in range(count)]
    rng.shuffle(values)
    return values


def _people(group: int, rng: random.Random) -> list[Item]:
    """Two attributes of each of a group of people; groups share first and last names."""
    names = [f"f{a} l{b}" for a in range(11) for b in range(11)]
    _rng("names").shuffle(names)
    own = names[group * PEOPLE : (group + 1) * PEOPLE]
    return [
        (f"{name} q{attribute}", f"v{attribute}.{value}")
        for attribute in range(ATTRIBUTES)
        for name, value in zip(own, _values(PEOPLE, rng), strict=True)
    ]


def _places(rng: random.Random) -> list[Item]:
    """One of twenty values for each place; tasks of the family share the places."""
    return [(f"p{i}", f"w{value}") for i, value in enumerate(_values(WORDS, rng))]


def _make() -> tuple[Task, ...]:
    number, letter = 1 / MODULUS, 1 / len(LETTERS)
    rows = [
        # name, family, status, listed, chance, draw
        ("add", "sum", "development", True, number, partial(_numbers, lambda a, b: (a + b) % MODULUS)),
        ("sub", "sum", "development", True, number, partial(_numbers, lambda a, b: (a - b) % MODULUS)),
        ("copy", "text", "development", False, letter, partial(_strings, iter)),
        ("reverse", "text", "development", False, letter, partial(_strings, reversed)),
        ("sort", "text", "development", False, letter, partial(_strings, lambda s: iter(sorted(s)))),
        ("dict_a", "word", "development", True, 1 / WORDS, _dictionary),
        ("dict_b", "word", "development", True, 1 / WORDS, _dictionary),
        ("people_a", "who", "development", True, 1 / VALUES, partial(_people, 0)),
        ("people_b", "who", "development", True, 1 / VALUES, partial(_people, 1)),
        ("capital", "place", "reserved", True, 1 / VALUES, _places),
        ("river", "place", "reserved", True, 1 / VALUES, _places),
        ("larger", "pick", "development", True, 1 / 2, partial(_numbers, max)),
        ("smaller", "pick", "development", True, 1 / 2, partial(_numbers, min)),
        ("next", "order", "reserved", True, 1 / WORDS, partial(_neighbours, 1)),
        ("previous", "order", "reserved", True, 1 / WORDS, partial(_neighbours, -1)),
        ("rotate", "text", "new", False, letter, partial(_strings, lambda s: iter(s[1:] + s[:1]))),
        ("dict_c", "word", "new", True, 1 / WORDS, _dictionary),
        ("people_c", "who", "new", True, 1 / VALUES, partial(_people, 2)),
    ]  # fmt: skip
    variants = {row[1]: iter(VARIANTS) for row in rows}
    return tuple(
        Task(name, family, next(variants[family]), status, listed, chance, draw)
        for name, family, status, listed, chance, draw in rows
    )


TASKS = {task.name: task for task in _make()}
SPLITS = ("train", "first", "second", "all")


@functools.cache
def items(name: str, split: str) -> tuple[Item, ...]:
    """A task's items.

    Args:
      name: of the task.
      split: "first" or "second", halves that share no item, or "all" of them; "train"
        is what pretraining reads: all, where all are listed, else others.

    Raises:
      ValueError: an unknown name or split.
    """
    if name not in TASKS:
        raise ValueError(
            f"suite task {name!r} does not exist; choose one of {', '.join(TASKS)}."
        )
    if split not in SPLITS:
        raise ValueError(f"suite split {split!r}; choose one of {', '.join(SPLITS)}.")
    task = TASKS[name]
    rng = _rng(name)
    drawn = train = task.draw(rng)
    if task.listed:
        rng.shuffle(drawn)
    else:
        drawn, train = drawn[: 2 * DRAWN], drawn[2 * DRAWN :]
    half = len(drawn) // 2
    parts = {
        "train": train,
        "first": drawn[:half],
        "second": drawn[half:],
        "all": drawn,
    }
    return tuple(parts[split])
