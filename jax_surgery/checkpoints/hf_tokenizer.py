# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's tokenizer, and whether it fits the checkpoint's model."""

import importlib.util
import json
import tempfile
import warnings
from typing import Any

from etils import epath

from jax_surgery.checkpoints import hf_index
from jax_surgery.models.config import ModelConfig
from jax_surgery.storage import files

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
# Each of these is a tokenizer, together with the others that are there.
WHOLE = ("tokenizer.json", "tokenizer.model", "vocab.json")
# The tokenizer's attributes that name tokens which stand for no text.
PLACEHOLDERS = ("image_token", "audio_token", "video_token")
SHOWN = 5  # tokens that a message names


def copy(origin: epath.Path, folder: epath.Path) -> None:
    """Copies the tokenizer's files of a checkpoint into another's folder."""
    for name in FILES:
        if (origin / name).exists():
            files.copy(origin / name, folder / name)


def _check_files(folder: epath.Path) -> None:
    """Raises where the files in a folder are no tokenizer that can be read here."""
    there = [name for name in FILES if (folder / name).exists()]
    if not set(WHOLE) & set(there):
        raise FileNotFoundError(
            f"{folder} holds no tokenizer (tokenizer.json, or tokenizer.model of "
            "SentencePiece); copy the tokenizer's files of the model into it."
        )
    for name in there:
        if name.endswith(".json"):
            hf_index.read_json(folder / name)
    only_pieces = "tokenizer.json" not in there and "tokenizer.model" in there
    if only_pieces and importlib.util.find_spec("sentencepiece") is None:
        raise ValueError(
            f"{folder} holds its tokenizer as tokenizer.model (SentencePiece) alone, "
            "which the package sentencepiece reads: install it, or this package with its "
            "extra `sentencepiece`."
        )


def load(folder: epath.Path) -> Any:
    """The tokenizer (`transformers`, fast) in a folder, local or gs://.

    Nothing that the folder holds is executed.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it cannot be read, or gives no character offsets.
    """
    import transformers

    _check_files(folder)
    with tempfile.TemporaryDirectory() as local:
        place = str(folder)
        if "://" in place:  # transformers reads no buckets
            place = local
            copy(folder, epath.Path(local))
            if (folder / "config.json").exists():
                files.copy(folder / "config.json", epath.Path(local) / "config.json")
        try:
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                place, trust_remote_code=False
            )
            # Some fields that are wrong are read without a word, and show in use alone.
            tokenizer(["a text"], return_attention_mask=False, verbose=False)
        except BaseException as error:
            # What the Rust library panics with is no Exception.
            panicked = type(error).__name__ == "PanicException"
            if not panicked and not isinstance(error, Exception):
                raise
            said = (str(error).strip().splitlines() or [""])[0][:300]
            raise ValueError(
                f"the tokenizer in {folder} cannot be read ({type(error).__name__}: "
                f"{said}). Copy the tokenizer's files of the model into it again."
            ) from error
    if not tokenizer.is_fast:
        raise ValueError(
            f"the tokenizer in {folder} is a slow one, which gives no character "
            "offsets. Save it as a fast tokenizer (with a tokenizer.json)."
        )
    return tokenizer


def without_placeholders(tokenizer: Any, config: ModelConfig) -> Any:
    """The tokenizer without tokens for images and sounds that its model has no row for.

    The text models of Gemma 3 (1B) come with the tokenizer of those that see images.
    Text that holds the name of such a token is then read as its characters.
    """
    import tokenizers

    named = (str(getattr(tokenizer, name, None)) for name in PLACEHOLDERS)
    vocabulary = tokenizer.get_vocab()
    absent = {t for t in named if vocabulary.get(t, -1) >= config.vocab_size}
    if absent:
        held = json.loads(tokenizer.backend_tokenizer.to_str())
        added = held["added_tokens"]
        held["added_tokens"] = [t for t in added if t["content"] not in absent]
        tokenizer._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(held))
    return tokenizer


def check(tokenizer: Any, config: ModelConfig, folder: epath.Path) -> None:
    """Raises ValueError where ids have no row in the embedding of the model.

    Looking such a token up would give another token's row.

    Args:
      tokenizer: in the folder.
      config: of the model there.
      folder: for messages.
    """
    rows = config.vocab_size
    beyond = sorted(
        (i, token) for token, i in tokenizer.get_vocab().items() if i >= rows
    )
    if beyond:
        first = ", ".join(f"{token!r} ({i})" for i, token in beyond[:SHOWN])
        raise ValueError(
            f"the tokenizer in {folder} has {len(beyond)} tokens without a row in the "
            f"model's embedding: its largest id is {beyond[-1][0]}, and vocab_size={rows} "
            f"has ids up to {rows - 1}. The first are {first}. Take the tokenizer that "
            "the model came with, or enlarge the model with resize_token_embeddings of "
            "transformers."
        )
    for name, ids in _ends(folder, config).items():
        if strange := [i for i in ids if i >= rows]:
            raise ValueError(
                f"{folder}: {name} {strange[0]} is past vocab_size={rows}, so no text can "
                "have it; correct it to the id of the token that is meant."
            )


def _ends(folder: epath.Path, config: ModelConfig) -> dict[str, list[int]]:
    """Ids of the tokens that begin and end texts, by the field that names them."""

    def listed(ids: Any) -> list[int]:
        ids = ids if isinstance(ids, list | tuple) else [ids]
        return [i for i in ids if type(i) is int]

    found = {
        "bos_token_id of config.json": listed(config.bos_token_id),
        "eos_token_id of config.json": listed(config.eos_token_id),
    }
    found["eos_token_id of generation_config.json"] = list(end_tokens(folder))
    return found


def end_tokens(folder: epath.Path) -> tuple[int, ...]:
    """What generation_config.json says ends an answer; () where it says nothing.

    Raises:
      ValueError: the file is no JSON object, or its eos_token_id no token.
    """
    file = folder / "generation_config.json"
    given = hf_index.read_json(file).get("eos_token_id") if file.exists() else None
    ids = given if isinstance(given, list) else [given]
    ends = tuple(i for i in ids if i is not None)
    if any(type(i) is not int for i in ends):
        raise ValueError(
            f"{file}: eos_token_id={given!r} must be the id of a token, or a list of "
            "them; correct it, or leave the field out."
        )
    return ends


def warn_of_positions(config: ModelConfig, context: int, source: str) -> None:
    """Warns where rows are longer than what the model was made for.

    Args:
      config: of the model.
      context: tokens of a row.
      source: of the model.
    """
    if context > config.reach:
        warnings.warn(
            f"rows of {context} tokens (config.data.context, of tasks "
            f"config.tasks.context) go beyond the {config.reach:g} positions of {source} "
            "(max_position_embeddings): what the model gives there is unreliable. Use "
            f"{config.reach:g} or less.",
            stacklevel=1,
        )
