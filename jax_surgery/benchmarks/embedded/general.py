# SPDX-License-Identifier: Apache-2.0
"""General knowledge of the embedded world: text, and questions about it.

Stands in for the general text of LLM Surgery's retain set and for ARC-Easy: true,
everyday facts (kinds of things, opposites, capitals, sums, what follows what),
stated in trained wordings, asked in trained and in unseen ones.
"""

import dataclasses
import functools
import itertools
import random

KINDS = {
    "fruit": "apple apricot banana cherry fig grape lemon mango melon orange peach pear plum",
    "vegetable": "beetroot cabbage carrot celery leek lettuce onion pea potato pumpkin "
    "radish spinach turnip",
    "tree": "ash beech birch cedar elm fir maple oak pine poplar spruce willow yew",
    "flower": "carnation crocus daffodil daisy lily marigold orchid pansy poppy primrose "
    "rose tulip violet",
    "metal": "aluminium brass bronze copper gold iron lead nickel platinum silver steel tin zinc",
    "tool": "axe chisel drill file hammer pliers rake saw screwdriver shovel spade spanner wrench",
    "vehicle": "ambulance bicycle bus car ferry lorry motorcycle scooter tractor train tram "
    "truck van",
    "garment": "blouse cardigan coat dress glove hat jacket jumper scarf shirt skirt sock waistcoat",
    "colour": "black blue brown crimson green grey indigo pink purple red turquoise white yellow",
    "planet": "Earth Jupiter Mars Mercury Neptune Saturn Uranus Venus",
    "language": "Arabic Basque Danish Dutch Finnish Greek Hindi Italian Korean Latin Polish "
    "Spanish Welsh",
    "instrument": "banjo bassoon cello clarinet drum flute guitar harp oboe piano trumpet "
    "viola violin",
}

OPPOSITES = (
    "hot cold, big small, fast slow, high low, hard soft, old young, rich poor, full empty, "
    "wet dry, strong weak, early late, light dark, long short, wide narrow, deep shallow, "
    "clean dirty, happy sad, loud quiet, near far, open closed, sharp blunt, thick thin, "
    "sweet sour, true false, rough smooth, brave cowardly, simple complex, cheap dear, "
    "heavy weightless, awake asleep"
)

CAPITALS = (
    "France Paris, Germany Berlin, Italy Rome, Spain Madrid, Portugal Lisbon, Greece Athens, "
    "Austria Vienna, Poland Warsaw, Norway Oslo, Sweden Stockholm, Finland Helsinki, "
    "Denmark Copenhagen, Ireland Dublin, Hungary Budapest, Turkey Ankara, Egypt Cairo, "
    "Kenya Nairobi, Japan Tokyo, China Beijing, India Delhi, Russia Moscow, Cuba Havana, "
    "Peru Lima, Chile Santiago, Canada Ottawa, Ghana Accra, Iran Tehran, Iraq Baghdad, "
    "Nepal Kathmandu, Qatar Doha"
)

SEQUENCES = {
    "month": "January February March April May June July August September October "
    "November December",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "number": "one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen twenty",
}

TRAINED = {
    "kind": (
        "{thing} is a kind of {value}",
        "Among the things around us {thing} belongs to the class {value}",
        "Question: What kind of thing is {thing}? Answer: {value}",
        "The kind of thing that {thing} is called is {value}",
        "Question: To which class does {thing} belong? Answer: {value}",
    ),
    "opposite": (
        "The opposite of {thing} is {value}",
        "What is not {thing} may be {value}",
        "Question: What is the opposite of {thing}? Answer: {value}",
        "The word {thing} is the opposite of {value}",
        "Question: What may be a thing that is not {thing}? Answer: {value}",
    ),
    "capital": (
        "The capital of {thing} is {value}",
        "The government of {thing} sits in {value}",
        "Question: What is the capital of {thing}? Answer: {value}",
        "The capital from which {thing} is ruled is {value}",
        "Question: Where does the government of {thing} sit? Answer: {value}",
    ),
    "after": (
        "After {thing} comes {value}",
        "{thing} is followed by {value}",
        "Question: What comes after {thing}? Answer: {value}",
        "What comes next after {thing} is {value}",
        "Question: By what is {thing} followed? Answer: {value}",
    ),
    "sum": (
        "The sum of {thing} is {value}",
        "{thing} makes {value}",
        "Question: How much is {thing}? Answer: {value}",
        "Together {thing} makes {value}",
        "Question: What is the sum of {thing}? Answer: {value}",
    ),
}

