"""LangChain's ChatOpenAI under LangChain's own standard tests of a chat model."""

import os
import subprocess
import sys

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from task import MODEL, SCRIPTED


class TestChat(ChatModelIntegrationTests):
    """A small real model is asked for texts alone."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict:
        return {"model": MODEL, "max_retries": 0, "stream_usage": True, "max_tokens": 64}

    @property
    def has_tool_calling(self) -> bool:
        return SCRIPTED

    @property
    def has_structured_output(self) -> bool:
        return SCRIPTED

    @property
    def supports_json_mode(self) -> bool:
        return SCRIPTED


if __name__ == "__main__":
    options = ["-c", os.devnull, "-q", "-p", "no:cacheprovider", "-rfEs", "--tb=short", "--asyncio-mode=auto"]
    # ChatOpenAI keeps its connections between tests, so all have one event loop
    options += ["-o", "asyncio_default_test_loop_scope=session"]
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", *options, __file__]))
