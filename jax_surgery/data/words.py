# SPDX-License-Identifier: Apache-2.0
"""A tokenizer of whole words, for models that are trained from scratch
with a small vocabulary."""

from collections.abc import Iterable

from jax_surgery.data.bpe import BOS, EOS, PAD

UNKNOWN = "<unk>"


def word_tokenizer(texts: Iterable[str], vocab_size: int):
    """A token for each word that stands between spaces in the texts.

    Args:
      texts: what to tokenise.
      vocab_size: tokens at most, the four special ones included.

    Returns:
      A `transformers.PreTrainedTokenizerFast` with bos, eos, pad, unk (ids 0 to 3).

    Raises:
      ValueError: more words than that.
    """
    import tokenizers
    import transformers

    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate([BOS, EOS, PAD, UNKNOWN, *words])}
    if len(vocabulary) > vocab_size:
        raise ValueError(
            f"config.new_model.vocab_size={vocab_size}: the texts have "
            f"{len(vocabulary)} words, special tokens included; raise it, or use "
            "config.new_model.tokenizer='bpe'."
        )
    model = tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
    )
