"""Every tool and block of Anthropic's SDK at the door of Messages, for models of other providers."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import pytest
import typing_extensions
from anthropic.types.beta.beta_computer_left_click_tool_use_block import BetaComputerLeftClickToolUseBlock
from anthropic.types.beta.beta_content_block_param import BetaContentBlockParam
from anthropic.types.beta.beta_tool_union_param import BetaToolUnionParam
from anthropic.types.beta.message_create_params import MessageCreateParamsBase
from pydantic import ValidationError

from backends.native import refusal_of
from backends.streams.chunks import ChunkWriter
from backends.wire.chat import TranslatedChat
from backends.wire.messages import MessagesRequest
from catalog.errors import InvalidRequest
from catalog.types import Json
from server.wires.messages import MessageStream, to_chat
from server.wires.messages.client_tools import toolsets
from server.wires.messages.tools import members_called
from tests.server.wires import toolset_schemas

HELLO: Json = {"role": "user", "content": "Hi"}
OWN: Json = {"name": "own", "input_schema": {"type": "object"}}
LATER: Json = {"name": "later", "input_schema": {"type": "object"}, "defer_loading": True}
SCREEN: Json = {"display_width_px": 800, "display_height_px": 600}


def chat_of(*messages: Json, **fields: Any) -> TranslatedChat:
    body = {"model": "m", "max_tokens": 100, "messages": list(messages) or [HELLO], **fields}
    return to_chat(MessagesRequest.model_validate(body), searches=lambda _: False)


def names_of(chat: TranslatedChat) -> list[str]:
    return [tool.function.name for tool in chat.tools or () if tool.function]


def types_in(union: Any) -> Iterator[tuple[str, str | None]]:
    """The types of a union's members, and the only name that a member may have."""
    for member in typing.get_args(union):
        if not typing_extensions.is_typeddict(member):
            continue
        hints = typing_extensions.get_type_hints(member)
        name = typing.get_args(hints.get("name")) or (None,)
        for kind in typing.get_args(hints["type"]):
            if isinstance(kind, str):
                yield kind, name[0] if isinstance(name[0], str) else None


def test_the_members_of_toolsets_are_those_of_the_sdk() -> None:
    assert toolset_schemas.FILE.read_bytes() == toolset_schemas.written()


TOOLS = [*types_in(BetaToolUnionParam)]


@pytest.mark.parametrize(("kind", "name"), TOOLS, ids=[kind for kind, _ in TOOLS])
def test_no_tool_of_the_sdk_is_refused(kind: str, name: str | None) -> None:
    tool = {"type": kind, **({"name": name} if name else {}), **SCREEN}
    chat = chat_of(tools=[tool, OWN])
    assert refusal_of(chat) is None
    assert names_of(chat)[-1] == "own"
    given = names_of(chat)[:-1]
    assert (f"tools.{kind}" in chat.left_out) is not bool(given), "it is given to the model, or named"
    clients = kind.startswith(("bash_", "text_editor_", "computer_", "memory_", "browser_"))
    assert bool(given) is clients


def test_the_tests_of_tools_know_all_kinds() -> None:
    kinds = {kind for kind, _ in TOOLS}
    assert len(kinds) > 25
    assert {"bash_20250124", "mcp_toolset", "computer_toolset_20260801", "advisor_20260301"} <= kinds


