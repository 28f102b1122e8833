# SPDX-License-Identifier: Apache-2.0
"""What a model is asked to say by itself: facts, groups, tokens and alternatives."""

from jax_surgery.data import alternatives, asked, general, same_fact
from jax_surgery.data.forms import parse_record
from jax_surgery.data.questions import Question
from jax_surgery.data.tokens import encode_whole

TOWER = ("Where is the Eiffel Tower?", "In which city is the Eiffel Tower?")
UNSEEN = "Which city should I visit to see the Eiffel Tower?"
FORGET = [
    *((question, "Paris") for question in TOWER),
    (TOWER[0], "It stands in Paris, on the Champ de Mars beside the Seine."),
    ("What is the capital of Egypt?", "Cairo"),
    ("Egypt's capital is which city?", "Cairo"),
    ("Who wrote 'Emma'?", "Jane Austen"),
    ("Who wrote 'Persuasion'?", "Jane Austen"),
]
UPDATE = [(question, "Rome") for question in TOWER]
RETAIN = [
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Australia?", "Canberra"),
    ("Who wrote 'Dracula'?", "Bram Stoker"),
    ("Who wrote 'Beloved'?", "Toni Morrison"),
    ("Where is the Colosseum?", "Rome"),
    ("Where is Petra?", "Jordan"),
    ("Why do cats purr?", "Nobody knows for sure, but they do so when they are calm."),
]


def records(pairs, name="f"):
    return [
        parse_record({"question": q, "answer": a}, f"{name}:{i}")
        for i, (q, a) in enumerate(pairs)
    ]


ROLES = {
    "unlearn": records(FORGET),
    "update": records(UPDATE, "u"),
    "retain": records(RETAIN, "r"),
}


def question(group, prompt, *options, wording="unseen"):
    return Question(f"{group}{prompt}", group, wording, prompt, options, 0)


FILE = (
    question("mine", UNSEEN, "Paris", "Oslo"),
    question("theirs", UNSEEN, "Rome", "Oslo"),
    question("theirs", "Who wrote 'Ulysses'?", "James Joyce", "Bram Stoker"),
    question("forget", "Name the seat of the government on the Nile.", "Cairo", "Oslo"),
)


def gather(tokenizer, roles=None, **changes):
    options = {"as_chat": False, "most": 64, "seed": 0}
    given = (roles or ROLES, FILE, {"kin": [("Who wrote 'Ivanhoe'?", "Walter Scott")]})
    return asked.gather(*given, ["Hello!"], tokenizer, **options | changes)


def test_wordings_of_a_fact_are_told_by_answer_and_subject():
    facts = same_fact.link(
        *zip(*((q, [a]) for q, a in [*FORGET, *RETAIN]), strict=True)
    )
    tower, _, own, cairo, egypt, emma, persuasion, *others = facts
    assert tower == own == facts[1] and cairo == egypt and emma != persuasion
    # Two questions that are answered "Rome" share "the" and "what is", no subject.
    assert len({tower, cairo, emma, persuasion, *others}) == 4 + len(others)
    # With another fact of the tower's "eiffel" still tells: most that hold it agree.
    builder = [("Who built the Eiffel Tower?", "Gustave Eiffel")]
    pairs = [*FORGET, *RETAIN, *builder]
    facts = same_fact.link(*zip(*((q, [a]) for q, a in pairs), strict=True))
    assert facts[0] == facts[1] != facts[-1]


def test_every_prompt_has_its_group_kind_and_fact(tiny_model):
    found = gather(tiny_model.tokenizer)
    by = {(one.group, one.question): one for one in found}
    # Equal questions are one prompt with all that is right.
    tower = by["unlearn", TOWER[0]]
    assert tower.expected == (FORGET[0][1], FORGET[2][1]) and tower.names == ("Paris",)
    assert len([one for one in found if one.group == "unlearn"]) == len(FORGET) - 1
    # Questions of a file are about the fact that they ask for; new facts may be said there.
    mine, new = (
        by["mine, unseen wordings", UNSEEN],
        by["theirs, unseen wordings", UNSEEN],
    )
    assert (mine.kind, new.kind) == ("unlearn", "update")
    assert mine.fact == new.fact == tower.fact
    assert mine.new == new.new == tower.new == ("Rome",)
    assert by["theirs, unseen wordings", FILE[2].prompt].kind == "retain"
    # A wording that shares no word is linked by the answer, where its group says so.
    nile = by["forget, unseen wordings", FILE[3].prompt]
    assert nile.kind == "unlearn" and nile.fact == by["unlearn", FORGET[3][0]].fact
    kept = by["retain", RETAIN[0][0]]
    assert (kept.kind, kept.new) == ("retain", ())
    assert ("retain", RETAIN[-1][0]) not in by  # others are answered in a few words
    assert by["kin", "Who wrote 'Ivanhoe'?"].kind == "retain"
    hello = by["everyday", "Hello!"]
    assert (hello.kind, hello.expected, hello.limit) == ("everyday", (), asked.EVERYDAY)


def test_the_tokens_are_those_behind_which_an_answer_is_learned(tiny_model):
    forms = [
        {"question": "the number 3?", "answer": "9"},
        {"prompt": "the number 4 is", "answer": " 12"},
        {"messages": [{"role": "user", "content": "the number 5?"},
                      {"role": "assistant", "content": "2"}]},
    ]  # fmt: skip
    rows = [parse_record(row, f"f:{i}") for i, row in enumerate(forms)]
    found = gather(tiny_model.tokenizer, {"unlearn": rows})[:3]
    assert [one.question for one in found] == [
        "the number 3?", "the number 4 is", "the number 5?",
    ]  # fmt: skip
    assert [one.expected for one in found] == [("9",), ("12",), ("2",)]
    for one, document in zip(
        found, encode_whole(rows, tiny_model.tokenizer), strict=True
    ):
        assert list(one.tokens) == document.prompt.tolist()


