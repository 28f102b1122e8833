# SPDX-License-Identifier: Apache-2.0
"""Results for reports to show, and a parser that checks their pages."""

import html.parser
import math

EVIL = "<script>alert('x')</script> & \"quoted\""
COST = {
    "surgery_flops": 2e12,
    "baseline_flops": 1e14,
    "ratio": 50.0,
    "baseline_epochs": 6.0,
    "items": {"training": 1.5e12, "reference": 0.5e12},
}
METRICS = [
    {"step": i, "unlearn_ce": 1.0 + i, "update_ce": 2.0 - i / 9, "retain_kl": 0.01 * i}
    for i in range(9)
]


class Balance(html.parser.HTMLParser):
    """Fails on a tag that closes what is not open, or on anything from elsewhere."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith("#"), value
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text: str) -> Balance:
    balance = Balance()
    balance.feed(text)
    assert not balance.open
    return balance


def result(role, goal, before, after, removed=None, drop=None) -> dict:
    def end(value):
        low, high = max(0, value - 0.02), min(1, value + 0.02)
        return {"value": value, "interval": [low, high], "n": 1200, "exact": value,
                "chance": 0.1}  # fmt: skip

    ends = {"before": end(before), "after": end(after)}
    return {"role": role, "goal": goal, "removed": removed, "drop": drop} | ends


TASKS = {
    "new": result("unknown", "", 0.1, 0.12, removed=math.nan, drop=0.5),
    "capital": result("other", "keep", 0.98, 0.99, drop=-0.0102),
    "sub": result("similar", "keep", 1.0, 0.97, drop=0.03),
    "add": result("target", "chance", 0.998, 0.093, removed=1.0078),
    "copy": result("other", "keep", 0.98, 0.98, drop=-0.0),
}
