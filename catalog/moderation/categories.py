"""OpenAI's categories of harmful content, and the labels of a classifier in their terms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from catalog.validation.section import Section

Category = Literal[
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
]  # fmt: skip

CATEGORIES: Mapping[Category, str] = MappingProxyType(
    {
        "harassment": "insults, bullies or harasses somebody",
        "harassment/threatening": "harasses somebody and threatens violence",
        "hate": "expresses hate of people for their race, religion, sex, origin or disability",
        "hate/threatening": "expresses hate of a group of people and threatens violence",
        "illicit": "gives or asks for advice on how to commit a crime",
        "illicit/violent": "gives or asks for advice on how to commit a violent crime or get a weapon",
        "self-harm": "is about suicide, self-injury or an eating disorder",
        "self-harm/instructions": "gives or asks for instructions for suicide or self-injury",
        "self-harm/intent": "says that its author wants to commit suicide or self-injury",
        "sexual": "is sexual content, meant to arouse",
        "sexual/minors": "is sexual content about somebody under 18 years",
        "violence": "depicts death, violence or physical injury",
        "violence/graphic": "depicts death, violence or physical injury in graphic detail",
    }
)
"""OpenAI's categories; each description completes "The text ...". Source: OpenAI's guide to moderation."""


class Moderation(Section):
    """The verdicts of a classifier: OpenAI's categories for each of its labels, and the score that flags one.

    A label without categories, such as "neutral", takes its share of the scores and flags nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    labels: dict[Annotated[str, Field(min_length=1, max_length=200)], tuple[Category, ...]] = Field(
        min_length=2, max_length=256, description="OpenAI's categories of each label"
    )
    threshold: float = Field(default=0.5, gt=0, le=1, description="the least score of a category that is flagged")
