"""What entities are called: the normal form in which names are compared."""

from __future__ import annotations

import unicodedata

from ken.sources.search.unicode import well_formed


def normal_name(text: str) -> str:
    """A name without case, accents' encoding, punctuation and spare white space; of a name without letters and digits
    only the case goes.

    >>> normal_name("  Jean-Luc  PICARD ")
    'jean luc picard'
    """
    folded = unicodedata.normalize("NFKC", well_formed(text)).casefold()
    words = "".join(c if c.isalnum() or unicodedata.combining(c) else " " for c in folded).split()
    return " ".join(words) or folded.strip()
