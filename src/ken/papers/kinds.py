"""What kind of thing is inside, outside, and learnt from: three words a paper, which sort the catalogue and place it on
a map.

The words classify the lines `inside`, `outside` and `signal` of catalogue.toml, which are their reasons; where a line
names several things, the word is for the one that the paper is about. Outside goes from the model outwards, and the
signal from nothing at all to the reward of a world.
"""

from __future__ import annotations

from typing import NamedTuple

INSIDE = {
    "knowledge": "what its weights recall",
    "judgement": "what it says of its own answers, or its samples agree on",
    "skills": "how it reasons, reads, plans and acts",
    "features": "what its layers represent",
    "nothing": "nothing is asked of it",
}

OUTSIDE = {
    "nothing": "no more than questions or seeds",
    "teachers": "labels, references, another model",
    "documents": "text that is searched and read",
    "structures": "graphs, memories, skills, rules",
    "tools": "programs, verifiers, any API",
    "world": "perception and environments",
}

SIGNAL = {
    "none": "nothing is learnt",
    "itself": "its own votes and scores",
    "data": "data without labels",
    "labels": "labels, or a teacher's words",
    "outcome": "a check of what it did",
    "environment": "the reward of a world",
}


class Kinds(NamedTuple):
    """A key of each of `INSIDE`, `OUTSIDE` and `SIGNAL`."""

    inside: str
    outside: str
    signal: str


def kinds(slug: str) -> Kinds | None:
    """The kinds of a paper; None for one that was added to the catalogue by its user."""
    words = _KINDS.get(slug)
    return Kinds(*words.split()) if words else None


_KINDS = {
    "search-r1": "nothing documents outcome",
    "adasearch": "knowledge documents outcome",
    "vaemo": "features teachers data",
    "era": "skills world environment",
    "trapo": "judgement teachers itself",  # gold answers only say which votes to trust
    "unirl": "judgement nothing itself",
    "survey-llm-reasoning-frontiers": "judgement tools outcome",
    "absolute-zero": "skills tools outcome",
    "eric-fnd": "features documents labels",
    "kzsl-benchmark": "features structures labels",
    "knowledge-augmented-ml-driving": "features structures labels",
    "semantic-learning-autonomous-rnn": "features world data",
    "avsr-unimodal-ssl": "features teachers data",
    "state-regularized-rnn": "features teachers labels",
    "panini-gsw": "skills structures none",  # it grows a graph, and no weights
    "sema": "skills teachers outcome",  # the other model is a victim, its reply the check
    "ssr-zero": "judgement nothing itself",
    "convsearch-r1": "skills documents outcome",
    "thinking-with-deltas-dvrp": "knowledge world outcome",
    "kineticnet": "features teachers labels",
    "gtrxl": "features world environment",
    "persistworld": "features world outcome",  # rollouts are scored against what was recorded
    "tapo": "knowledge tools outcome",
    "kgan": "features structures labels",
    "sc-vla": "judgement world environment",
    "him": "features world environment",
    "oni": "judgement teachers environment",  # a language model judges what the agent lived through
    "wiki-r1": "skills documents outcome",
    "cosineverifier": "skills tools outcome",
    "probing-geometry-of-truth": "features teachers labels",
    "ctc-meets-ot": "features teachers labels",
    "universal-knowledge-model": "features structures none",
    "lifelong-learning-survey": "knowledge documents labels",
    "mlp-memory": "knowledge structures labels",  # the memory is an MLP that was taught by a retriever
    "externalization-review": "knowledge structures none",
    "child-video-ssl": "features world data",
    "inside-out-hidden-knowledge": "features teachers labels",
    "survey-multimodal-tools": "features tools labels",
    "crag-clustered": "skills documents none",
    "memento-skills": "skills structures outcome",
    "r3-rag": "skills documents outcome",
    "synatra": "skills documents labels",
    "ikea": "knowledge documents outcome",
    "looking-inward-introspection": "judgement teachers labels",
    "think-on-graph": "judgement structures none",
    "self-transcendence": "features teachers data",
    "arcmemo": "skills structures outcome",
    "comd-competitive-distillation": "knowledge teachers labels",
    "critique-rl": "judgement teachers outcome",
    "survey-tool-learning": "knowledge tools labels",
    "b-star": "skills teachers outcome",
    "lara": "skills documents none",
    "interactive-icl-rl2f": "skills teachers outcome",
    "symphony": "skills world environment",
    "introspective-growth": "judgement documents none",
    "knowledge-solver": "knowledge structures none",
    "exit-bootstrapping-task-spaces": "skills tools outcome",
    "layer-fused-decoding": "knowledge documents none",
    "knowrl": "judgement nothing itself",
    "probtree": "knowledge documents none",
}
