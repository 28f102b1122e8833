# SPDX-License-Identifier: Apache-2.0
"""A run in one line: is it forgotten, learned, retained, and does that survive attacks?

Everything is read from results.json. An answer is one of

    yes            within `LITTLE` of what is asked: chance of what is to be forgotten, all
                   of what is new, the score before of what is retained
    partly         at least half of the way
    no             less than that
    unclear        measured, and too little to tell
    not measured   nothing was asked about it
    not asked      the run was not to do it

and of several groups the one that is furthest from what is asked decides. An evaluation
has no model before it: it says what the model knows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax_surgery.attacks.verdict import FEW, LITTLE, REMOVED, SUPPRESSED, sees_from
from jax_surgery.methods.automatic.controller import point_at
from jax_surgery.report import standing
from jax_surgery.report.standing import Evidence, Results, Share

YES, PARTLY, NO = "yes", "partly", "no"
UNCLEAR, UNMEASURED, UNASKED = "unclear", "not measured", "not asked"
KNOWN, UNKNOWN = "known", "not known"  # of an evaluation
COSTLY = 0.01  # nats per token that text may cost more and count as retained
HALF = 0.5  # of what is asked, from where on an answer is "partly"
ORDER = (NO, KNOWN, PARTLY, YES, UNKNOWN, UNCLEAR)  # the first that is there decides
QUESTIONS = {"unlearn": "Forgotten", "update": "Learned", "retain": "Retained"}
# Of an evaluation, which cannot say what a model knew before.
TO_DO = {
    "unlearn": "To be forgotten",
    "update": "To be learned",
    "retain": "To be retained",
}
ATTACKS = "Survives attacks"


class Answer(NamedTuple):
    """One of the four questions, its answer, and what it rests on."""

    question: str
    answer: str
    why: str

    def __str__(self) -> str:
        return f"{self.question}: {self.answer}" + (
            f" ({self.why})" if self.why else ""
        )


def of(results: Results) -> list[Answer]:
    """The four answers; [] of results of other runs (a pretraining, an edit)."""
    if "attacks" in results and "model" in results:
        return _of_attack(results)
    if not results.keys() & {"roles", "tasks", "evaluation"}:
        return []
    found = standing.evidence(results)
    answers = [_role(results, found, role) for role in QUESTIONS]
    return [*answers, _attacked(results)]


def line(answers: Sequence[Answer]) -> str:
    """The answers in one line."""
    return "; ".join(map(str, answers))


def _role(results: Results, found: Sequence[Evidence], role: str) -> Answer:
    """Whether a role's text is forgotten, learned or retained."""
    question = (TO_DO if "evaluation" in results else QUESTIONS)[role]
    own = [(judge(one), one) for one in found if one.role == role]
    own.sort(key=lambda pair: _rank(*pair))
    judged = [(answer, _why(one, answer, len(own))) for answer, one in own[:1]]
    if role == "retain":
        judged += _unmoved(results)
    text = results.get("roles", {}).get(role)
    if not judged and text:
        judged = [_of_text(role, text["before"], text["after"])]
    if not judged:
        answer = UNMEASURED if role in _asked(results) else UNASKED
        return Answer(question, answer, "")
    return Answer(question, *min(judged, key=lambda one: ORDER.index(one[0])))


def _asked(results: Results) -> set[str]:
    """The roles that a run has text of; all of an evaluation, which may be asked any."""
    if tasks := results.get("tasks"):
        learns = any(task["goal"] == "up" for task in tasks.values())
        return {"retain", "update" if learns else "unlearn"}
    return set(results.get("roles", QUESTIONS))


def is_known(share: Share, chance: float) -> bool:
    """Whether a score lies so far above chance that it is no luck (as `attacks.verdict`
    has it)."""
    return share.value - chance > LITTLE and share.low > chance


def judge(one: Evidence) -> str:
    """The answer that one group's score gives."""
    before, after, chance = one.before, one.after, one.chance
    if before is None:
        if chance is None:
            return UNCLEAR
        return KNOWN if is_known(after, chance) else UNKNOWN
    if one.role == "unlearn":
        return _forgotten(one, before)
    if one.role == "update":
        missing = 1 - after.value
    elif not is_known(before, chance or 0.0):
        return UNCLEAR  # there was nothing to retain
    else:
        missing = before.value - after.value
    return YES if missing <= LITTLE else _part(one)


def _forgotten(one: Evidence, before: Share) -> str:
    after, chance = one.after, one.chance
    if chance is None:
        return NO if before.value - after.value <= LITTLE else UNCLEAR
    if not is_known(before, chance):
        return UNCLEAR  # there was nothing to forget
    if is_known(after, chance):
        return _part(one)
    if after.high < chance and chance - after.value > LITTLE:
        return PARTLY  # a leak: it knows what to avoid
    # Where guessing is never right, answers that are wrong are no luck.
    return UNCLEAR if chance and after.high - chance > FEW else YES


def _part(one: Evidence) -> str:
    return PARTLY if one.done is not None and one.done >= HALF else NO