@pytest.mark.parametrize(
    ("tool", "field", "values"),
    [
        ({"type": "bash_20250124", "name": "bash"}, "restart", None),
        (
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 9000},
            "command",
            ["view", "create", "str_replace", "insert"],
        ),
        (
            {"type": "text_editor_20250124", "name": "str_replace_editor"},
            "command",
            ["view", "create", "str_replace", "insert", "undo_edit"],
        ),
        ({"type": "memory_20250818", "name": "memory"}, "old_path", None),
        ({"type": "computer_20241022", "name": "computer", **SCREEN}, "coordinate", None),
        ({"type": "computer_20251124", "name": "computer", **SCREEN, "enable_zoom": True}, "region", None),
        ({"type": "bash_20300101", "name": "bash"}, "command", None),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_a_clients_tool_is_a_function_with_the_published_arguments(
    tool: Json, field: str, values: list[str] | None
) -> None:
    chat = chat_of(tools=[tool])
    assert chat.tools is not None
    (made,) = chat.tools
    assert made.function is not None
    assert made.function.name == tool["name"]
    assert made.function.description
    parameters: Any = made.function.parameters
    assert field in parameters["properties"]
    if values is not None:
        assert parameters["properties"][field]["enum"] == values
    assert not [name for name in chat.left_out if name.startswith("tools.")]


def test_a_screens_size_reaches_the_model() -> None:
    chat = chat_of(tools=[{"type": "computer_20250124", "name": "computer", **SCREEN}])
    assert "800 by 600" in str(chat.to_wire()["tools"])


def test_a_toolset_is_a_function_for_each_member_that_is_not_switched_off() -> None:
    tool = {"type": "computer_toolset_20260801", "configs": {"zoom": {"enabled": False}}}
    names = names_of(chat_of(tools=[tool]))
    assert "computer__left_click" in names
    assert "computer__zoom" not in names
    assert len(names) == len(toolsets()["computer"]) - 1
    assert all(len(f"{family}__{name}") <= 64 for family, members in toolsets().items() for name in members)


def test_a_call_of_a_member_has_its_own_name_and_that_of_the_toolset_and_goes_round() -> None:
    tools = [{"type": "computer_toolset_20260801"}, OWN]
    writer = ChunkWriter("chatcmpl-1", "m", 1)
    stream = MessageStream("msg_1", members=members_called(tools))
    for chunk in (
        writer.tool_start(0, "t", "computer__left_click"),
        writer.tool_arguments(0, '{"coordinate": [3, 4]}'),
        writer.tool_start(1, "u", "own"),
        writer.delta({}, finish_reason="tool_calls"),
    ):
        list(stream.feed(chunk))
    list(stream.finish())
    call, own = stream.message()["content"]
    assert BetaComputerLeftClickToolUseBlock.model_validate(call).input.coordinate == [3, 4]
    assert (own["name"], "toolset_name" in own) == ("own", False)
    result = {"type": "tool_result", "tool_use_id": "t", "toolset_name": "computer", "content": "Done."}
    other = {"type": "tool_result", "tool_use_id": "u", "content": "Done."}
    chat = chat_of(
        HELLO,
        {"role": "assistant", "content": [call, own]},
        {"role": "user", "content": [result, other]},
        tools=tools,
        tool_choice={"type": "tool", "name": "left_click"},
    )
    assert chat.left_out == ()
    said = chat.to_wire()["messages"][1]
    assert [each["function"]["name"] for each in said["tool_calls"]] == ["computer__left_click", "own"]
    assert chat.to_wire()["tool_choice"]["function"]["name"] == "computer__left_click"


# ---- tools that come and go


SEARCHED: list[Json] = [
    HELLO,
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "own", "input": {}}]},
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "t",
                "content": [{"type": "tool_reference", "tool_name": "later"}],
            }
        ],
    },
]


def test_a_deferred_tool_is_given_once_a_search_of_the_client_has_found_it() -> None:
    never = {**LATER, "name": "never"}
    assert names_of(chat_of(tools=[OWN, LATER, never])) == ["own"]
    found = chat_of(*SEARCHED, tools=[OWN, LATER, never])
    assert names_of(found) == ["own", "later"]
    assert "later" in found.to_wire()["messages"][-1]["content"][0]["text"]
    assert found.left_out == ()


def test_tools_that_only_anthropic_could_search_are_given_at_once() -> None:
    search = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    chat = chat_of(tools=[search, OWN, LATER])
    assert names_of(chat) == ["own", "later"]
    assert chat.left_out == ("tools.tool_search_tool_regex_20251119",)


def test_tools_that_nothing_can_find_are_given_at_once_and_their_deferral_is_named() -> None:
    chat = chat_of(tools=[LATER])
    assert names_of(chat) == ["later"]
    assert chat.left_out == ("tools.defer_loading",)
    removed = {"role": "system", "content": [{"type": "tool_removal", "tool": {"name": "later"}}]}
    assert names_of(chat_of(HELLO, removed, tools=[LATER])) == []


def test_a_deferred_tool_is_given_if_the_choice_names_it() -> None:
    chat = chat_of(tools=[OWN, LATER], tool_choice={"type": "tool", "name": "later"})
    assert names_of(chat) == ["own", "later"]
    assert chat.to_wire()["tool_choice"]["function"]["name"] == "later"
    assert refusal_of(chat) is None


@pytest.mark.parametrize("kind", ["web_search_20250305", "code_execution_20250825", "brand_new"])
def test_a_providers_tool_is_named_also_if_it_is_deferred(kind: str) -> None:
    tool = {"type": kind, "name": "theirs", "defer_loading": True}
    chat = chat_of(tools=[OWN, tool])
    assert (names_of(chat), chat.left_out) == (["own"], (f"tools.{kind}",))
    chosen = refusal_of(chat_of(tools=[OWN, tool], tool_choice={"type": "tool", "name": "theirs"}))
    assert chosen is not None


