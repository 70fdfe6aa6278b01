"""The texts that an embedding model or a reranker expects before a query and before a document."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

_PLACE = "{instruction}"


class Prompts(BaseModel):
    """The row's option ``prompts``. ``{instruction}`` stands for the caller's instruction, or else the row's.

    Qwen3-Embedding's are ``query = "Instruct: {instruction}\\nQuery:"`` and no ``document``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    query: str = ""
    document: str = ""
    instruction: str = ""

    def before(self, kind: str | None, instruction: str | None = None) -> str:
        """The text before an input of this kind; an instruction without a kind is for a query."""
        kind = kind or ("query" if instruction else None)
        text = {"query": self.query, "document": self.document}.get(kind or "", "")
        return text.replace(_PLACE, instruction or self.instruction)

    def without_effect(self, kind: str | None, instruction: str | None) -> list[str]:
        """The names of these request parameters that change nothing, because the model has no prompt for them."""
        names = []
        if instruction and (kind == "document" or _PLACE not in self.query):
            names.append("instruction")
        if kind and not (self.query or self.document):
            names.append("input_type")
        return names
