"""LangChain's ChatOpenAI under LangChain's own standard tests of a chat model."""

import sys

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from task import MODEL, SCRIPTED


class TestChat(ChatModelIntegrationTests):
    """A small real model is held to the form of its answers only."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict:
        return {"model": MODEL, "max_retries": 0, "stream_usage": True, "max_tokens": 300}

    @property
    def has_tool_calling(self) -> bool:
        return SCRIPTED

    @property
    def supports_json_mode(self) -> bool:
        return True


sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider", "-rfEs", "--tb=short", "--asyncio-mode=auto"]))
