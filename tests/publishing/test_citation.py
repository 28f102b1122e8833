# SPDX-License-Identifier: Apache-2.0
"""CITATION.cff, CHANGELOG.md and the metadata of pyproject.toml: what a release publishes."""

import pathlib
import re
import tomllib

import yaml
from packaging.version import Version

ROOT = pathlib.Path(__file__).parents[2]
PAPERS = {"https://arxiv.org/abs/2409.13054", "https://arxiv.org/abs/2408.04140"}
# Of Keep a Changelog 1.1.0.
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def releases() -> list[tuple[str, str]]:
    """Versions and dates of the changelog, as they stand there."""
    return re.findall(r"^## \[(\d[^\]]*)\] - (.+)$", CHANGELOG, re.MULTILINE)


def test_the_citation_has_its_required_fields_and_both_papers_with_all_authors():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["title"] and cited["message"] and cited["authors"]
    assert cited["license"] == PROJECT["project"]["license"]
    papers = {paper["url"]: paper for paper in cited["references"]}
    assert set(papers) == PAPERS
    for paper in papers.values():
        assert paper["type"] and paper["title"] and paper["year"] >= 2024
        assert re.fullmatch(r"10\.\d+/\S+", paper["doi"])
        assert all(a["family-names"] and a["given-names"] for a in paper["authors"])
    assert [len(papers[url]["authors"]) for url in sorted(papers)] == [2, 7]


def test_the_changelog_keeps_its_form():
    titles = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert titles[0] == "[Unreleased]"
    found = releases()
    assert len(found) == len(titles) - 1
    versions = [Version(version) for version, _ in found]
    assert versions == sorted(versions, reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in found)
    for text in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        sections = re.findall(r"^### (.+)$", text, re.MULTILINE)
        assert sections and set(sections) <= SECTIONS
        assert len(sections) == len(set(sections))
    for title in titles:
        assert f"\n{title.partition(']')[0]}]: " in CHANGELOG


def test_a_version_without_a_tag_is_after_the_last_release():
    fallback = Version(PROJECT["tool"]["setuptools_scm"]["fallback_version"])
    newest, _ = releases()[0]
    assert fallback.is_devrelease and fallback > Version(newest)


def test_the_metadata_say_what_it_is():
    project = PROJECT["project"]
    assert project["readme"] == "README.md" and (ROOT / "README.md").exists()
    assert set(project["urls"].values()) >= PAPERS
    assert project["keywords"] and project["authors"]
    pythons = [c for c in project["classifiers"] if "Python :: 3." in c]
    assert [c.rpartition(" ")[2] for c in pythons] == ["3.11", "3.12"]
