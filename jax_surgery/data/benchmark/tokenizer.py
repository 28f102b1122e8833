# SPDX-License-Identifier: Apache-2.0
"""The embedded model's tokenizer: byte-level BPE trained on the world's texts."""

from jax_surgery.data.benchmark import corpus

VOCAB_SIZE = 2048
BOS, EOS, PAD = "<s>", "</s>", "<pad>"

# Lets records with `messages` be tried on the embedded model. The generation
# block marks what the assistant says, so that only it is learned.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Answer:"
    "{% generation %} {{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}Question: {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer:{% endif %}"
)


def train_tokenizer():
    """Trains the tokenizer: `PreTrainedTokenizerFast`, 2048 tokens, deterministic."""
    import tokenizers
    import transformers

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for name in corpus.SETS for text in corpus.texts(name))
    bpe.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