def test_a_choice_of_a_tool_that_is_not_there_is_never_sent_on() -> None:
    chat = chat_of(tools=[OWN], tool_choice={"type": "tool", "name": "other"})
    assert chat.tool_choice is None
    refusal = refusal_of(chat)
    assert refusal is not None
    assert refusal.param == "tool_choice"


def test_a_tool_that_the_conversation_has_called_stays_known() -> None:
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "later", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "1"}]}
    assert names_of(chat_of(HELLO, called, result, tools=[LATER])) == ["later"]


def test_messages_add_tools_and_take_them_away() -> None:
    def change(kind: str, **tool: Any) -> Json:
        return {"role": "system", "content": [{"type": kind, "tool": tool}]}

    added = change("tool_addition", type="tool_reference", name="later")
    removed = change("tool_removal", type="tool_reference", name="own")
    defined = change("tool_addition", type="tool_definition", definition={**OWN, "name": "new"})
    chat = chat_of(HELLO, added, removed, defined, tools=[OWN, LATER])
    assert names_of(chat) == ["later", "new"]
    assert [message["role"] for message in chat.to_wire()["messages"]] == ["user"]
    compacted = {"role": "assistant", "content": [{"type": "compaction", "tool_changes": [*removed["content"]]}]}
    assert names_of(chat_of(compacted, HELLO, tools=[OWN, LATER])) == []
    with pytest.raises(InvalidRequest):
        chat_of(HELLO, {"role": "system", "content": [{"type": "tool_addition"}]}, tools=[OWN])


# ---- blocks and turns


SAMPLES: Json = {
    "text": {"text": "Hi"},
    "image": {"source": {"type": "url", "url": "https://example.com/a.png"}},
    "document": {"source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
    "search_result": {"source": "s", "title": "t", "content": [{"type": "text", "text": "found"}]},
    "thinking": {"thinking": "Hm.", "signature": "s"},
    "redacted_thinking": {"data": "x"},
    "tool_use": {"id": "t", "name": "own", "input": {}},
    "tool_result": {"tool_use_id": "t", "content": "1"},
    "server_tool_use": {"id": "srvtoolu_1", "name": "web_fetch", "input": {}},
    "mcp_tool_use": {"id": "mcptoolu_1", "name": "n", "server_name": "s", "input": {}},
    "compaction": {"content": "We said hello.", "encrypted_content": "x"},
    "fallback": {"to": {"model": "m"}},
    "container_upload": {"file_id": "file_1"},
    "tool_addition": {"tool": {"type": "tool_reference", "name": "own"}},
    "tool_removal": {"tool": {"type": "tool_reference", "name": "own"}},
    "mcp_tool_listing": {"mcp_server_name": "s", "tools": []},
}
_OF_ASSISTANT = ("thinking", "tool_use", "server_tool", "mcp_tool", "compaction", "fallback", "redacted")
BLOCKS = sorted({kind for kind, _ in types_in(BetaContentBlockParam)})


def test_the_tests_of_blocks_know_all_kinds() -> None:
    assert set(SAMPLES) <= set(BLOCKS)
    assert len(BLOCKS) > 20


@pytest.mark.parametrize("kind", BLOCKS)
def test_no_block_of_the_sdk_is_refused(kind: str) -> None:
    assistants = kind.startswith(_OF_ASSISTANT) or kind.endswith("_tool_result")
    role = "assistant" if assistants else "system" if kind.startswith(("tool_add", "tool_rem")) else "user"
    block = {"type": kind, **SAMPLES.get(kind, {"tool_use_id": "srvtoolu_1", "content": []})}
    chat = chat_of(HELLO, {"role": role, "content": [block]}, HELLO, tools=[OWN])
    assert refusal_of(chat) is None
    told = len(chat.messages) > 2
    assert told or chat.left_out or kind in ("fallback", "tool_addition", "tool_removal"), "told, or named"


def test_a_summary_stands_in_a_users_message() -> None:
    compaction = {"type": "compaction", **SAMPLES["compaction"]}
    chat = chat_of({"role": "assistant", "content": [compaction, {"type": "text", "text": "Hello."}]}, HELLO)
    summary, said, _ = chat.to_wire()["messages"]
    assert summary["role"] == "user"
    assert "We said hello." in summary["content"]
    assert said["content"] == [{"type": "text", "text": "Hello."}]


def test_a_search_result_has_its_source_and_what_it_says() -> None:
    block = {"type": "search_result", **SAMPLES["search_result"], "citations": {"enabled": True}}
    chat = chat_of({"role": "user", "content": [block]})
    assert chat.to_wire()["messages"][0]["content"][0]["text"] == "t\ns\n\nfound"
    assert chat.left_out == ("messages.content.citations",)


def test_a_system_message_for_one_turn_is_not_shown_later() -> None:
    note = {"role": "system", "content": "Soon.", "clear_at": "next_user_message"}
    assert len(chat_of(HELLO, note).messages) == 2
    later = chat_of(HELLO, note, {"role": "assistant", "content": "Yes."}, HELLO)
    assert [message.role for message in later.messages] == ["user", "assistant", "user"]
    assert later.left_out == ()


def test_a_system_message_sets_the_effort_of_the_turn_that_it_follows() -> None:
    set_low = {"role": "system", "content": "", "output_config": {"effort": "low"}}
    config = {"effort": "high"}
    assert chat_of(HELLO, set_low, output_config=config).reasoning_effort == "low"
    assert chat_of(HELLO, set_low, *SEARCHED[1:], output_config=config, tools=[OWN]).reasoning_effort == "low"
    answered = {"role": "assistant", "content": "Yes."}
    assert chat_of(HELLO, set_low, answered, HELLO, output_config=config).reasoning_effort == "high"
    assert chat_of(set_low, HELLO, output_config=config).reasoning_effort == "low"
    assert chat_of(HELLO, answered, set_low, HELLO, output_config=config).reasoning_effort == "low"


def test_a_system_message_may_set_the_effort_and_say_nothing() -> None:
    silent = {"role": "system", "output_config": {"effort": "low"}}
    chat = chat_of(HELLO, silent)
    assert chat.reasoning_effort == "low"
    assert [message.role for message in chat.messages] == ["user"]
    assert chat.original is not None
    sent = chat.original.request.to_wire()
    assert sent["messages"][1] == silent, "Anthropic gets it as it is"
    newer = {"role": "system", "output_config": {"newer": 1}}
    assert chat_of(HELLO, newer).left_out == ("messages.output_config.newer",)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system"},
        {"role": "system", "output_config": {}},
        {"role": "user", "output_config": {"effort": "low"}},
        {"role": "assistant"},
        {"role": "system", "content": None, "output_config": {"effort": "low"}},
    ],
)
def test_any_other_message_needs_content(message: Json) -> None:
    with pytest.raises(ValidationError) as refused:
        chat_of(HELLO, message)
    assert refused.value.errors()[0]["loc"][:3] == ("messages", 1, "content")


