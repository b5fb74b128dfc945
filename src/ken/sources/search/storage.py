"""How an index lies on disk; for how it survives a crash see `ken.sources.generations`.

DIR/ken-index.json    the manifest: settings, and the name of the current generation
DIR/gen-1a2b3c4d/     one generation: a tantivy index, which commits atomically by itself
DIR/vectors-5e6f7a8b/ dense vectors of one model, if any (see `vectors`); shared by generations
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

from pydantic import Field

from ken.core.frozen import Frozen
from ken.sources.generations import GenerationManifest, Generations

MANIFEST = "ken-index.json"


class Dense(Frozen):
    """The sentence-transformers model behind the vectors: its name or path, and the length of a vector."""

    model: str
    dimension: int = Field(ge=1)

    @property
    def folder(self) -> str:
        """The name of the folder with its vectors: another model, another folder."""
        return f"vectors-{hashlib.blake2b(f'{self.model} {self.dimension}'.encode(), digest_size=4).hexdigest()}"


class Manifest(GenerationManifest):
    """What `ken-index.json` says. source: the file that most documents came from, so that it is not written with
    each."""

    shared: ClassVar[str] = "vectors-*"

    format: str = Field(default="ken-index", pattern="^ken-index$")
    source: str = ""
    tokenizer: str = "english"
    chunk_words: int = Field(default=200, ge=1)
    overlap: int = Field(default=40, ge=0)
    dense: Dense | None = None

    @property
    def used(self) -> frozenset[str]:
        """The names of the folders that belong to this state."""
        return super().used | ({self.dense.folder} if self.dense else set())


INDEXES = Generations("index", MANIFEST, Manifest, command="ken index build", arguments="SRC {}")
read_manifest, write_manifest = INDEXES.read, INDEXES.write
building, writing = INDEXES.building, INDEXES.writing