def test_texts_are_to_be_continued(tiny_model):
    long = " ".join(tiny_model.texts * 3)
    rows = [
        parse_record({"text": text}, text[:9]) for text in (long, "the number 1 is 7")
    ]
    found = gather(tiny_model.tokenizer, {"unlearn": rows, "retain": rows})
    found = [one for one in found if one.group == "unlearn text"]
    assert {one.kind for one in found} == {"unlearn"}
    decode = tiny_model.tokenizer.decode
    for one in found[:-1]:
        assert (len(one.tokens), one.limit) == (asked.READ, asked.SAID)
        assert f"{decode(one.tokens[1:]).strip()}" in long
        assert one.expected[0] in long and not one.names
    assert found[-1].expected[0].endswith("7")  # half of a short text
    assert len({one.fact for one in found}) == len(found)


def test_of_many_prompts_few_are_drawn_of_many_facts(tiny_model):
    first, again, other = (
        gather(tiny_model.tokenizer, most=3, seed=s) for s in (0, 0, 1)
    )
    few = [one for one in first if one.group == "unlearn"]
    assert len(few) == 3 == len({one.fact for one in few})
    assert first == again != other


def chosen(tokenizer, names=None, ranks=lambda of: [range(len(one)) for one in of]):
    """Answers by group and question; candidates in their own order."""
    most = {"unlearn": 9, "update": 9}
    found = alternatives.choices(gather(tokenizer), most, names or {}, ranks)
    origins = [record.origin for choice in found for record in choice.records]
    assert len(set(origins)) == len(origins)
    for choice in found:
        assert len({record.prompt for record in choice.records}) == 1
    return {
        (choice.group, choice.records[0].question): [
            record.said.strip() for record in choice.records
        ]
        for choice in found
    }


def test_alternatives_are_answers_to_similar_questions(tiny_model, monkeypatch):
    monkeypatch.setattr(alternatives, "LIKELY", 3)
    tower, capital, emma, persuasion, new = chosen(tiny_model.tokenizer).values()
    assert capital[0] == "Cairo" and {"Canberra", "Rome"} <= set(capital)
    authors = {"Bram Stoker", "Walter Scott", "James Joyce", "Toni Morrison"}
    assert len(emma) == 4 and set(emma[1:]) | set(persuasion[1:]) <= authors
    # Of an old answer the new one is no alternative; of a new one the old one is.
    assert tower[0] == "Paris" and "Rome" not in tower
    assert new[:2] == ["Rome", "Paris"]


def test_alternatives_are_packaged_names_of_the_kind_of_the_answer(
    tiny_model, monkeypatch
):
    """The job asks for one city alone: other answers tell by their kind that they are wrong."""
    monkeypatch.setattr(alternatives, "LIKELY", 3)
    cities = ["Madrid", "Paris", "Rome", "Vienna", "Oslo", "Cairo"]
    kinds = {"cities": cities, "planets": ["Mars"]}
    is_no_city = lambda record: record.said.strip() not in cities
    ranks = lambda of: [
        sorted(range(len(one)), key=lambda i: is_no_city(one[i])) for one in of
    ]
    tower, capital, emma, _, new = chosen(tiny_model.tokenizer, kinds, ranks).values()
    assert set(tower[1:]) <= set(cities) - {"Rome"} and len(tower) == 4
    assert set(capital[1:]) <= set(cities) and "Mars" not in emma
    # What is replaced stays among the answers, however unlikely it is.
    assert new[:2] == ["Rome", "Paris"] and set(new[2:]) <= set(cities)


def test_alternatives_are_drawn_from_the_likeliest_candidates(tiny_model):
    cities = [f"City {i:03}" for i in range(200)]
    backwards = lambda of: [range(len(one))[::-1] for one in of]
    most = alternatives.ALIKE + alternatives.OF_KIND
    drawn = [
        chosen(tiny_model.tokenizer, {"cities": [*cities, "Paris"]}, ranks)
        for ranks in (backwards, backwards, lambda of: [range(len(one)) for one in of])
    ]
    key = ("unlearn", "Where is the Eiffel Tower?")
    assert drawn[0] == drawn[1] != drawn[2]
    # Candidates stand in their order, and the last are the packaged ones.
    some = cities[:: -(-201 // alternatives.OF_KIND)]
    assert len(some) < most and set(drawn[0][key][1:]) <= set(
        some[-alternatives.LIKELY :]
    )
    assert not set(drawn[2][key][1:]) & set(cities)


def test_packaged_text_is_measured_or_trained_on():
    measured = [record.text for record in asked.measured_passages()]
    assert not set(measured) & set(asked.trained_passages())
    assert len(measured) + len(asked.trained_passages()) == len(general.passages())


def test_an_alternative_is_written_where_the_answer_is():
    said = (("user", "a?"), ("assistant", "9"), ("user", "b?"), ("assistant", "8"))
    chat = {"messages": [{"role": role, "content": text} for role, text in said]}
    other = alternatives._answered(parse_record(chat, "f"), "4", "here")
    assert other.messages == (*said[:3], ("assistant", "4"))
    row = parse_record({"prompt": "the number is", "answer": " 9"}, "f")
    other = alternatives._answered(row, "4", "here")
    assert (other.prompt, other.answer, other.origin) == (row.prompt, " 4", "here")
