# SPDX-License-Identifier: Apache-2.0
"""What two roles both learn is found in whichever form it stands."""

import json
import warnings

import chat_templates
import pytest
from chat_templates import chat, with_template

from jax_surgery.data import overlap, records, roles, template_marks
from jax_surgery.data.forms import parse_record
from jax_surgery.data.role_texts import pack
from jax_surgery.data.tokens import encode_whole

USER, SAID = "who keeps the geese?", "tamsin oakes"


@pytest.fixture(scope="module")
def plain():
    return chat_templates.tokenizer()


def asked_with(tokenizer) -> str:
    """The text after which the answer to the question is learned."""
    record = parse_record({"question": USER, "answer": SAID}, "asked")
    (made,) = encode_whole([record], tokenizer)
    return tokenizer.decode(made.prompt)


def forms(tokenizer):
    """The same question and answer in every form."""
    rendered = asked_with(tokenizer)
    system = tokenizer.apply_chat_template(
        chat(USER, system="be brief."), tokenize=False, add_generation_prompt=True
    )
    return {
        "question": {"question": f" {USER} ", "answer": SAID.title()},
        "chat": {"messages": chat(USER, SAID)},
        "with a system message": {"messages": chat(USER, SAID, system="be brief.")},
        "rendered": {"prompt": rendered, "answer": f" {SAID}"},
        "rendered with a system message": {"prompt": system, "answer": SAID},
        "rendered whole": {"text": rendered + SAID},
        "plain": {"prompt": f"Question: {USER}\nAnswer:", "answer": f" {SAID}"},
        "bare": {"prompt": USER, "answer": f" {SAID}"},
    }


@pytest.mark.parametrize("template", ["chatml", "system", "llama2", "distilled"])
def test_every_form_is_seen_in_every_other(plain, template):
    tokenizer = with_template(plain, template)
    if template == "distilled":  # it takes no system message
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{{ bos_token }}",
            "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
            "{{ messages[0]['content'] }}{% set messages = messages[1:] %}{% endif %}",
            1,
        )
    found = {name: parse_record(row, name) for name, row in forms(tokenizer).items()}
    for name, one in found.items():
        for other, two in found.items():
            assert overlap.find([one], [two], tokenizer) == [f"{name} = {other}"]


def test_users_and_systems_that_are_written_alike_are_told_apart_by_no_one(plain):
    """The template of models that are trained here writes both as questions."""
    tokenizer = with_template(plain, template_marks.CHAT_TEMPLATE)
    found = forms(tokenizer)
    del found["rendered with a system message"]
    one = parse_record(found["question"], "one")
    for name, row in found.items():
        two = parse_record(row, "two")
        assert overlap.find([one], [two], tokenizer) == ["one = two"], name


def test_other_answers_questions_and_histories_are_no_overlap(plain):
    tokenizer = with_template(plain, "chatml")
    one = [parse_record({"messages": chat(USER, SAID)}, "one")]
    rendered = asked_with(tokenizer)
    for row in (
        {"question": USER, "answer": "someone."},
        {"question": "who keeps geese?", "answer": SAID},
        {"messages": chat("of fern lane", "it is", USER, SAID)},
        {"prompt": rendered, "answer": "someone."},
        {"prompt": rendered.replace("geese", "ducks"), "answer": SAID},
        {"text": SAID},
        {"text": USER},
    ):
        assert not overlap.find(one, [parse_record(row, "two")], tokenizer), row
    # A later turn alone is what is learned in both.
    both = [parse_record({"messages": chat("of fern lane", "it is", USER, "no")}, "b")]
    again = {"messages": chat("of fern lane", "it is", USER, "yes")}
    assert overlap.find(both, [parse_record(again, "c")], tokenizer) == ["b = c"]


def test_templates_that_cannot_be_read_back_hide_nothing_else(plain):
    """Such a template's rendered prompts are compared as they stand."""
    odd = with_template(plain, "{{ messages | length }}{{ messages[-1]['content'] }}")
    one = parse_record({"messages": chat(USER, SAID)}, "one")
    two = parse_record({"question": USER, "answer": SAID}, "two")
    assert overlap.find([one], [two], odd) == ["one = two"]


