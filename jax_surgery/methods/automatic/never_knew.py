# SPDX-License-Identifier: Apache-2.0
"""Which tokens carry knowledge, and what a model that never knew would say in their place.

The model that never knew is the model itself, kept from seeing the subject: the mean
prediction q of the frozen model over a few draws of Gaussian noise that is added to the
embeddings of the subject's tokens. Noise of three standard deviations of the embeddings is
what causal tracing hides a subject with (Meng et al. 2022, arXiv 2202.05262, section
2.1). A token carries knowledge where KL(q || p) from the model's own prediction p is
large, the token is likelier by p, and is not what q itself finds the likeliest: what the
sentence alone foretells, such as ".", is no knowledge. A word of the short answer carries
it too where it is much likelier by p than by q, however unlikely it is: a model that
answers in sentences hardly begins with the bare answer, and yet prefers it to wrong ones.
Left out are tokens

- of a word whose earlier token carries it: they spell what that one has said (each digit
  of a number stands for itself);
- of words that were said before, in the question or in the text, and of words of
  function (see `subjects`);
- without a letter or a digit, and special ones, such as the end of a turn.

Words of the short answer are capped in q, since q may still know them by what stands
before (of "F. Scott Fitzgerald" the last word): q(y) is at most `cap` times the
probability of the likeliest other token.

For each token a few others are drawn from q, without replacement, among the words that the
texts and the retained ones hold (`token_flags.pool`): what else could be said there. The
true token ends among them (`methods.never_knew`). A model that sees noise may be surer of
what it says than it is right: where even what it draws last is on average likelier than
the truth, which to a model that never knew is one answer of many, log q of the truth is
raised by that much (`among_drawn`).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_surgery.data import tokens
from jax_surgery.data.forms import Record
from jax_surgery.data.packing import Packer
from jax_surgery.data.stream import one_pass
from jax_surgery.data.tokens import Document
from jax_surgery.methods.automatic import beginnings, token_flags
from jax_surgery.methods.automatic.subjects import Marks
from jax_surgery.methods.never_knew import NeverKnew
from jax_surgery.models import decoder, mixtures, output_head
from jax_surgery.models.config import ModelConfig
from jax_surgery.models.documents import at_targets, shifted
from jax_surgery.models.mixtures import MixtureValues
from jax_surgery.models.model import Model
from jax_surgery.parallel import mesh as meshes

BATCH_ROWS = 4  # of a forward pass, at least
FEW = 32  # tokens, whose mean is half believed
# Tokens of a row, in steps of as many: several documents fill it well.
ROW_TOKENS = 256
TITLE = "which tokens carry knowledge"


class TokenEnds(NamedTuple):
    """Where each token of the texts to unlearn ends, laid end to end.

    Attributes:
      log_odds: float32 [tokens], nats.
      drawn: int32 [tokens, K]; other tokens of a model that never knew.
      likelier: float32 [tokens, K]; log q of those less that of the token, nats.
    """

    log_odds: np.ndarray
    drawn: np.ndarray
    likelier: np.ndarray

    def at(self, places: np.ndarray) -> "TokenEnds":
        """Those of some tokens."""
        return TokenEnds(*(values[places] for values in self))


class Targets(NamedTuple):
    """Of each token of documents that are laid end to end, [tokens].

    Attributes:
      knowledge: float32; KL(q || p) as the token is predicted, nats; 0 where it is not
        learned.
      carries: bool; whether it carries knowledge.
      target_log_odds: float32; the token's log-odds under q, nats; 0 where it is not
        learned.
      model_log_odds: float32; its log-odds under p, nats; 0 where it is not learned.
      drawn: int32 [tokens, K]; other tokens that a model that never knew says there.
      likelier: float32 [tokens, K]; log q of those less log q of the token, nats.
    """

    knowledge: np.ndarray
    carries: np.ndarray
    target_log_odds: np.ndarray
    model_log_odds: np.ndarray
    drawn: np.ndarray
    likelier: np.ndarray


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _of_rows(
    params,
    config: ModelConfig,
    compute: decoder.Compute,
    draws: int,
    batch,
    index_BT,
    hidden_BT,
    deviations,
    seed,
    pool_P,
) -> MixtureValues:
    """The values of each token as it is predicted, 0 where it is not learned.

    Args:
      index_BT: of each token among the whole documents: its noise does not depend on its row.
      hidden_BT: bool; which embeddings get noise.
      deviations: standard deviations of the embeddings.
    """
    table = params["embedder"]["embedding"]
    scale = deviations * jnp.std(table.astype(jnp.float32))
    index_BT = meshes.constrain(index_BT, meshes.ROWS)

    def run(draw):
        """Final hidden states; of draw 0 without noise."""
        key = jax.random.fold_in(jax.random.key(seed), draw)
        of_token = lambda index: jax.random.normal(
            jax.random.fold_in(key, index), (config.hidden_size,)
        )
        noise_BTD = scale * jax.vmap(jax.vmap(of_token))(index_BT)
        noised_BT = hidden_BT & (draw > 0)
        return decoder.forward_packed(
            params,
            config,
            batch,
            compute=compute,
            noise_BTD=jnp.where(noised_BT[..., None], noise_BTD, 0.0),
        )

    states_MBTD = jax.lax.map(run, jnp.arange(draws + 1))
    states_BTMD = jnp.moveaxis(states_MBTD, 0, 2)
    head = output_head.copies(params, config, compute)
    targets_BT, active_BT = shifted(batch.tokens_BT), shifted(batch.weights_BT) > 0
    seeds_BT = shifted(index_BT) + seed
    found = mixtures.of_tokens(
        states_BTMD, head, targets_BT, active_BT, seeds_BT, pool_P
    )
    return jax.tree.map(at_targets, found)


def _values(
    model: Model,
    packer: Packer,
    hidden: np.ndarray,
    settings: NeverKnew,
    seed: int,
    pool: np.ndarray,
) -> MixtureValues:
    """The values of all tokens of a corpus, [tokens]."""
    found: list[np.ndarray] = []
    for batch in one_pass(packer.pack(), meshes.round_rows(BATCH_ROWS), TITLE):
        index_BT = np.asarray(batch.token_index_BT)
        real_BT = index_BT >= 0
        device = _of_rows(
            *(model.params, model.config, model.compute, settings.draws),
            batch.for_devices(),
            packer.places[np.maximum(index_BT, 0)].astype(np.uint32),
            np.where(real_BT, hidden[index_BT], False),
            np.float32(settings.noise),
            np.uint32(seed),
            pool,
        )
        rows = [meshes.fetch(of_rows) for of_rows in device]
        if not found:
            size = packer.num_tokens
            found = [np.zeros((size, *row.shape[2:]), row.dtype) for row in rows]
        for values, of_rows in zip(found, rows, strict=True):
            values[index_BT[real_BT]] = of_rows[real_BT]
    return MixtureValues(*found)


def capped(values: MixtureValues, cap: float) -> tuple[np.ndarray, np.ndarray]:
    """KL(q' || p) and log-odds of each token y under q', nats.

    q' gives y at most `cap` times what q gives to the likeliest other token, and to the
    others what q gives them, normalised by Z:
    KL(q' || p) = (KL(q || p) - q_y log(q_y / p_y) + c log(c / p_y)) / Z - log Z with
    c = min(q_y, cap q_rival) and Z = 1 - q_y + c.

    Args:
      values: of tokens, [tokens].
    """
    wide = lambda of_tokens: np.asarray(of_tokens, np.float64)
    found = jax.tree.map(wide, values)
    log_c = np.minimum(found.logq_BT, found.rival_BT + np.log(cap))
    log_z = np.logaddexp(found.rest_BT, log_c)
    before = np.exp(found.logq_BT) * (found.logq_BT - found.logp_BT)
    after = np.exp(log_c) * (log_c - found.logp_BT)
    divergence = (found.divergence_BT - before + after) / np.exp(log_z) - log_z
    return divergence, log_c - found.rest_BT


def _at(places: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Zeros [size] with values at some places."""
    whole = np.zeros((size, *values.shape[1:]), values.dtype)
    whole[places] = values
    return whole


def among_drawn(likelier: np.ndarray, carries: np.ndarray) -> np.ndarray:
    """log q of the others less that of the token, where tokens that carry knowledge are on
    average no less likely than what is drawn last.

    The mean of n tokens counts n / (n + `FEW`), since that of a few is noise.

    Args:
      likelier: float32 [tokens, K], by q; in the order of the draws.
      carries: bool [tokens].
    """
    count = int(carries.sum())
    if not count:
        return likelier
    short = max(float(likelier[carries, -1].mean()), 0.0)
    return likelier - np.float32(short * count / (count + FEW))


def measure(
    model: Model,
    records: Sequence[Record],
    others: Sequence[Record],
    documents: Sequence[Document],
    marks: Sequence[Marks],
    settings: NeverKnew,
    seed: int,
) -> Targets:
    """Which tokens of documents carry knowledge, and their targets.

    Args:
      model: frozen.
      records: that the documents were encoded from.
      others: retained, whose words may be drawn too.
      documents: in the order of the records; pieces of long records follow each other,
        and those without a target may be left out.
      marks: of each record (`subjects.mark`).
      settings: see there.
      seed: of the noise, and of what is drawn.

    Raises:
      ValueError: documents that are not the records'.
    """
    located = tokens.locate(records, model.tokenizer)
    special = sorted({*model.stops, *model.tokenizer.all_special_ids})
    of_records = [
        token_flags.of_record(one, of_one, special)
        for one, of_one in zip(located, marks, strict=True)
    ]
    flags = token_flags.of_documents(documents, located, of_records)
    longest = max(len(document.tokens) for document in documents)
    width = -(-2 * longest // ROW_TOKENS) * ROW_TOKENS
    shared = beginnings.shared(model, documents, width)
    packer = Packer(documents, width, "tokens", beginning=shared)
    pool = token_flags.pool([*records, *others], model.tokenizer, seed)
    if len(pool) <= mixtures.DRAWN:
        pool = np.arange(model.config.vocab_size, dtype=np.int32)
    noised = flags.hidden[packer.places]
    found = _values(model, packer, noised, settings, seed, pool)
    whole = lambda of_corpus: _at(packer.places, of_corpus, len(flags.hidden))
    values = MixtureValues(*map(whole, found))
    by_cap = capped(values, settings.cap)
    divergence = np.where(flags.answer, by_cap[0], values.divergence_BT)
    log_odds = np.where(flags.answer, by_cap[1], values.logq_BT - values.rest_BT)
    logq = np.where(flags.answer, by_cap[1] + values.rest_BT, values.logq_BT)
    learned = whole(packer.learned)
    only = lambda of_all: np.where(learned, of_all, 0).astype(np.float32)
    likelier = values.log_odds_BT - log_odds
    # What a model that never knew would say itself is no knowledge.
    news = (values.logq_BT < values.rival_BT) | flags.answer
    known = (divergence > settings.least) & (likelier > 0) & news
    known |= flags.answer & (likelier > settings.answer)
    chosen = learned & ~flags.excluded & known
    return Targets(
        only(divergence),
        token_flags.first_of_words(chosen, flags.inside),
        only(log_odds),
        only(values.log_odds_BT),
        np.asarray(values.drawn_BTK),
        (np.asarray(values.drawn_logq_BTK) - logq[:, None]).astype(np.float32),
    )
