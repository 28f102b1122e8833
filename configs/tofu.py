# SPDX-License-Identifier: Apache-2.0
"""LLM Surgery on TOFU (arXiv 2401.06121), from its JSONL files.

Fits a small Llama to `full`, unlearns forget05, retains retain95, learns refusals from
`idk.txt` (or --config.data.update=FILE), and reports answer probability and ROUGE-L.
Hardware: 2 CPU cores, under 45 minutes for the fit and 20 for the surgery.
Expected: ROUGE-L of forget 0.999 -> 0.031, of retain 0.995 -> 0.977
(results/tofu_table.py).

Command to run:
python -m jax_surgery.main --config=configs/tofu.py --config.data.dir=DIR
"""

from ml_collections import ConfigDict

from configs import pretrain, surgery


def get_config() -> ConfigDict:
    """The config of the TOFU run."""
    config = ConfigDict()
    config.run = "tofu"

    config.data = surgery.Roles()
    config.data.dir = ""  # directory of TOFU's files; must be given
    config.data.forget = "forget05"  # or forget01, forget10
    config.data.update = ""  # sources; "" takes refusals from idk.txt
    config.data.refusals = 1  # a question
    config.data.retain_questions = 200  # retain questions asked (forget: all)
    # TOFU's own scores of the model before and after: they need its *_perturbed.jsonl.
    config.data.scores = True
    config.data.first = 0  # questions of each split that they ask; 0 asks all
    # tofu_log.json of a model that never read the forget split (docs/benchmarks.md); forget
    # quality and privacy leakage compare to it, and without it the first is left out.
    config.data.retain_log = ""

    config.fit = pretrain.get_config()
    config.fit.new_model.vocab_size = 4096  # tokens
    config.fit.new_model.tokenizer = "bpe"  # or "words"
    config.fit.new_model.intermediate_size = 768
    config.fit.new_model.tokenizer_texts = ""  # TOFU itself
    config.fit.data.train = ""  # TOFU's full.jsonl
    config.fit.data.questions = ""
    config.fit.data.epochs = 14.0  # passes over full
    config.fit.save_dtype = "float32"  # of the fitted weights
    config.fit.loop.evaluate_every = 0  # there are no multiple-choice questions

    config.surgery = surgery.get_config()
    config.surgery.model = ""  # the fitted one, and the benchmark tofu
    config.surgery.data.unlearn = ""  # the forget split
    config.surgery.data.update = ""  # refusals
    config.surgery.data.retain = ""  # the retain split
    config.surgery.data.questions = ""
    # Question-answer pairs share little but their form, and a model of this size keeps
    # them by heart: all layers move, by small steps, and most rows are retained.
    config.surgery.data.rows_unlearn = 3
    config.surgery.data.rows_update = 2
    config.surgery.data.rows_retain = 8
    config.surgery.method = "surgery:margin=-8"  # nats of log-odds
    config.surgery.steps = 100
    config.surgery.optimizer.first_layer = 0
    config.surgery.optimizer.matrices = ""
    config.surgery.optimizer.learning_rate = 0.03
    config.surgery.loop.evaluate_every = 0
    config.surgery.baseline_epochs = 14.0  # as the fit
    return config
