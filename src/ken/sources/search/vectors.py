"""Dense vectors beside the index: computed once per text, kept in append-only shards, searched exactly.

A vector is found by its key, a hash of the title and the text it was computed from. Shards are only ever added, each as
a whole, before the engine commits the passages that need them: after a crash there may be vectors without passages,
which are ignored and used again by the next run, but never passages without vectors. Texts that were removed leave dead
vectors; a build clears them away.
"""

from __future__ import annotations

import hashlib
import io
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ken.core import BadInput, SourceError, Unsupported
from ken.core.files import write_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_KEY = np.dtype("S16")
_SHARD = re.compile(r"shard-\d{6}-[0-9a-f]{8}\.npy")
_BLOCK = 65536  # rows that are multiplied at a time


def key_of(title: str, text: str) -> str:
    """The key under which the vector of a passage is kept: 16 hexadecimal digits."""
    return hashlib.blake2b(f"{title}\n{text}".encode(), digest_size=8).hexdigest()


class Encoder:
    """A sentence-transformers model, by name or path. Vectors have length 1: their inner product is the cosine."""

    def __init__(self, model: str) -> None:
        self.model = str(Path(model).resolve()) if Path(model).is_dir() else model
        self._loaded: SentenceTransformer | None = None

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self.documents([("", "a")]).shape[1])

    def documents(self, passages: Sequence[tuple[str, str]]) -> np.ndarray:
        """Vectors of (title, text) pairs, shape (len(passages), dimension), float32."""
        texts = [f"{title}\n{text}" if title else text for title, text in passages]
        return self._unit(self._load().encode_document(texts, batch_size=32, show_progress_bar=False))

    def queries(self, queries: Sequence[str]) -> np.ndarray:
        """Vectors of queries, shape (len(queries), dimension), float32."""
        return self._unit(self._load().encode_query(list(queries), batch_size=32, show_progress_bar=False))

    @staticmethod
    def _unit(vectors: object) -> np.ndarray:
        array = np.asarray(vectors, dtype=np.float32)
        norms = np.linalg.norm(array, axis=1, keepdims=True)
        return np.asarray(array / np.maximum(norms, 1e-12))

    def _load(self) -> SentenceTransformer:
        if self._loaded is None:
            try:
                from sentence_transformers import SentenceTransformer
                from transformers.utils import logging
            except ImportError as error:
                raise Unsupported("dense vectors need sentence-transformers; run `pip install 'ken[dense]'`") from error
            # A bar for the weights would stand beside our own.
            logging.disable_progress_bar()
            try:
                self._loaded = SentenceTransformer(self.model)
            except Exception as error:  # whatever a hub, a folder or a configuration can go wrong with
                reason = str(error).split("\n", maxsplit=1)[0][:200]
                raise BadInput(
                    f"the model {self.model!r} cannot be loaded ({reason}); "
                    "name a sentence-transformers model or its folder"
                ) from error
        return self._loaded


