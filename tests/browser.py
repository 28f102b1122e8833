# SPDX-License-Identifier: Apache-2.0
"""Opens pages in a headless Chromium, and says what a reader would not want to see."""

import contextlib
import io
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESKTOP, PAPER = 360, 1100, 680  # pixels across; A4 between its margins

# Of every text that can be seen, one whose contrast with what lies behind it is too low
# (WCAG 2: 4.5, and 3 for graphics), as [text, contrast].
FAINT = """() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility()) continue;
    const drawn = node.closest('svg');
    const style = getComputedStyle(node);
    const [a, b] = [light(parts(drawn ? style.fill : style.color)), light(behind(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < (drawn ? 3 : 4.5)) found.push([walk.currentNode.data.trim(), contrast]);
  }
  return found;
}"""
# What reaches beyond the right edge, outside what can be scrolled.
BEYOND = """() => [...document.querySelectorAll('body *')]
  .filter(e => e.checkVisibility() && !e.closest('.scroll, pre, svg'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
# Texts of pictures that reach out of them, and are cut off.
CUT = """() => [...document.querySelectorAll('svg text')].filter(e => {
  const [own, all] = [e, e.closest('svg')].map(x => x.getBoundingClientRect());
  return own.left < all.left - 2 || own.right > all.right + 2
    || own.top < all.top - 2 || own.bottom > all.bottom + 2;
}).map(e => e.textContent)"""
WIDTH = "() => document.documentElement.scrollWidth"
HIDDEN = """() => [...document.querySelectorAll('.scroll')]
  .filter(e => e.scrollWidth > e.clientWidth + 1).length"""
# The smallest text of the pictures, in pixels from one line's top to its bottom.
SMALLEST = """() => Math.min(...[...document.querySelectorAll('svg text')]
  .map(e => parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().b, e.getScreenCTM().d)))"""


@contextlib.contextmanager
def chromium() -> Iterator:
    """A browser; skips the test where this machine has none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    file = next(filter(None, map(shutil.which, NAMES)), None)
    if not file:
        pytest.skip(f"there is no Chromium: none of {', '.join(NAMES)} is on PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=file)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, file, width: int = DESKTOP, **how) -> Iterator:
    """A page, which may say nothing on the console and load nothing but itself.

    Args:
      how: of the context, such as color_scheme="dark".
    """
    context = browser.new_context(viewport={"width": width, "height": 800}, **how)
    page, said, loaded = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert not said
    assert set(loaded) == {file.as_uri()}
    context.close()


def colours_of(element) -> int:
    """How many different colours an element shows."""
    from matplotlib import image

    shown = image.imread(io.BytesIO(element.screenshot()), format="png")
    return len(
        np.unique((255 * shown).astype(np.uint8).reshape(-1, shown.shape[-1]), axis=0)
    )
