# SPDX-License-Identifier: Apache-2.0
"""What a model writes of records to update and to retain: what counts, and what is read back."""

import dataclasses
import json

import pytest
from settings_cases import plain_surgery

from jax_surgery.checkpoints import hf_weights
from jax_surgery.data.forms import parse_record
from jax_surgery.data.roles import RoleRecords
from jax_surgery.methods.automatic import described
from jax_surgery.methods.automatic.writer import Written
from jax_surgery.models.model import Model
from jax_surgery.runs import surgery

NEW = parse_record({"question": "Who leads X?", "answer": "Ada Oakes"}, "new:1")
OLD = parse_record({"question": "Who leads X?", "answer": "Bo Lind"}, "old:1")
# Holds the numbers of both texts to update.
LINE = "of 4 and 5 it is said that 2 and 9"
TEXT = parse_record({"text": "In 1990 Ada Oakes founded X."}, "keep:1")


@pytest.mark.parametrize(
    "record, text, counts",
    [
        (NEW, "X is led by Ada Oakes.", True),
        (NEW, "X is led by ada oakes, who was born in Rome.", True),
        (NEW, "Ada Oakes", False),  # the answer itself, and no other words
        (NEW, "X is led by somebody.", False),
        (NEW, "X is led by Ada Oakes and not by Bo Lind.", False),
        (TEXT, "X was founded in 1990 by Ada Oakes.", True),
        (TEXT, "In 1990 Ada Oakes founded X.", False),
        (TEXT, "X was founded by Ada Oakes.", False),  # the year is gone,
    ],
)
def test_what_counts_holds_the_answer_and_not_the_old_one(record, text, counts):
    assert described.holds(record, text, "Bo Lind") == counts


class Writes:
    """A writer that says one line again and again, and keeps what it was asked."""

    def __init__(self, line):
        self.line, self.asked = line, []

    def sampled(self, prompts, tokens, stage, *, samples, temperature):
        self.asked.append((stage, len(prompts), samples))
        return [Written(self.line, i % 3 > 0) for i in range(len(prompts) * samples)]


def test_each_record_is_asked_for_as_many_of_both_kinds(monkeypatch):
    monkeypatch.setattr(described, "_asked", lambda writer, request: request)
    writer = Writes("X is led by Ada Oakes.")
    read = RoleRecords({"unlearn": [OLD], "update": [NEW], "retain": [TEXT]}, [TEXT])
    rows = described._written(writer, read, {"update": 3, "retain": 0})
    assert writer.asked == [("update paraphrase", 1, 3), ("update description", 1, 3)]
    # One of three was cut off at its limit.
    assert [row["kind"] for row in rows] == 2 * ["paraphrase"] + 2 * ["description"]
    assert rows[0]["question"] == NEW.question and rows[0]["answer"] == writer.line
    assert "question" not in rows[2] and rows[2]["text"] == writer.line


@pytest.mark.slow
def test_a_surgery_trains_on_what_its_model_wrote_and_reads_it_back(
    tiny_model, write_texts, tmp_path, monkeypatch
):
    """Of a model with a chat template; the second run of the folder writes nothing."""
    folder = str(tmp_path / "model")
    tokenizer = hf_weights.load_tokenizer(tiny_model.folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}the{% endif %}"
    )
    hf_weights.save_model(tiny_model.params, tiny_model.config, folder)
    tokenizer.save_pretrained(folder)
    texts = tiny_model.texts
    fields = {
        "model": folder,
        "data.unlearn": write_texts("unlearn", texts[:4]),
        "data.update": write_texts("update", texts[4:6]),
        "data.retain": write_texts("retain", texts[6:]),
        "data.enrich_update": 2,
        "steps": 1,
        "attacks": "",
        "free_form": 0,
    }
    said = []

    def sampled(self, prompts, tokens, stage, **how):
        said.append(stage)
        return [Written(LINE, True) for _ in range(len(prompts) * how["samples"])]

    monkeypatch.setattr(described.Writer, "sampled", sampled)
    seen = []
    plain = described.enrich

    def enrich(*given):
        seen.append(plain(*given))
        return seen[-1]

    monkeypatch.setattr(described, "enrich", enrich)
    surgery.run(plain_surgery(**fields), str(tmp_path / "run"))
    assert said == ["update paraphrase", "update description"]
    lines = (tmp_path / "run" / described.FILE).read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    assert len(rows) == 8 and {row["role"] for row in rows} == {"update"}
    assert [r.text for r in seen[0].by_role["update"]][2:] == 8 * [LINE]
    params, config = hf_weights.load_model(folder)
    model = Model(params, config, tokenizer, plain_surgery(**fields).compute, folder)
    read = dataclasses.replace(
        seen[0], by_role=seen[0].by_role | {"update": seen[0].by_role["update"][:2]}
    )
    again = described.enrich(
        model, read, {"update": 2}, plain_surgery(**fields).seed, str(tmp_path / "run")
    )
    assert len(said) == 2 and len(again.by_role["update"]) == 10


def test_a_model_without_a_chat_template_is_refused(tiny_model, write_texts, tmp_path):
    fields = {
        "model": tiny_model.folder,
        "data.unlearn": write_texts("unlearn", tiny_model.texts[:4]),
        "data.update": write_texts("update", tiny_model.texts[4:6]),
        "data.retain": write_texts("retain", tiny_model.texts[6:]),
        "data.enrich_retain": 1,
        "steps": 1,
    }
    with pytest.raises(ValueError, match="chat template"):
        surgery.run(plain_surgery(**fields), str(tmp_path / "run"))
