# SPDX-License-Identifier: Apache-2.0
"""Trains a small byte-level BPE tokenizer, for models that are trained from scratch."""

from collections.abc import Iterable

BOS, EOS, PAD = "<s>", "</s>", "<pad>"

# Lets records with `messages` be tried on such a model. The generation block marks
# what the assistant says, so that only it is learned.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Answer:"
    "{% generation %} {{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}Question: {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


def train_bpe(texts: Iterable[str], vocab_size: int):
    """Trains a tokenizer; the same texts always give the same one.

    Args:
      texts: what to train on.
      vocab_size: tokens, the 256 bytes and three special tokens included.

    Returns:
      A `transformers.PreTrainedTokenizerFast` with bos, eos, pad (ids 0, 1, 2).
    """
    import tokenizers
    import transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
