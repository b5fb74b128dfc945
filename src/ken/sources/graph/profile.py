"""What differs between knowledge graphs: how ids are shortened, where labels are, which relations are noise.

The filters are those of Think-on-Graph (arXiv 2307.07697, released code; card 44, step 1), so that relation lists read
as in the paper.
"""

from __future__ import annotations

import re
from functools import cached_property

from ken.core import BadInput
from ken.core.frozen import Frozen
from ken.sources.graph.terms import FREEBASE, RDFS_LABEL, SKOS_ALIAS, SKOS_LABEL, iri_word, is_iri, local_name, word_iri


class Profile(Frozen):
    """The conventions of a knowledge graph.

    entities, relations: the IRIs that are written without this prefix, where the rest matches `short`. What is no
        relation of the graph's own (other vocabularies, Wikidata's statements) is not shown.
    labels: predicates of the name that people use, the first that a node has counts. aliases: of its other names.
    hidden: predicates that are never relations. hidden_names, hidden_labels: regular expressions, searched for in the
        short name or the label of a relation, which is then not shown.
    language: of labels, where there are several; a label without a language counts as in this one.
    """

    name: str
    entities: str = ""
    relations: str = ""
    short: str = r"(?!)"
    labels: tuple[str, ...] = (RDFS_LABEL, SKOS_LABEL)
    aliases: tuple[str, ...] = (SKOS_ALIAS,)
    hidden: frozenset[str] = frozenset()
    hidden_names: str = r"(?!)"
    hidden_labels: str = r"(?!)"
    language: str = "en"

    def entity_iri(self, identifier: str) -> str:
        """The IRI of an entity. Any text has one."""
        return self._iri(identifier, self.entities)

    def relation_iri(self, name: str) -> str:
        """The IRI of a relation. Any text has one."""
        return self._iri(name, self.relations)

    def entity_id(self, iri: str) -> str:
        """The inverse of `entity_iri`."""
        return self._id(iri, self.entities)

    def relation_name(self, iri: str) -> str:
        """The inverse of `relation_iri`."""
        return self._id(iri, self.relations)

    def property_iri(self, iri: str) -> str:
        """The node that describes a relation: in Wikidata another (entity/P31) than the predicate (prop/direct/P31)."""
        name = self.relation_name(iri)
        return iri if name == iri or not self.relations else self.entities + name

    def label_of(self, iri: str) -> str:
        """What to call a node or a relation that has no label."""
        for identifier in (self.entity_id(iri), self.relation_name(iri)):
            if identifier != iri:
                return identifier
        return local_name(iri)

    def shows(self, iri: str) -> bool:
        """Whether a relation is one, judged by its IRI alone."""
        ours = iri.startswith(self.relations)  # of other vocabularies nothing, where a graph has its own
        return ours and iri not in self._never and not self._hidden_names.search(self.relation_name(iri))

    def shows_label(self, label: str) -> bool:
        """Whether a relation with this label is shown."""
        return not self._hidden_labels.search(label)

    def _iri(self, identifier: str, prefix: str) -> str:
        if prefix and self._short.fullmatch(identifier):
            return prefix + identifier
        return identifier if is_iri(identifier) else word_iri(identifier)

    def _id(self, iri: str, prefix: str) -> str:
        if prefix and iri.startswith(prefix) and self._short.fullmatch(iri[len(prefix) :]):
            return iri[len(prefix) :]
        word = iri_word(iri)
        return iri if word is None or (prefix and self._short.fullmatch(word)) else word

    @cached_property
    def _short(self) -> re.Pattern[str]:
        return re.compile(self.short)

    @cached_property
    def _never(self) -> frozenset[str]:
        return self.hidden.union(self.labels, self.aliases)

    @cached_property
    def _hidden_names(self) -> re.Pattern[str]:
        return re.compile(self.hidden_names)

    @cached_property
    def _hidden_labels(self) -> re.Pattern[str]:
        return re.compile(self.hidden_labels)


PLAIN = Profile(
    name="plain",
    hidden=frozenset(
        {
            "http://www.w3.org/2000/01/rdf-schema#comment",
            "http://www.w3.org/2004/02/skos/core#hiddenLabel",
            "http://schema.org/description",
        }
    ),
    hidden_names="sameAs",
)

FREEBASE_PROFILE = Profile(
    name="freebase",
    entities=FREEBASE,
    relations=FREEBASE,
    short=r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+",
    labels=(f"{FREEBASE}type.object.name", RDFS_LABEL),
    aliases=(f"{FREEBASE}common.topic.alias",),
    hidden_names=r"^type\.object\.(?:type|name)$|^common\.|^freebase\.|sameAs",
)


def _any(texts: tuple[str, ...]) -> str:
    return "|".join(map(re.escape, texts))


# `wiki_func.py` of the released code drops relations whose label ends with, holds or is one of these.
_ENDS = (" ID", " code", " number", "instance of", "website", "URL", "inception", "image", " rate", " count")
_PARTS = ("wikidata", "wikimedia")
_STOP = (
    "category's main topic", "topic's main category", "stack exchange site", "main subject", "country of citizenship",
    "commons category", "commons gallery", "country of origin", "country", "nationality",
)  # fmt: skip

WIKIDATA = Profile(
    name="wikidata",
    entities="http://www.wikidata.org/entity/",
    relations="http://www.wikidata.org/prop/direct/",
    short=r"[QPL][1-9][0-9]*",
    hidden_labels=f"(?:{_any(_ENDS)})$|(?i:{_any(_PARTS)}|^(?:{_any(_STOP)})$)",
)

PROFILES = {one.name: one for one in (PLAIN, FREEBASE_PROFILE, WIKIDATA)}


def profile_named(name: str) -> Profile:
    """Raises `BadInput` for a name that is none."""
    if name not in PROFILES:
        raise BadInput(f"there is no graph profile {name!r}; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]
