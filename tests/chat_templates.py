# SPDX-License-Identifier: Apache-2.0
"""Chat templates of the kinds that published models have, on one small tokenizer."""

import copy
import re

from jax_surgery.data import bpe

SENTENCE = "who keeps the geese? tamsin oakes of fern lane. it is someone. be kind."
SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<think>",
    "</think>",
    "<start_of_turn>",
    "<end_of_turn>",
)
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# {% generation %} where a test wants it; `plain` leaves it out.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    + PROMPT
)
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nbe kind.<|im_end|>\n"
    "{% endif %}"
)
TURNS = (
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ first if loop.first }}{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEMPLATES = {
    # The turn's end is followed by a line break (Qwen, SmolLM2).
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}" + PROMPT,
    # What stands before </think> is dropped (Qwen3 and DeepSeek of earlier turns).
    "strips": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}" + PROMPT,
    # An empty block is written before the last answer (Qwen3).
    "thinks": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}" + PROMPT,
    # The prompt for generation ends in <think> (distilled Llamas).
    "distilled": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "<|user|>{{ m['content'] }}{% else %}<|assistant|>{{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n"
    "{% endif %}",
    # The system message lies within the user's first, and an answer after a space.
    "llama2": "{% if messages[0]['role'] == 'system' %}"
    "{% set rest = messages[1:] %}{% set first = '<<SYS>>\n' + messages[0]['content']"
    " + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set first = '' %}"
    "{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first %}{{ first }}{% endif %}{{ m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}",
    # The assistant is called the model, and a system message is refused (Gemma 2).
    "gemma2": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% set first = '' %}"
    "{% set rest = messages %}" + TURNS,
    # The same, and the system message stands before the user's first words (Gemma 3).
    "gemma3": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}" + TURNS,
    # No prompt for generation, and the end of a chat is marked too.
    "no_prompt": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{{ eos_token }}",
    # No token closes a turn.
    "open": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}",
}
# A default system message (SmolLM2); and the same with the assistant's words marked.
TEMPLATES["system"] = SYSTEM + TEMPLATES["chatml"]
TEMPLATES["marked"] = MARKED


def tokenizer():
    """A tokenizer with special tokens, and no template."""
    made = bpe.train_bpe([SENTENCE] * 4, 400)
    made.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    made.chat_template = None
    return made


def with_template(plain, name: str):
    """A copy of a tokenizer with a template of `TEMPLATES`, or with one in full."""
    made = copy.deepcopy(plain)
    made.chat_template = TEMPLATES.get(name, name)
    return made


def unmarked(template: str) -> str:
    """A template without generation blocks."""
    return re.sub(r"\{% (end)?generation %\}", "", template)


def chat(*said: str, system: str = "") -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant") * len(said)
    turns = [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)]
    return [{"role": "system", "content": system}, *turns] if system else turns
