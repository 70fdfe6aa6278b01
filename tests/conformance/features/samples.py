"""One or more values for every parameter of the request types of the OpenAI and Anthropic SDKs.

A text ``mark-...`` within a value must arrive in the body at the provider, or the answer names what was left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from catalog.types import Json
from tests.conformance.features.doors import PDF, PICTURE, PNG, WAV, Door, Sample, plain
from tests.conformance.features.others import OTHERS
from tests.fakes.anthropic import SIGNATURE

SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "mark-city"}},
    "required": ["city"],
    "additionalProperties": False,
}
CHAT_TOOL: Json = {
    "type": "function",
    "function": {"name": "weather", "description": "mark-tool", "parameters": SCHEMA},
}
CHAT_CALL: Json = {
    "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "mark-args"}'},
}  # fmt: skip
CALL: Json = {
    "type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "mark-args"}',
}  # fmt: skip
TOOL: Json = {
    "type": "function", "name": "weather", "description": "mark-tool", "parameters": SCHEMA, "strict": False,
}  # fmt: skip
CLAUDE_TOOL: Json = {"name": "weather", "description": "mark-tool", "input_schema": SCHEMA}


def _user(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": [{"type": "text", "text": "mark-text"}, *parts]}]


def _item(*parts: Json) -> list[Json]:
    return [{"role": "user", "content": [{"type": "input_text", "text": "mark-text"}, *parts]}]


def _efforts(make: Any) -> list[Sample]:
    levels = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    return [make(level) for level in levels]


CHAT = Door(
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "Say it."}]},
    (
        *plain(
            audio={"voice": "alloy", "format": "wav"}, frequency_penalty=0.5,
            functions=[{"name": "weather", "description": "mark-tool", "parameters": SCHEMA}],
            logit_bias={"15": 5}, logprobs=True, max_completion_tokens=77, max_tokens=77,
            metadata={"mark-key": "mark-value"}, modalities=["text", "audio"],
            moderation={"model": "omni-moderation-latest"}, n=2, presence_penalty=0.5,
            prediction={"type": "content", "content": "mark-prediction"}, prompt_cache_key="mark-cache",
            prompt_cache_options={"mode": "explicit"}, prompt_cache_retention="24h", safety_identifier="mark-safe",
            seed=7, service_tier="flex", store=True, stop=["mark-stop"], temperature=0.5,
            top_p=0.5, user="mark-user", verbosity="low", web_search_options={},
        ),
        Sample("function_call: named", {
            "functions": [{"name": "weather", "description": "mark-tool", "parameters": SCHEMA}],
            "function_call": {"name": "weather"},
        }),
        Sample("audio: spoken", {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}),
        Sample("top_logprobs", {"logprobs": True, "top_logprobs": 3}),
        *_efforts(lambda level: Sample(f"reasoning_effort: {level}", {"reasoning_effort": level})),
        Sample("parallel_tool_calls", {"tools": [CHAT_TOOL], "parallel_tool_calls": False}),
        Sample("response_format: json_object", {"response_format": {"type": "json_object"}}),
        Sample("response_format: json_schema", {"response_format": {
            "type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True},
        }}),
        Sample("response_format: with tools", {
            "tools": [CHAT_TOOL], "response_format": {"type": "json_object"},
        }),
        Sample("stream", {"stream": True}),
        Sample("stream_options", {"stream": True, "stream_options": {"include_usage": True}}),
        Sample("tools: function", {"tools": [CHAT_TOOL]}),
        Sample("tools: strict", {"tools": [
            {"type": "function", "function": {**CHAT_TOOL["function"], "strict": True}},
        ]}),
        Sample("tools: custom", {"tools": [
            {"type": "custom", "custom": {"name": "shell", "description": "mark-custom"}},
        ]}),
        Sample("tools: odd name", {"tools": [
            {"type": "function", "function": {"name": "9-weather", "description": "mark-tool"}},
        ]}),
        Sample("tools: anyOf at the top", {"tools": [{"type": "function", "function": {
            "name": "weather", "parameters": {"anyOf": [SCHEMA, {"type": "object", "description": "mark-other"}]},
        }}]}),
        Sample("tools: $ref", {"tools": [{"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object", "properties": {"a": {"$ref": "#/$defs/A"}},
            "$defs": {"A": {"type": "string", "description": "mark-def"}},
        }}}]}),
        Sample("tool_choice: none", {
            "tools": [{"type": "function", "function": {"name": "weather"}}], "tool_choice": "none",
        }),
        Sample("tool_choice: required", {"tools": [CHAT_TOOL], "tool_choice": "required"}),
        Sample("tool_choice: named", {"tools": [CHAT_TOOL], "tool_choice": {
            "type": "function", "function": {"name": "weather"},
        }}),
        Sample("tool_choice: allowed_tools", {"tools": [CHAT_TOOL], "tool_choice": {
            "type": "allowed_tools", "allowed_tools": {
                "mode": "auto", "tools": [{"type": "function", "function": {"name": "weather"}}],
            },
        }}),
        Sample("messages: system", {"messages": [{"role": "system", "content": "mark-system"}, *_user()]}),
        Sample("messages: developer", {"messages": [{"role": "developer", "content": "mark-system"}, *_user()]}),
        Sample("messages: system in the middle", {"messages": [
            *_user(), {"role": "assistant", "content": "mark-said"}, {"role": "system", "content": "mark-system"},
            *_user(),
        ]}),
        Sample("messages: name", {"messages": [{"role": "user", "content": "x", "name": "mark-name"}]}),
        Sample("messages: picture", {"messages": _user(
            {"type": "image_url", "image_url": {"url": PICTURE, "detail": "low"}},
        )}),
        Sample("messages: picture by address", {"messages": _user(
            {"type": "image_url", "image_url": {"url": "https://example.com/mark-picture.png"}},
        )}),
        Sample("messages: sound", {"messages": _user(
            {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
        )}),
        Sample("messages: PDF", {"messages": _user(
            {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        )}),
        Sample("messages: text file", {"messages": _user(
            {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,bWFyay1maWxl"}},
        )}),
        Sample("messages: file id", {"messages": _user({"type": "file", "file": {"file_id": "mark-file"}})}),
        Sample("messages: refusal", {"messages": [
            *_user(), {"role": "assistant", "refusal": "mark-refusal"}, *_user(),
        ]}),
        Sample("messages: tool result", {"tools": [CHAT_TOOL], "messages": [
            *_user(), {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "mark-result"},
        ]}),
        Sample("messages: tool result with a picture", {"tools": [CHAT_TOOL], "messages": [
            *_user(), {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": [
                {"type": "text", "text": "mark-result"}, {"type": "image_url", "image_url": {"url": PICTURE}},
            ]},
        ]}),
        Sample("messages: audio of before", {"messages": [
            *_user(), {"role": "assistant", "audio": {"id": "mark-audio"}}, *_user(),
        ]}),
        Sample("messages: cache_control", {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "mark-text", "cache_control": {"type": "ephemeral"}},
        ]}]}),
    ),
    gateway=MappingProxyType({
        "store": "the gateway keeps the chat",
        "messages": "the request itself", "model": "chooses the row",
        "stream": "the gateway asks for a stream as it needs one",
        "stream_options": "the gateway gives the usage",
        "audio: spoken": "a voice speaks the answer of a model that writes it",
    }),
)  # fmt: skip

RESPONSES = Door(
    "/v1/responses",
    {"input": "Say it.", "store": False},
    (
        *plain(
            access_programs={"cyber": "mark-access"},
            context_management=[{"type": "compaction", "compact_threshold": 1000}], conversation="conv_mark",
            image={"context_compression": "disabled"}, include=["reasoning.encrypted_content"],
            instructions="mark-instructions", max_output_tokens=77, max_tool_calls=2,
            metadata={"mark-key": "mark-value"}, moderation={"model": "omni-moderation-latest"},
            previous_response_id="resp_mark", prompt={"id": "pmpt_mark"},
            prompt_cache_key="mark-cache", prompt_cache_options={"mode": "explicit"}, prompt_cache_retention="24h",
            safety_identifier="mark-safe", service_tier="flex", store=True, temperature=0.5,
            top_logprobs=3, top_p=0.5, truncation="auto", user="mark-user",
        ),
        Sample("background", {"background": True, "store": True}),
        Sample("background_options", {
            "background": True, "store": True, "background_options": {"completion_window": "2h"},
        }),
        Sample("stream", {"stream": True}),
        Sample("stream_options", {"stream": True, "stream_options": {"include_obfuscation": False}}),
        *_efforts(lambda level: Sample(f"reasoning.effort: {level}", {"reasoning": {"effort": level}})),
        Sample("reasoning.summary", {"reasoning": {"summary": "auto"}}),
        Sample("reasoning.mode", {"reasoning": {"mode": "pro"}}),
        Sample("reasoning.context", {"reasoning": {"context": "all_turns"}}),
        Sample("text.verbosity", {"text": {"verbosity": "low"}}),
        Sample("text.format: json_schema", {"text": {"format": {
            "type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True,
        }}}),
        Sample("text.format: json_object", {"text": {"format": {"type": "json_object"}}}),
        Sample("tools: function", {"tools": [TOOL]}),
        Sample("tools: custom", {"tools": [{"type": "custom", "name": "shell", "description": "mark-custom"}]}),
        Sample("tools: web_search", {"tools": [{"type": "web_search"}]}),
        Sample("tools: web_search with domains", {"tools": [
            {"type": "web_search", "filters": {"allowed_domains": ["mark-domain.org"]}},
        ]}),
        Sample("tools: file_search", {"tools": [{"type": "file_search", "vector_store_ids": ["vs_mark"]}]}),
        Sample("tools: code_interpreter", {"tools": [
            {"type": "code_interpreter", "container": {"type": "auto"}},
        ]}),
        Sample("tools: image_generation", {"tools": [{"type": "image_generation"}]}),
        Sample("tools: mcp", {"tools": [
            {"type": "mcp", "server_label": "mark-label", "server_url": "https://example.com/mark-mcp"},
        ]}),
        Sample("tools: namespace", {"tools": [
            {"type": "namespace", "name": "mark_space", "description": "d", "tools": [TOOL]},
        ]}),
        Sample("tools: local_shell", {"tools": [{"type": "local_shell"}]}),
        Sample("tools: apply_patch", {"tools": [{"type": "apply_patch"}]}),
        Sample("parallel_tool_calls", {"tools": [TOOL], "parallel_tool_calls": False}),
        Sample("tool_choice: required", {"tools": [TOOL], "tool_choice": "required"}),
        Sample("tool_choice: named", {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}),
        Sample("tool_choice: allowed_tools", {"tools": [TOOL], "tool_choice": {
            "type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}],
        }}),
        Sample("input: developer", {"input": [{"role": "developer", "content": "mark-system"}, *_item()]}),
        Sample("input: picture", {"input": _item({"type": "input_image", "image_url": PICTURE, "detail": "low"})}),
        Sample("input: PDF", {"input": _item(
            {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
        )}),
        Sample("input: text file", {"input": _item(
            {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,bWFyay1maWxl"},
        )}),
        Sample("input: file by address", {"input": _item(
            {"type": "input_file", "file_url": "https://example.com/mark-file.pdf"},
        )}),
        Sample("input: tool result", {"tools": [TOOL], "input": [
            *_item(),
            CALL,
            {"type": "function_call_output", "call_id": "call_1", "output": "mark-result"},
        ]}),
        Sample("input: tool result with a picture", {"tools": [TOOL], "input": [
            *_item(),
            CALL,
            {"type": "function_call_output", "call_id": "call_1", "output": [
                {"type": "input_text", "text": "mark-result"}, {"type": "input_image", "image_url": PICTURE},
            ]},
        ]}),
        Sample("input: reasoning", {"input": [
            *_item(),
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "t"}],
             "encrypted_content": "mark-secret"},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [
                {"type": "output_text", "text": "mark-said", "annotations": []},
            ]},
            *_item(),
        ]}),
        Sample("input: item_reference", {"input": [*_item(), {"type": "item_reference", "id": "msg_mark"}]}),
    ),
    gateway=MappingProxyType({
        "input": "the request itself", "model": "chooses the row",
        "stream": "the gateway asks for a stream as it needs one", "store": "the gateway keeps the response",
        "background": "the gateway answers when nobody waits", "conversation": "the gateway keeps it",
        "previous_response_id": "the gateway keeps it",
        "stream_options": "the gateway writes no obfuscation", "include": "answered from what the model gives",
        "truncation": "the gateway leaves out the oldest turns",
        "max_tool_calls": "bounds the provider's own tools, of which this request has none",
        "reasoning.summary": "reasoning that is told comes as the summary",
    }),
)  # fmt: skip

MESSAGES = Door(
    "/v1/messages",
    {"max_tokens": 4000, "messages": [{"role": "user", "content": "Say it."}]},
    (
        *plain(
            billing_policy={"type": "billing_policy", "bill_to": "user_profile"},
            cache_control={"type": "ephemeral"}, compaction={"type": "enabled"},
            container="mark-container", context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
            diagnostics={"previous_message_id": "msg_mark"}, fallback_credit_token="mark-credit",
            fallbacks="default", inference_geo="eu", max_tokens=77,
            mcp_servers=[{"type": "url", "name": "mark-mcp", "url": "https://example.com/mcp"}],
            metadata={"user_id": "mark-user"}, service_tier="standard_only", speed="fast",
            stop_sequences=["mark-stop"], system="mark-system", thread={"type": "create"},
        ),
        *_efforts(lambda level: Sample(f"output_config.effort: {level}", {"output_config": {"effort": level}})),
        Sample("output_config.format", {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        Sample("temperature", {"temperature": 0.5}),
        Sample("top_k", {"top_k": 5}),
        Sample("top_p", {"top_p": 0.5}),
        Sample("thinking: enabled", {"thinking": {"type": "enabled", "budget_tokens": 2000}}),
        Sample("thinking: adaptive", {"thinking": {"type": "adaptive"}}),
        Sample("thinking: disabled", {"thinking": {"type": "disabled"}}),
        Sample("stream", {"stream": True}),
        Sample("system: cached", {"system": [
            {"type": "text", "text": "mark-system", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ]}),
        Sample("tools: function", {"tools": [CLAUDE_TOOL]}),
        Sample("tools: examples", {"tools": [{**CLAUDE_TOOL, "input_examples": [{"city": "mark-example"}]}]}),
        Sample("tools: web_search", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        Sample("tools: code_execution", {"tools": [
            {"type": "code_execution_20250825", "name": "code_execution"},
        ]}),
        Sample("tools: bash", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
        Sample("tool_choice: any", {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}}),
        Sample("tool_choice: named", {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "weather"}}),
        Sample("tool_choice: one at a time", {"tools": [CLAUDE_TOOL], "tool_choice": {
            "type": "auto", "disable_parallel_tool_use": True,
        }}),
        Sample("messages: picture", {"messages": _user(
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        )}),
        Sample("messages: PDF", {"messages": _user(
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
        )}),
        Sample("messages: text document", {"messages": _user({
            "type": "document", "title": "mark-title", "context": "mark-context",
            "source": {"type": "text", "media_type": "text/plain", "data": "mark-file"},
        })}),
        Sample("messages: citations", {"messages": _user({
            "type": "document", "citations": {"enabled": True},
            "source": {"type": "text", "media_type": "text/plain", "data": "mark-file"},
        })}),
        Sample("messages: tool result", {"tools": [CLAUDE_TOOL], "messages": [
            *_user(),
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "mark-args"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "mark-result"},
            ]},
        ]}),
        Sample("messages: failed tool", {"tools": [CLAUDE_TOOL], "messages": [
            *_user(),
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "mark-args"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "mark-result", "is_error": True},
            ]},
        ]}),
        Sample("messages: signed thinking", {"messages": [
            *_user(),
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "mark-thought", "signature": SIGNATURE},
                {"type": "text", "text": "mark-said"},
            ]},
            *_user(),
        ]}),
    ),
    gateway=MappingProxyType({
        "messages": "the request itself", "model": "chooses the row",
        "stream": "the gateway asks for a stream as it needs one",
        "betas": "a header", "user_profile_id": "a header", "workspace_id": "a header",
    }),
    headers=MappingProxyType({"anthropic-version": "2023-06-01"}),
)  # fmt: skip

DOORS: Mapping[str, Door] = MappingProxyType(
    {"Chat": CHAT, "Responses": RESPONSES, "Messages": MESSAGES, **OTHERS}
)