@pytest.fixture
def files(tmp_path):
    def write(**rows):
        for role, row in rows.items():
            (tmp_path / f"{role}.jsonl").write_text(json.dumps(row))
        return roles.RoleData(
            **{role: str(tmp_path / f"{role}.jsonl") for role in rows},
            rows_unlearn=1, rows_update=1, rows_retain=1, context=64,
            average="tokens", surprise=0.0, questions="", paper="", chat="auto", enrich_update=0,
            enrich_retain=0,
        )  # fmt: skip

    return write


OTHER = {"question": "and?", "answer": "it is someone."}
ASKED = {"question": USER, "answer": SAID}


@pytest.mark.parametrize("role", ["update", "retain"])
def test_what_is_unlearned_may_have_no_other_role(files, role):
    rest = {"update": OTHER, "retain": {"text": "be kind."}}
    data = files(unlearn=ASKED, **(rest | {role: {"messages": chat(USER, SAID)}}))
    with pytest.raises(ValueError, match=f"1 texts are in both unlearn and {role}: "):
        roles.read(data, "", {})


def test_what_is_updated_and_retained_is_warned_of(files):
    data = files(
        unlearn=OTHER, update=ASKED, retain={"prompt": USER, "answer": " " + SAID}
    )
    with pytest.warns(UserWarning, match="1 texts are in both update and retain: "):
        roles.read(data, "", {})


def test_a_rendered_prompt_is_seen_once_the_tokenizer_is_there(files, plain):
    tokenizer = with_template(plain, "system")
    prompt = {"prompt": asked_with(tokenizer), "answer": SAID}
    data = files(unlearn=ASKED, update=OTHER, retain=prompt)
    read = roles.read(data, "", {})  # its words are another text
    with pytest.raises(ValueError, match="unlearn and retain: .*unlearn.jsonl:1 = "):
        pack(read, data, tokenizer)


def test_what_is_updated_and_retained_is_warned_of_once(files, plain):
    """Though it is compared again once the tokenizer is there."""
    tokenizer = with_template(plain, "system")
    prompt = {"prompt": asked_with(tokenizer), "answer": SAID}
    data = files(unlearn=OTHER, update=prompt, retain=prompt)
    with pytest.warns(UserWarning, match="1 texts are in both update and retain"):
        read = roles.read(data, "", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roles.check_roles(read, tokenizer)
    data = files(unlearn=OTHER, update=ASKED, retain=prompt)
    read = roles.read(data, "", {})
    with pytest.warns(UserWarning, match="1 texts are in both update and retain"):
        roles.check_roles(read, tokenizer)


def test_retained_text_is_gone_through_once(files, plain, monkeypatch):
    seen = []

    def keys(record, marks, of=overlap.keys):
        seen.append(record.origin.rpartition("/")[2])
        return of(record, marks)

    monkeypatch.setattr(overlap, "keys", keys)
    read = roles.read(files(unlearn=OTHER, update=ASKED, retain={"text": "be"}), "", {})
    assert seen.count("retain.jsonl:1") == 1
    # No prompt was rendered before: the tokenizer shows nothing new.
    seen.clear()
    roles.check_roles(read, with_template(plain, "chatml"))
    # Nothing is unlearned or updated.
    roles.check_roles(roles.RoleRecords({}, read.retained))
    assert not seen


def test_every_source_of_retained_text_counts(files, tmp_path):
    data = files(unlearn=ASKED, update=OTHER, retain={"text": "be kind."})
    statistics = tmp_path / "statistics.jsonl"
    statistics.write_text(json.dumps({"messages": chat(USER, SAID, system="be kind.")}))
    with pytest.raises(ValueError, match="unlearn and retain: .*statistics.jsonl:1"):
        roles.read(data, str(statistics), {})
    assert records.read_source(str(statistics))