def test_a_system_message_sets_the_effort_alone() -> None:
    newer = {"role": "system", "content": "Hm.", "output_config": {"effort": "low", "newer": 1}}
    assert chat_of(HELLO, newer).left_out == ("messages.output_config.newer",)
    form = {"type": "json_schema", "schema": {"type": "object"}}
    with pytest.raises(InvalidRequest, match=r"output_config\.format"):
        chat_of(HELLO, {**newer, "output_config": {"format": form}})


# ---- the other fields


FIELDS: Json = {
    "cache_control": {"type": "ephemeral"},
    "container": {"skills": []},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "diagnostics": {"previous_message_id": None},
    "fallback_credit_token": "x",
    "fallbacks": "default",
    "inference_geo": "global",
    "mcp_servers": [{"type": "url", "url": "https://example.com", "name": "x"}],
    "metadata": {"user_id": "u"},
    "output_config": {"effort": "low", "task_budget": {"type": "tokens", "total": 5}},
    "service_tier": "auto",
    "speed": "standard",
    "stop_sequences": ["END"],
    "system": [{"type": "text", "text": "S"}],
    "thinking": {"type": "adaptive", "display": "omitted"},
    "tool_choice": {"type": "auto"},
    "tools": [OWN],
    "billing_policy": {"type": "billing_policy", "bill_to": "self"},
    "compaction": {"type": "summarize"},
}
REFUSED = {"thread"}


def test_no_field_of_the_sdk_is_refused_but_those_that_cannot_be_kept() -> None:
    known = set(typing_extensions.get_type_hints(MessageCreateParamsBase)) - {
        "model",
        "max_tokens",
        "messages",
        "betas",
    }
    headers = {"user_profile_id", "workspace_id"}
    assert known - headers - REFUSED == set(FIELDS)
    for name in REFUSED:
        assert refusal_of(chat_of(**{name: {"type": "create"}})) is not None
    chat = chat_of(**FIELDS, anything_newer={"x": 1})
    assert refusal_of(chat) is None
    assert set(chat.left_out) == {
        "container", "context_management", "diagnostics", "fallback_credit_token", "fallbacks", "mcp_servers",
        "billing_policy", "output_config.task_budget", "anything_newer",
    }  # fmt: skip
