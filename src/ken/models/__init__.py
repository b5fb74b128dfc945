"""Inside: language models behind one protocol."""

from ken.models.conversation import Conversation, Generation, Instruction, Message, Score
from ken.models.loading import load_model
from ken.models.protocol import Model

__all__ = ["Conversation", "Generation", "Instruction", "Message", "Model", "Score", "load_model"]