def _rank(answer: str, one: Evidence) -> tuple[int, float]:
    """Sorts groups: the one that is furthest from what is asked first."""
    if one.done is None:
        return 0, -one.after.value if one.role == "unlearn" else one.after.value
    short = 1 - one.done
    return ORDER.index(answer), -abs(short) if one.role == "unlearn" else -short


def _why(one: Evidence, answer: str, groups: int) -> str:
    """What an answer rests on: the score, of how many answers, beside what it must be
    compared with."""
    parts = [one.told(one.after)]
    if groups > 1:
        parts[0] = f"worst of {groups}, {one.group}: {parts[0]}"
    if one.chance and one.role == "unlearn":
        parts.append(f"chance {100 * one.chance:.3g} %")
    if one.before is not None and one.kind != "kept":
        known = one.chance is None or is_known(one.before, one.chance)
        was = "not known before either, " if one.role != "update" and not known else ""
        parts.append(f"{was}before {_number(one)}")
    if answer == UNCLEAR and one.chance is None:
        parts.append("what a model scores that never knew is not known")
    elif answer == UNCLEAR and one.after.high - (one.chance or 0.0) > FEW:
        parts.append("too few to tell")
    if answer == PARTLY and one.role == "unlearn" and (one.done or 0) > 1:
        parts.append("far below chance it knows what to avoid")
    return ", ".join(parts)


def _number(one: Evidence) -> str:
    """The score before, as short as the one after allows."""
    assert one.before is not None
    if one.kind in ("facts", "choice"):
        return f"{one.before.right}"
    return f"{100 * one.before.value:.1f} %"


def _unmoved(results: Results) -> Iterable[tuple[str, str]]:
    """Answers of text that is held out, in nats per token, and why."""
    if automatic := results.get("automatic"):
        point = point_at(automatic.get("curve", ()), automatic.get("step"))
        if point and "budget" in automatic:
            kl, budget = point["kl"], automatic["budget"]
            why = f"held-out text has moved by {kl:.2g} of {budget:g} nats per token"
            yield (YES if kl <= budget else PARTLY), why
    for name, text in results.get("free_form", {}).get("texts", {}).items():
        yield _by_nats(f"{name} text", text["before"], text["after"])


def _by_nats(name: str, before: float, after: float) -> tuple[str, str]:
    change = after - before
    why = f"{name}: {after:.3f} nats per token, before {before:.3f}"
    if change <= COSTLY:
        return YES, why
    return (NO if change > math.log1p(HALF) else PARTLY), why  # of the perplexity


def _of_text(
    role: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[str, str]:
    """The answer of the very text that was trained on, where nothing else was asked.

    What it tells of knowledge is little: most tokens of a text carry none.
    """
    nats, were = after["nll_per_token"], before["nll_per_token"]
    if role == "retain":
        return _by_nats("its text", were, nats)
    why = f"its text: {nats:.3f} nats per token, before {were:.3f}"
    moved = nats - were if role == "unlearn" else were - nats
    if moved <= COSTLY:
        return NO, why
    if role == "update" and 1 - after["memorised"] <= LITTLE:
        return YES, f"{why}, {100 * after['memorised']:.1f} % of its tokens recalled"
    return UNCLEAR, f"{why}, and nothing was asked about it"


def _attacked(results: Results) -> Answer:
    """What attacks say, of a run that tried some."""
    if "verdict" not in results:
        nothing = "unlearn" not in _asked(results)
        return Answer(ATTACKS, UNASKED if nothing else UNMEASURED, "")
    found = results["verdict"]
    if not found:
        return Answer(
            ATTACKS, UNCLEAR, "nothing says what a model that never knew scores"
        )
    if found["verdict"] == REMOVED:
        if not found["tries"]:
            return Answer(ATTACKS, UNMEASURED, "nothing was tried")
        why = f"none of {found['tries']} tries brings it back"
        if (least := sees_from(found)) > FEW:
            few = f"so few answers show nothing that is less than {100 * least:.0f} % above chance"
            return Answer(ATTACKS, UNCLEAR, f"{why}, but {few}")
        return Answer(ATTACKS, YES, why)
    if found["verdict"] != SUPPRESSED:
        return Answer(ATTACKS, NO, f"{found['verdict']}, without any attack")
    worst = max(found["worst"].values(), key=lambda one: one["above"])
    name = worst["attack"].partition(":")[0]
    by = worst["label"] or f"{worst['steps']} steps of {name}"
    why = (
        f"suppressed: {100 * worst['value']:.0f} % of {worst['n']} answers about "
        f"{worst['group']} are right after {by}"
    )
    return Answer(ATTACKS, NO, why)


def _of_attack(results: Results) -> list[Answer]:
    """Of a run that only attacks, which has no model before the removal."""
    attacks, found = _attacked(results), results["verdict"]
    gone = Answer(QUESTIONS["unlearn"], UNCLEAR, attacks.why)
    if found:
        there = found["verdict"] not in (REMOVED, SUPPRESSED)
        why = found["why"] if there else "not known without an attack"
        gone = gone._replace(answer=NO if there else YES, why=why)
    others = [Answer(QUESTIONS[role], UNMEASURED, "") for role in ("update", "retain")]
    return [gone, *others, attacks]
