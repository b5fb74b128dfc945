"""One file a paper: what it composes, its arms, its claims. `catalogue` names them all, `reproduce` checks them.

A row is a module `NN_slug.py` in this folder with one value, `paper`:

    paper = Paper(
        entry=entry("adasearch"),
        summary="…",
        full=Config(),
        smoke=Config(steps=2, questions=8),
        prepare=prepare,  # (config, seed) -> bench: what all arms of one seed share
        arms=(Arm("search-r1", "rewarded for exact match only", run_search_r1), …),
        claims=(Claim("AdaSearch knows more of its boundary", "hard", 0.35, lambda arms: …),),
    )
"""

from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Entry, Metrics, Paper

__all__ = ["Arm", "Arms", "Claim", "Entry", "Metrics", "Paper", "entry"]