class Vectors:
    """The vectors of one index, in `folder`.

    Each shard is two files: `NAME.npy`, float32 of shape (rows, dimension), memory-mapped, and `NAME.keys.npy`, their
        keys.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self._folder = folder
        self._dimension = dimension
        self._shards: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._keys: set[str] = set()
        self.reload()

    def __len__(self) -> int:
        return sum(len(keys) for keys, _ in self._shards.values())

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def reload(self) -> None:
        """See the shards that have been written since.

        Raises `SourceError` for one that is damaged or of another dimension.
        """
        names = (
            sorted(p.name for p in self._folder.glob("shard-*.npy") if _SHARD.fullmatch(p.name))
            if self._folder.is_dir()
            else []
        )
        shards = {}
        for name in names:
            if name in self._shards:
                shards[name] = self._shards[name]
                continue
            path = self._folder / name
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
                keys = np.load(path.with_suffix(".keys.npy"), allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise SourceError(
                    f"the vectors {path} are damaged ({error}); build the index again with `ken index build`"
                ) from error
            if rows.ndim != 2 or rows.dtype != np.float32 or keys.shape != rows.shape[:1]:
                raise SourceError(
                    f"the vectors {path} are damaged (shape {rows.shape}); build the index again with `ken index build`"
                )
            if rows.shape[1] != self._dimension:
                raise SourceError(
                    f"the vectors {path} have {rows.shape[1]} numbers each, but the index needs {self._dimension}; "
                    "build it again with `ken index build`"
                )
            shards[name] = (keys.astype(_KEY), rows)
        self._shards = shards
        self._keys = {key.decode() for keys, _ in shards.values() for key in keys.tolist()}

    def append(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Write a shard: `rows` of shape (len(keys), dimension). After return it survives a crash."""
        if not keys:
            return
        self._folder.mkdir(exist_ok=True)
        numbers = [int(name[6:12]) for name in self._shards]
        name = f"shard-{max(numbers, default=0) + 1:06d}-{secrets.token_hex(4)}.npy"
        array_keys = np.array([key.encode() for key in keys], dtype=_KEY)
        write_whole(
            (self._folder / name).with_suffix(".keys.npy"), _npy(array_keys)
        )  # first: a shard counts once its rows are there
        write_whole(self._folder / name, _npy(np.ascontiguousarray(rows, dtype=np.float32)))
        self._shards[name] = (array_keys, np.load(self._folder / name, mmap_mode="r", allow_pickle=False))
        self._keys.update(keys)

    def compact(self, live: set[str] | None = None) -> None:
        """Join small shards, and keep only the vectors of `live` keys.

        Readers that have the old shards open are not disturbed.
        """
        rest = set(self._keys) if live is None else self._keys & live
        if len(rest) == len(self) and len(self._shards) <= 32 + len(self) // _BLOCK:
            return
        old, waiting, taken = list(self._shards.items()), [], 0
        for _, (keys, rows) in old:
            chosen = [number for number, key in enumerate(keys.tolist()) if _take(rest, key.decode())]
            waiting.append((keys[chosen], rows[chosen]))
            taken += len(chosen)
            if taken >= _BLOCK:
                self._join(waiting)
                waiting, taken = [], 0
        self._join(waiting)
        for name, _ in old:
            del self._shards[name]
            (self._folder / name).unlink(missing_ok=True)
            (self._folder / name).with_suffix(".keys.npy").unlink(missing_ok=True)
        self._keys = {key.decode() for keys, _ in self._shards.values() for key in keys.tolist()}

    def _join(self, pieces: list[tuple[np.ndarray, np.ndarray]]) -> None:
        if pieces:
            keys = np.concatenate([keys for keys, _ in pieces])
            self.append([key.decode() for key in keys.tolist()], np.concatenate([rows for _, rows in pieces]))

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """The vectors behind keys, in order, shape (len(keys), dimension), float32. Raises `SourceError` for a key
        without one."""
        wanted = np.array([key.encode() for key in keys], dtype=_KEY)
        found = np.full((len(keys), self._dimension), np.nan, dtype=np.float32)
        for names, rows in self._shards.values():
            order = np.argsort(names)
            places = order[np.minimum(np.searchsorted(names, wanted, sorter=order), len(names) - 1)]
            here = np.flatnonzero(names[places] == wanted)
            found[here] = rows[places[here]]
        if np.isnan(found).any():
            raise SourceError(f"the vectors in {self._folder} lack texts; build the index again with `ken index build`")
        return found

    def search(self, queries: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
        """For each query vector, the (key, inner product) of the k nearest texts, best first. Exact; dead vectors
        included.

        queries: shape (n, dimension), float32.
        """
        if queries.shape[1] != self._dimension:
            raise SourceError(
                f"the model gives vectors of {queries.shape[1]} numbers, those of the index have {self._dimension}; "
                "open it with the model it was built with, or build it again"
            )
        best: list[list[tuple[float, str]]] = [[] for _ in range(len(queries))]
        for keys, rows in self._shards.values():
            for first in range(0, len(rows), _BLOCK):
                block = np.asarray(rows[first : first + _BLOCK])
                scores = queries @ block.T
                keep = min(k, len(block))
                top = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
                for number, columns in enumerate(top):
                    best[number] += [(float(scores[number, c]), keys[first + c].decode()) for c in columns]
        results = []
        for candidates in best:
            ordered = dict.fromkeys(key for _, key in sorted(candidates, key=lambda pair: (-pair[0], pair[1])))
            score = {key: value for value, key in candidates}
            results.append([(key, score[key]) for key in ordered][:k])
        return results


def ensure(vectors: Vectors, encoder: Encoder, texts: Sequence[tuple[str, str]]) -> list[str]:
    """The keys of (title, text) pairs, in order, after computing and writing the vectors that are missing."""
    keys = [key_of(title, text) for title, text in texts]
    missing = {key: pair for key, pair in zip(keys, texts, strict=True) if key not in vectors}
    if missing:
        vectors.append(list(missing), encoder.documents(list(missing.values())))
    return keys


def _take(keys: set[str], key: str) -> bool:
    """Whether `key` is in `keys`; it is taken out, so that a second copy is not kept."""
    if key in keys:
        keys.discard(key)
        return True
    return False


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
