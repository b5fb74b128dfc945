"""Ids and IRIs: how a strategy names a node or a relation, and how RDF does.

An id is an IRI as it is, its short form where the graph's profile has one (Q42, m.02mjmr), a blank node (`_:b0`), or a
word. RDF has no words: the word `São Tomé` is the IRI `urn:ken:S%C3%A3o%20Tom%C3%A9`. Both ways are exact inverses.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from ken.sources.search.unicode import well_formed

WORDS = "urn:ken:"

RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
SKOS_LABEL = "http://www.w3.org/2004/02/skos/core#prefLabel"
SKOS_ALIAS = "http://www.w3.org/2004/02/skos/core#altLabel"
FREEBASE = "http://rdf.freebase.com/ns/"

# Absolute IRIs as SPARQL's IRIREF and RFC 3987 both take them. No character that ends or escapes one (`<>"{}|^`\`,
# white space, controls); a host without brackets or user; % only before two hexadecimal digits.
_CHARACTER = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|[\u00a0-\ud7ff\uf900-\ufdcf\ufdf0-\uffef]|%[0-9A-Fa-f]{2})"
_HOST = r"(?:[A-Za-z0-9._~-]|[\u00a0-\ud7ff])*"
_IRI = re.compile(
    rf"[A-Za-z][A-Za-z0-9+.-]*:(?://{_HOST}(?::[0-9]{{0,5}})?(?:/(?:{_CHARACTER}|/)*)?|{_CHARACTER}(?:{_CHARACTER}|/)*"
    rf"|/(?:{_CHARACTER}(?:{_CHARACTER}|/)*)?)(?:\?(?:{_CHARACTER}|[/?])*)?(?:#(?:{_CHARACTER}|[/?])*)?"
)


def is_iri(text: str) -> bool:
    """Whether this is an absolute IRI, safe to write between < and >."""
    return ":" in text and _IRI.fullmatch(text) is not None


def word_iri(word: str) -> str:
    """The IRI of a word, whatever characters it has."""
    return WORDS + quote(well_formed(word), safe="")


def iri_word(iri: str) -> str | None:
    """The word of an IRI that `word_iri` made; None for any other."""
    if not iri.startswith(WORDS):
        return None
    word = unquote(iri[len(WORDS) :], errors="replace")
    return word if word and word_iri(word) == iri and not is_iri(word) else None


def local_name(iri: str) -> str:
    """What people can read of an IRI without a label: what follows its last # or /, decoded."""
    name = unquote(re.split(r"[#/]", iri.rstrip("#/"))[-1], errors="replace")
    return name or iri
