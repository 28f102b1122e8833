# SPDX-License-Identifier: Apache-2.0
"""Small files of the public schemas of benchmarks, made up here."""

import json
import pathlib
from typing import Any

NAMES = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo")
TOWNS = ("Rome", "Oslo", "Lima", "Bonn", "Kyiv", "Cork")


def save(file: pathlib.Path, rows: Any) -> str:
    """Writes rows, one a line in .jsonl, and gives the path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    one_a_line = "".join(json.dumps(row) + "\n" for row in rows)
    file.write_text(one_a_line if file.suffix == ".jsonl" else json.dumps(rows))
    return str(file)


def counterfact_rows() -> list[dict]:
    """As the authors' counterfact.json."""
    return [
        {
            "case_id": i,
            "requested_rewrite": {
                "prompt": "{} lives in",
                "subject": name,
                "target_new": {"str": TOWNS[i - 1], "id": "Q1"},
                "target_true": {"str": TOWNS[i], "id": "Q2"},
            },
            "paraphrase_prompts": [f"The home of {name} is", f"{name}'s town is"],
            "neighborhood_prompts": [
                f"{name}'s {kin} lives in" for kin in ("son", "cat")
            ],
            "attribute_prompts": [],
            "generation_prompts": [],
        }
        for i, name in enumerate(NAMES)
    ]


def counterfact_edit_rows() -> list[dict]:
    """As EasyEdit's counterfact-edit.json."""
    return [
        {
            "case_id": i,
            "prompt": f"{name} lives in",
            "target_new": TOWNS[i - 1],
            "subject": name,
            "ground_truth": TOWNS[i],
            "rephrase_prompt": f"The home of {name} is",
            "locality_prompt": f"{name}'s son lives in",
            "locality_ground_truth": TOWNS[i],
        }
        for i, name in enumerate(NAMES)
    ]


def zsre_rows() -> list[dict]:
    """As zsre_mend_eval.json."""
    return [
        {
            "subject": name,
            "src": f"Where does {name} live?",
            "pred": "",
            "rephrase": f"What is the home of {name}?",
            "alt": TOWNS[i - 1],
            "answers": [TOWNS[i]],
            "loc": f"nq question: what is the colour of number {i}",
            "loc_ans": f"colour {i}",
            "cond": "",
        }
        for i, name in enumerate(NAMES)
    ]


def knowedit_rows() -> list[dict]:
    """As KnowEdit's files: both forms of portability, an answer of several forms, one
    without a locality, one without an old answer."""
    rows: list[dict] = [
        {
            "subject": name,
            "prompt": f"{name} lives in",
            "target_new": TOWNS[i - 1],
            "ground_truth": TOWNS[i],
            "rephrase_prompt": f"The home of {name} is",
            "portability": {
                "Reasoning": [
                    {
                        "prompt": f"{name} votes in",
                        "ground_truth": [[TOWNS[i - 1], "x"]],
                    },
                    {"prompt": f"{name} shops in", "ground_truth": [TOWNS[i - 1]]},
                ],
                "Subject_Aliasing": [
                    {"prompt": f"Old {name} lives in", "ground_truth": TOWNS[i - 1]},
                    {"prompt": f"Nobody asks {name}", "ground_truth": []},
                ],
            },
            "locality": {
                "Relation_Specificity": [
                    {"prompt": f"{name} was born in", "ground_truth": [TOWNS[i - 2]]}
                ]
            },
        }
        for i, name in enumerate(NAMES)
    ]
    lists = {"prompt": ["Bo naps in"], "ground_truth": ["Rome"]}
    rows[1]["portability"] = {"reasoning": lists}
    rows[1]["ground_truth"] = "<|endoftext|>"
    rows[2]["locality"] = {}
    return rows


def muse_folder(folder: pathlib.Path) -> pathlib.Path:
    """A directory like MUSE's: texts as strings and as objects, .json and .jsonl."""
    pair = lambda i: {"question": f"Where does {NAMES[i]} live?", "answer": TOWNS[i]}
    sentence = lambda i: f"{NAMES[i]} lives in {TOWNS[i]} by the sea"
    save(folder / "raw" / "forget.json", [sentence(i) for i in (0, 1)])
    save(folder / "raw" / "retain1.jsonl", [{"text": sentence(i)} for i in (2, 3)])
    verbmem = [{"prompt": f"{NAMES[i]} lives", "gt": f" in {TOWNS[i]}"} for i in (0, 1)]
    save(folder / "verbmem" / "forget.json", verbmem)
    for split, own in (("forget", (0, 1)), ("retain", (2, 3))):
        save(folder / "knowmem" / f"{split}_qa.json", [pair(i) for i in own])
        save(folder / "knowmem" / f"{split}_qa_icl.json", [pair(i) for i in (4, 5)])
    for split, own in (("forget", (0, 2, 4)), ("holdout", (1, 3, 5))):
        save(folder / "privleak" / f"{split}.json", [sentence(i) for i in own])
    return folder


def wmdp_folder(folder: pathlib.Path) -> pathlib.Path:
    """A directory like WMDP's; of chem there are questions alone."""
    for domain in ("bio", "chem", "cyber"):
        rows = [
            {
                "question": f"Which town is of {domain} {i}? ",
                "choices": list(TOWNS[i : i + 4]),
                "answer": i,
            }
            for i in range(3)
        ]
        save(folder / f"{domain}_questions.json", rows)
    for name in ("bio_remove_dataset", "cyber-forget-corpus"):
        rows = [{"title": "t", "text": f"{name} says {i}"} for i in range(3)]
        save(folder / f"{name}.jsonl", rows)
    for domain in ("bio", "cyber"):
        rows = [{"text": f"kept of {domain}: {i}"} for i in range(3)]
        save(folder / f"{domain}-retain-corpus.jsonl", rows)
    return folder


def options_of(benchmark: str, folder: pathlib.Path) -> str:
    """Options of a benchmark whose files are made in a folder; "" of others."""
    if benchmark == "muse":
        return f"dir={muse_folder(folder)}"
    if benchmark == "wmdp":
        return f"dir={wmdp_folder(folder)}"
    rows = {
        "counterfact": counterfact_rows,
        "zsre": zsre_rows,
        "knowedit": knowedit_rows,
    }
    if benchmark not in rows:
        return ""
    file = save(folder / f"{benchmark}.json", rows[benchmark]())
    return f"file={file},edits=3,retained=3"
