"""Decoders: other ways to choose the next token than by the model's own logits.

They read hidden states (`LFD`, `DoLa`, `ContrastiveSearch`), a second context (`CAD`) or a changed prompt
(`NoiseDocuments`), of any transformers model of the kind of Llama, Mistral or Qwen.
"""

from ken.probing.decoders.base import DecoderSettings, Greedy
from ken.probing.decoders.cad import CAD
from ken.probing.decoders.contrastive_search import ContrastiveSearch
from ken.probing.decoders.dola import DoLa
from ken.probing.decoders.lfd import LFD
from ken.probing.decoders.noise import NoiseDocuments

DECODERS: dict[str, type[DecoderSettings]] = {
    decoder.kind: decoder for decoder in (Greedy, LFD, DoLa, CAD, ContrastiveSearch, NoiseDocuments)
}

__all__ = ["CAD", "DECODERS", "LFD", "ContrastiveSearch", "DecoderSettings", "DoLa", "Greedy", "NoiseDocuments"]
