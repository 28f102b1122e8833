# SPDX-License-Identifier: Apache-2.0
"""What a model says by itself before and after a run: the numbers, sentences that say what
a person wants to know, and warnings."""

from collections.abc import Sequence
from typing import Any

from jax_surgery.data.alternatives import Choice
from jax_surgery.data.asked import Asked
from jax_surgery.metrics import free_form
from jax_surgery.metrics.free_form import Observed
from jax_surgery.report import page, table
from jax_surgery.report.summary import COSTLY

A_GROUP = 4  # replies of a group that stand in the page at once
QUOTED = 90  # characters of a reply that a warning quotes
LOST = 0.05  # share of kept answers that may be lost without a warning


def results(
    asked: Sequence[Asked],
    choices: Sequence[Choice],
    before: Observed,
    after: Observed,
) -> dict[str, Any]:
    """What results.json holds as "free_form": scores by group before and after, counts
    over facts, what is kept, texts, every reply, and the sentences."""
    ends = {"before": before, "after": after}
    scored = {
        "before": free_form.score(asked, before.replies),
        "after": free_form.score(asked, after.replies, before.replies),
    }
    groups: dict[str, dict[str, Any]] = {}
    for end, observed in ends.items():
        found = free_form.by_group(asked, observed.replies, scored[end])
        for name, entry in free_form.chosen_by_group(choices, observed.chosen).items():
            found[name]["choice"] = entry
        for name, entry in found.items():
            groups.setdefault(name, _about(asked, name))[end] = entry
    replies = [
        {
            "group": one.group,
            "kind": one.kind,
            "question": one.question,
            "expected": list(one.names or one.expected[:1]),
        }
        | {
            end: {
                "reply": ends[end].replies[i],
                "says": scored[end].says[i],
                "degenerate": scored[end].degenerate[i],
                "leaks": list(scored[end].leaks[i]),
            }
            for end in ends
        }
        for i, one in enumerate(asked)
    ]
    whole = {
        "groups": groups,
        "facts": {k: _facts(asked, scored, k) for k in ("unlearn", "update")},
        "kept": _kept(replies),
        "texts": {
            name: free_form.text_change(scores, after.texts[name])
            for name, scores in before.texts.items()
        },
        "replies": replies,
    }
    return whole | {"sentences": sentences(whole), "warnings": warnings(whole)}


def _about(asked: Sequence[Asked], group: str) -> dict[str, Any]:
    """What a group is about: of questions about several things what most are about; and
    "own" where what is expected is what the model itself said before."""
    members = [one for one in asked if one.group == group]
    kinds = [one.kind for one in members]
    found: dict[str, Any] = {"kind": max(sorted(set(kinds)), key=kinds.count)}
    return found | ({"own": True} if any(one.own for one in members) else {})


def _is_own(found: dict[str, Any], group: str) -> bool:
    return found["groups"][group].get("own", False)


def _facts(asked: Sequence[Asked], scored: dict[str, Any], kind: str) -> dict[str, int]:
    """How many facts of a kind there are, and how many are said in any wording."""
    own = [i for i, one in enumerate(asked) if one.kind == kind and one.names]
    counts = {"n": len({asked[i].fact for i in own})}
    for end, scores in scored.items():
        counts[end] = len({asked[i].fact for i in own if scores.says[i]})
    return counts


