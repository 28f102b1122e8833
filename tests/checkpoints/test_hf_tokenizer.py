# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: what is missing or broken is one line, and ids fit the model."""

import importlib.util
import json
import pathlib
import shutil

import pytest

from jax_surgery.checkpoints import hf_tokenizer, hf_weights
from jax_surgery.data.bpe import train_bpe

CASES = pathlib.Path(__file__).parents[2].parent / "shared" / "cases"
VOCABULARY = 270


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    made = tmp_path_factory.mktemp("saved")
    train_bpe(["a small text to learn from"], VOCABULARY).save_pretrained(made)
    card = {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 16}
    card |= {"intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    card |= {"bos_token_id": 0, "eos_token_id": 1}
    (made / "config.json").write_text(json.dumps(card))
    return made


@pytest.fixture
def folder(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "model"))


def change(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def message_of(folder, kind=ValueError):
    with pytest.raises(kind) as error:
        hf_weights.load_tokenizer(str(folder))
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    return str(error.value)


def test_a_directory_without_a_tokenizer_says_so(folder):
    (folder / "tokenizer.json").unlink()
    assert "holds no tokenizer" in message_of(folder, FileNotFoundError)


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("tokenizer.json", "", "tokenizer.json is not JSON"),
        ("tokenizer.json", '{"version": "1.0"', "tokenizer.json is not JSON"),
        ("tokenizer.json", "{}", "cannot be read"),
        ("tokenizer.json", '{"version": "1.0", "model": {}}', "cannot be read"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds a list"),
        ("special_tokens_map.json", "nonsense", "special_tokens_map.json is not JSON"),
        ("generation_config.json", "{", "generation_config.json is not JSON"),
    ],
)
def test_a_broken_file_is_one_line(folder, name, text, said):
    (folder / name).write_text(text)
    assert said in message_of(folder)


def test_code_of_a_directory_is_not_run(folder):
    proof = folder / "was-run"
    code = f"open({str(proof)!r}, 'w')\nclass Own: pass\n"
    (folder / "own.py").write_text(code)
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["own.Own", "own.Own"]},
    )
    try:
        hf_weights.load_tokenizer(str(folder))
    except ValueError as error:
        assert "cannot be read" in str(error)
    assert not proof.exists()


def test_tokens_without_a_row_in_the_embedding_are_an_error(folder):
    assert hf_weights.load_tokenizer(str(folder))
    change(folder / "config.json", vocab_size=VOCABULARY + 10)  # padded: right
    assert hf_weights.load_tokenizer(str(folder))
    change(folder / "config.json", vocab_size=VOCABULARY - 2)
    said = message_of(folder)
    assert "has 2 tokens without a row" in said
    assert "largest id is 269, and vocab_size=268" in said
    assert "(268), " in said and "resize_token_embeddings" in said


def test_a_placeholder_of_images_without_a_row_is_left_out(folder):
    """As in the text models of Gemma 3, whose tokenizer is that of the others."""
    plain = hf_weights.load_tokenizer(str(folder))
    image = "<image_soft_token>"
    plain.add_special_tokens({"additional_special_tokens": [image]})
    plain.save_pretrained(folder)
    assert "has 1 tokens without a row" in message_of(folder)
    change(folder / "tokenizer_config.json", image_token=image)
    found = hf_weights.load_tokenizer(str(folder))
    ids = found(f"a {image} to", add_special_tokens=False)["input_ids"]
    assert max(ids) < VOCABULARY and len(ids) > 3
    assert found.decode(ids) == f"a {image} to"
    change(folder / "config.json", vocab_size=VOCABULARY + 1)  # the embedding has it
    held = hf_weights.load_tokenizer(str(folder))
    assert held.convert_tokens_to_ids(image) == VOCABULARY


def test_ends_of_text_past_the_vocabulary_are_an_error(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 270]}')
    said = message_of(folder)
    assert "eos_token_id of generation_config.json 270 is past vocab_size=270" in said
    (folder / "generation_config.json").unlink()
    change(folder / "config.json", eos_token_id=999)
    assert "eos_token_id of config.json 999" in message_of(folder)


def test_a_users_tokenizer_beyond_the_vocabulary():
    case = CASES / "03-beyond-vocab" / "model"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    said = message_of(case)
    assert "largest id is 401, and vocab_size=400" in said
    assert "'<brinwick>' (400), '<oakes>' (401)" in said


def test_pieces_alone_need_sentencepiece(folder, monkeypatch):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"")
    real = importlib.util.find_spec
    hidden = lambda name: None if name == "sentencepiece" else real(name)
    monkeypatch.setattr(hf_tokenizer.importlib.util, "find_spec", hidden)
    said = message_of(folder)
    assert "the package sentencepiece reads" in said and "`sentencepiece`" in said


def test_pieces_are_read_with_sentencepiece(tmp_path):
    pytest.importorskip("sentencepiece")
    case = CASES / "19-tokenizer-model-only" / "model"
    if not case.is_dir():
        pytest.skip(f"{case} is not there")
    from plain_settings import plain_compute

    from jax_surgery.metrics import text
    from jax_surgery.train import devices

    model = devices.load(str(case), plain_compute())
    found = text.file_nll(model, str(CASES / "texts.jsonl"), 64)
    assert found["nll_per_token"] == pytest.approx(7.1716, abs=1e-4)
    hf_weights.save_model(
        model.params, model.config, str(tmp_path), tokenizer_source=str(case)
    )
    again = hf_weights.load_tokenizer(str(tmp_path))
    sentence = "The ferry leaves at nine."
    assert again(sentence)["input_ids"] == model.tokenizer(sentence)["input_ids"]