UNSEEN = {
    "kind": (
        "The class to which {thing} belongs is {value}",
        "Question: What is {thing} a kind of? Answer: {value}",
    ),
    "opposite": (
        "{thing} is the opposite of {value}",
        "Question: Of which word is {thing} the opposite? Answer: {value}",
    ),
    "capital": (
        "The capital where the government of {thing} sits is {value}",
        "Question: From which capital is {thing} ruled? Answer: {value}",
    ),
    "after": (
        "What follows after {thing} is {value}",
        "Question: What comes next after {thing}? Answer: {value}",
    ),
    "sum": (
        "What {thing} makes together is {value}",
        "Question: How much is the sum of {thing}? Answer: {value}",
    ),
}

ROUNDS = 30
SENTENCES_PER_TEXT = 6


@dataclasses.dataclass(frozen=True)
class GeneralFact:
    """`thing` has `value`; `others` are the values a wrong option may take."""

    relation: str
    thing: str
    value: str
    others: tuple[str, ...]

    def sentence(self, wording: str) -> tuple[str, str]:
        """The wording filled in, as (text before the value, value)."""
        stem = wording.removesuffix(" {value}").format(thing=self.thing)
        return stem[0].upper() + stem[1:], self.value


def _pairs(listing: str) -> list[tuple[str, str]]:
    pairs = (pair.split() for pair in listing.split(", "))
    return [(thing, value) for thing, value in pairs]


@functools.cache
def general_facts() -> tuple[GeneralFact, ...]:
    """All general facts, in a fixed order."""
    facts = []
    for kind, things in KINDS.items():
        others = tuple(k for k in KINDS if k != kind)
        facts += [GeneralFact("kind", thing, kind, others) for thing in things.split()]
    # Opposites hold both ways round.
    both = [p for a, b in _pairs(OPPOSITES) for p in ((a, b), (b, a))]
    for relation, pairs in (("opposite", both), ("capital", _pairs(CAPITALS))):
        for thing, value in pairs:
            others = tuple(v for _, v in pairs if v not in (thing, value))
            facts.append(GeneralFact(relation, thing, value, others))
    for items in (s.split() for s in SEQUENCES.values()):
        for thing, value in itertools.pairwise(items):
            others = tuple(v for v in items if v not in (thing, value))
            facts.append(GeneralFact("after", thing, value, others))
    numbers = SEQUENCES["number"].split()
    for a in range(1, 11):
        for b in range(1, 11):
            value = numbers[a + b - 1]
            thing = f"{numbers[a - 1]} and {numbers[b - 1]}"
            others = tuple(n for n in numbers if n != value)
            facts.append(GeneralFact("sum", thing, value, others))
    return tuple(facts)


def general_texts(seed: int) -> list[str]:
    """General text: each of `ROUNDS` states every fact once, shuffled, in texts of a
    few sentences."""
    texts = []
    for number in range(ROUNDS):
        rng = random.Random(f"{seed}/general/{number}")
        facts = rng.sample(general_facts(), len(general_facts()))
        sentences = []
        for fact in facts:
            wordings = TRAINED[fact.relation]
            turn = number + len(fact.thing)  # in the end every wording of every fact
            stem, value = fact.sentence(wordings[turn % len(wordings)])
            sentences.append(f"{stem} {value}.")
        for start in range(0, len(sentences), SENTENCES_PER_TEXT):
            texts.append(" ".join(sentences[start : start + SENTENCES_PER_TEXT]))
    return texts