def _kept(replies: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the retained answers that were said before, by group how many still are."""
    found = {}
    for group in dict.fromkeys(r["group"] for r in replies if r["kind"] == "retain"):
        known = [
            r["after"]["says"]
            for r in replies
            if r["group"] == group and r["kind"] == "retain" and r["before"]["says"]
        ]
        if known:
            found[group] = free_form.share(known)
    return found


def new_faults(found: dict[str, Any], fault: str) -> list[dict[str, Any]]:
    """The replies that are "degenerate", or have "leaks", and were and had not before."""
    if fault == "degenerate":
        return [r for r in found["replies"] if r["after"][fault] > r["before"][fault]]
    return [
        r
        for r in found["replies"]
        if set(r["after"]["leaks"]) - set(r["before"]["leaks"])
    ]


def _told(found: dict[str, Any], kind: str, name: str, still: str) -> list[str]:
    """Sentences about the facts and the texts of a role."""
    said, facts = [], found["facts"][kind]
    own = {g: e for g, e in found["groups"].items() if e["kind"] == kind}
    parts = [
        f"{e['after']['says']['count']} of {e['after']['says']['n']} answers in {g!r} "
        f"(before {e['before']['says']['count']})"
        for g, e in own.items()
        if "says" in e["after"]
    ]
    if parts:
        said.append(
            f"Of {facts['n']} {name} the model{still} says {facts['after']} (before "
            f"{facts['before']}): {', '.join(parts)}."
        )
    for group, entry in own.items():
        if "says" not in entry["after"] and "rouge_l" in entry["after"]:
            before, after = (entry[end]["rouge_l"] for end in ("before", "after"))
            said.append(
                f"Of the words of {after['n']} answers in {group!r} the model says "
                f"{after['value']:.0%} (ROUGE-L recall; before {before['value']:.0%})."
            )
    return said


def sentences(found: dict[str, Any]) -> list[str]:
    """What a person wants to know of a run."""
    said = _told(found, "unlearn", "facts to forget", " still")
    said += _told(found, "update", "new facts", "")
    if kept := {g: e for g, e in found["kept"].items() if not _is_own(found, g)}:
        whole = [sum(e[key] for e in kept.values()) for key in ("n", "count")]
        each = ", ".join(f"{e['count']} of {e['n']} in {g!r}" for g, e in kept.items())
        said.append(
            f"Of {whole[0]} other facts that it knew it still says {whole[1]}: {each}."
        )
    for group, entry in found["kept"].items():
        if _is_own(found, group):
            said.append(
                f"Of {entry['n']} held-out {group} {entry['count']} keep the answer that "
                "the model gave before, right or wrong."
            )
    if found["facts"]["update"]["n"]:
        spread = new_faults(found, "leaks")
        said.append(
            f"New facts in unrelated answers: {len(spread)} of {len(found['replies'])}."
        )
    broken = new_faults(found, "degenerate")
    everyday = found["groups"].get("everyday")
    if everyday:
        counts = [everyday[end]["degenerate"] for end in ("before", "after")]
        said.append(
            f"Of {counts[1]['n']} everyday answers {counts[1]['count']} are degenerate "
            f"(before {counts[0]['count']}); of all answers {len(broken)} have become so."
        )
    for name, text in found["texts"].items():
        said.append(
            f"Text ({name}): {text['after']:.3f} nats per token (before "
            f"{text['before']:.3f}; change {text['change']:+.3f}, 95 % interval "
            f"{text['interval'][0]:+.3f} to {text['interval'][1]:+.3f})."
        )
    return said


def _quote(reply: dict[str, Any]) -> str:
    said = reply["after"]["reply"]
    short = said if len(said) <= QUOTED else f"{said[:QUOTED]}..."
    asked = reply["question"]
    return f"{asked[-QUOTED:]!r} is answered {short!r}"


def warnings(found: dict[str, Any]) -> list[str]:
    """What a person must know before the model is used."""
    said = []
    if broken := new_faults(found, "degenerate"):
        said.append(
            f"{len(broken)} answers have become degenerate: {_quote(broken[0])}. Let "
            "less change: retain more text of that kind, or take smaller steps."
        )
    if spread := new_faults(found, "leaks"):
        names = sorted({name for reply in spread for name in reply["after"]["leaks"]})
        said.append(
            f"{len(spread)} unrelated answers give a new fact ({', '.join(names[:3])}): "
            f"{_quote(spread[0])}. Retain similar questions with their own answers."
        )
    kept = [
        r for r in found["replies"] if r["kind"] == "retain" and r["before"]["says"]
    ]
    for own, what, fault in (
        (False, "other answers that the model knew", "are lost"),
        (True, "held-out answers that the model gave by itself", "have changed"),
    ):
        known = [r for r in kept if _is_own(found, r["group"]) == own]
        gone = [reply for reply in known if not reply["after"]["says"]]
        if len(gone) > LOST * len(known):
            said.append(
                f"{len(gone)} of {len(known)} {what} {fault}: {_quote(gone[0])}. Retain "
                "more text like them."
            )
    for name, text in found["texts"].items():
        if text["change"] > COSTLY:
            said.append(
                f"Text ({name}) costs {text['change']:.3f} nats per token more than "
                f"before; up to {COSTLY:g} is usual. Retain more general text, or let "
                "less change."
            )
    return said


def rows(found: dict[str, Any]) -> list[table.Row]:
    """Rows of the before/after table."""
    goals = {"unlearn": "down", "update": "up", "retain": "keep"}
    made = []
    for group, entry in found["groups"].items():
        ends, goal = (entry["before"], entry["after"]), goals.get(entry["kind"], "")
        if "says" in ends[1]:
            does = "keeps its answer" if entry.get("own") else "says the answer"
            name = f"{group}: {does}"
            made.append(table.share_row(name, goal, *(e["says"] for e in ends)))
        elif "rouge_l" in ends[1]:
            name = f"{group}: ROUGE-L recall"
            made.append(table.number_row(name, goal, *(e["rouge_l"] for e in ends)))
        if "choice" in ends[1]:
            chance = ends[1]["choice"]["chance"]
            name = f"{group}: likeliest of {round(1 / chance)} answers"
            goal = "chance" if entry["kind"] == "unlearn" else goal
            made.append(table.share_row(name, goal, *(e["choice"] for e in ends)))
        if entry["kind"] == "everyday":
            name = f"{group}: degenerate answers"
            shares = (e["degenerate"] for e in ends)
            made.append(table.share_row(name, "down", *shares))
    for name, text in found["texts"].items():
        nats = [f"{text[end]:.3f}" for end in ("before", "after")]
        label = f"{name}: nats per token"
        made.append(table.Row(label, "keep", nats[0], "", nats[1], "", text["tokens"]))
    return made


def _example(reply: dict[str, Any]) -> page.Example:
    after = reply["after"]
    notes = ["degenerate"] if after["degenerate"] else []
    notes += [f"new fact: {name}" for name in after["leaks"]]
    return page.Example(
        about=": ".join(filter(None, (reply["group"], ", ".join(notes)))),
        prompt=reply["question"],
        reference=" / ".join(reply["expected"]),
        before=reply["before"]["reply"],
        after=after["reply"],
    )


def examples(found: dict[str, Any]) -> tuple[list[page.Example], list[page.Example]]:
    """Replies side by side: some of each group, those with faults first; and the rest."""

    def faults(reply: dict[str, Any]) -> bool:
        lost = reply["kind"] == "retain" and (
            (reply["before"]["says"] or False) > (reply["after"]["says"] or False)
        )
        return bool(reply["after"]["degenerate"] or reply["after"]["leaks"] or lost)

    first: list[page.Example] = []
    rest: list[page.Example] = []
    for group in found["groups"]:
        own = [reply for reply in found["replies"] if reply["group"] == group]
        ranked = [_example(r) for r in sorted(own, key=lambda r: not faults(r))]
        first += ranked[:A_GROUP]
        rest += ranked[A_GROUP:]
    return first, rest


def with_replies(shown: page.Page, found: dict[str, Any]) -> page.Page:
    """A page that begins with what is found, and holds the replies as its examples."""
    first, rest = examples(found)
    return page.Page(
        **shown
        | {
            "headlines": found["sentences"],
            "warnings": [*shown.get("warnings", ()), *found["warnings"]],
            "examples": first,
            "more_examples": rest,
        }
    )
