"""How the claims stand, as `results/` has it when the site is built. A page shows it where it says `MARK`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

MARK = "<!-- verdicts -->"
RESULTS = Path(__file__).parents[2] / "results"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    return markdown.replace(MARK, table(RESULTS)) if MARK in markdown else markdown


def table(folder: Path) -> str:
    """A row a paper: its claims by verdict, seeds and hours."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    lines = ["| paper | hold | fail | inconclusive | seeds | hours | command |", "|---|--:|--:|--:|--:|--:|---|"]
    for results in sorted(found, key=lambda results: results["paper"]["number"]):
        counts = Counter(claim["verdict"] for claim in results["claims"])
        paper, hours = results["paper"], results["wall_seconds"] / 3600
        lines.append(
            f"| [{paper['name']}](https://arxiv.org/abs/{paper['arxiv']}) | {counts['holds']} | {counts['fails']} "
            f"| {counts['inconclusive']} | {len(results['seeds'])} | {hours:.1f} | `ken reproduce {results['slug']}` |"
        )
    return "\n".join(lines)
