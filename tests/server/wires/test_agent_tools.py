"""The tools that agents send to the Responses API, for models of every other API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from backends.native import refusal_of
from backends.streams.chunks import ChunkWriter
from backends.wire.chat import TranslatedChat
from backends.wire.responses import ResponsesRequest
from catalog.errors import AnswerInvalid, InvalidRequest
from catalog.types import Json
from server.wires.responses import ResponseStream, to_chat
from server.wires.responses.reasoning import sealed

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WRITER = ChunkWriter("chatcmpl-1", "model-1", 1)
FREE: Json = {"type": "object", "properties": {}}


def function(name: str, **more: Any) -> Json:
    return {"type": "function", "name": name, "parameters": FREE, **more}


def space(name: str, *tools: Json) -> Json:
    return {"type": "namespace", "name": name, "description": f"About {name}.", "tools": list(tools)}


def request_of(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "m", "input": "Hi", **fields})


def chat_of(**fields: Any) -> TranslatedChat:
    return to_chat(request_of(**fields))


def names_in(chat: TranslatedChat) -> list[str]:
    return [tool[tool["type"]]["name"] for tool in chat.to_wire().get("tools") or ()]


def called(name: str, *pieces: str, finish: str = "tool_calls", **fields: Any) -> tuple[list[Json], Json]:
    """The events of an answer that calls this tool of the chat, and its one item. The SDK takes each event."""
    stream = ResponseStream(request_of(**fields), "resp_1", 5)
    events = [*stream.start()]
    chunks = [WRITER.tool_start(0, "c1", name), *(WRITER.tool_arguments(0, piece) for piece in pieces)]
    for chunk in [*chunks, WRITER.delta({}, finish_reason=finish)]:
        events += stream.feed(chunk)
    events += stream.finish()
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    Response.model_validate(stream.response())
    (item,) = stream.response()["output"]
    return events, item


# ---- namespaces


def test_a_namespace_is_flattened_and_both_names_come_back_on_the_call() -> None:
    custom = {"type": "custom", "name": "exec", "description": "Runs."}
    tools = [function("list"), space("files", function("list", description="Lists."), custom)]
    chat = chat_of(tools=tools)
    assert names_in(chat) == ["list", "files__list", "files__exec"]
    described = chat.to_wire()["tools"][1]["function"]["description"]
    assert "About files." in described
    assert "Lists." in described
    events, item = called("files__list", "{}", tools=tools)
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "list", "files")
    assert events[2]["item"]["namespace"] == "files"
    _, plain = called("list", "{}", tools=tools)
    assert (plain["name"], "namespace" in plain) == ("list", False)


@pytest.mark.parametrize("name", ["read", "files.read", "files/read", "functions.files__read", "functions.read"])
def test_a_tool_of_a_namespace_may_be_called_by_a_name_that_no_other_tool_has(name: str) -> None:
    _, item = called(name, "{}", tools=[function("list"), space("files", function("list"), function("read"))])
    assert (item["name"], item["namespace"]) == ("read", "files")


def test_a_name_that_could_mean_two_tools_or_none_reaches_the_client_as_the_model_wrote_it() -> None:
    tools = [space("files", function("list")), space("mail", function("list"))]
    for name in ("list", "send", "functions", "ist", "s__list", "."):
        _, item = called(name, "{}", tools=tools)
        assert (item["name"], "namespace" in item) == (name, False)


def test_a_custom_tool_in_a_namespace_is_called_with_its_text() -> None:
    tools = [space("functions", {"type": "custom", "name": "exec"})]
    stream = ResponseStream(request_of(tools=tools), "resp_1", 5)
    start = {"index": 0, "id": "c1", "type": "custom", "custom": {"name": "functions__exec", "input": "a()"}}
    events = [*stream.start(), *stream.feed(WRITER.delta({"tool_calls": [start]}))]
    events += [*stream.feed(WRITER.delta({}, finish_reason="tool_calls")), *stream.finish()]
    assert [event["type"] for event in events if "custom" in event["type"]] == [
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
    ]
    (item,) = stream.response()["output"]
    assert (item["type"], item["namespace"], item["name"], item["input"]) == (
        "custom_tool_call", "functions", "exec", "a()",
    )  # fmt: skip


def test_names_are_legal_all_different_and_the_same_whatever_comes_later() -> None:
    long = "n" * 60
    tools = [space("a", function("b"), function("ü")), space(long, function("x"), function("y")), function("a__b")]
    names = names_in(chat_of(tools=tools))
    assert len(set(names)) == 5
    assert names[-1] == "a__b"
    assert all(len(name) <= 64 and name.isascii() for name in names)
    assert names_in(chat_of(tools=[*tools, function("later")]))[:5] == names


def test_past_calls_have_the_names_that_the_tools_are_sent_with() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "list", "namespace": "files", "arguments": "{}"}
    gone = {"type": "custom_tool_call", "call_id": "c2", "name": "exec", "namespace": "old", "input": "x"}
    results = [
        {"type": f"{each['type']}_output", "call_id": each["call_id"], "output": "."} for each in (call, gone)
    ]
    chat = chat_of(
        input=[{"role": "user", "content": "Hi"}, call, gone, *results], tools=[space("files", function("list"))]
    )
    first, second = chat.to_wire()["messages"][1]["tool_calls"]
    assert first["function"]["name"] == "files__list"
    assert second["custom"] == {"name": "old__exec", "input": "x"}


def test_items_that_bring_tools_are_no_messages() -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [space("files", function("list"))]}
    chat = chat_of(input=[brought, {"role": "user", "content": "Hi"}], tools=[function("own")])
    assert names_in(chat) == ["own", "files__list"]
    assert [message["role"] for message in chat.to_wire()["messages"]] == ["user"]


def test_a_choice_may_name_a_tool_within_a_namespace() -> None:
    tools = [space("files", function("list"), function("read")), function("own")]
    chosen = {"type": "function", "name": "list", "namespace": "files"}
    wanted = {"type": "function", "function": {"name": "files__list"}}
    assert chat_of(tools=tools, tool_choice=chosen).to_wire()["tool_choice"] == wanted
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [chosen]}
    chat = chat_of(tools=tools, tool_choice=allowed)
    assert (names_in(chat), chat.tool_choice) == (["files__list"], "required")
    with pytest.raises(InvalidRequest, match="tool_choice"):
        chat_of(tools=tools, tool_choice={"type": "function", "name": "list"})


def test_a_namespace_that_is_allowed_allows_all_its_tools() -> None:
    tools = [space("files", function("list"), function("read")), function("own")]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "files"}]}
    chat = chat_of(tools=tools, tool_choice=choice)
    assert (names_in(chat), chat.tool_choice) == (["files__list", "files__read"], "auto")


def test_a_hosted_tool_may_be_allowed_by_any_of_its_names() -> None:
    named = {"type": "web_search_preview"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [named, {"type": "function", "name": "own"}]}
    assert names_in(chat_of(tools=[{"type": "web_search"}, function("own")], tool_choice=choice)) == ["own"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tools": [{"type": "function", "name": "other"}]},
        {"tools": [{"type": "custom", "name": "own"}]},
        {"tools": [{"type": "function", "name": "list"}]},
        {"tools": [{"type": "namespace", "name": "other"}]},
        {"tools": [{"type": "namespace"}]},
        {"tools": [{"type": "file_search"}]},
        {"tools": [{"type": "shell"}]},
        {"tools": [5]},
        {"tools": [{"type": []}]},
        {"tools": None},
        {"mode": "sometimes"},
        {"mode": []},
    ],
)
def test_an_allowed_tool_that_the_request_does_not_have_is_a_400(wrong: Json) -> None:
    tools = [space("files", function("list")), function("own")]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "own"}], **wrong}
    with pytest.raises(InvalidRequest) as refused:
        chat_of(tools=tools, tool_choice=choice)
    assert str(refused.value.param).startswith("tool_choice.")


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "namespace", "name": "a"}],
        [{"type": "namespace", "tools": []}],
        [{"type": "namespace", "name": "a", "tools": [5]}],
        [{"name": "f"}],
        [{"type": "custom"}],
        [{"type": []}],
        [{"type": "tool_search", "execution": "client", "description": 5}],
    ],
)
def test_a_malformed_tool_is_a_400(tools: list[Json]) -> None:
    for fields in ({"tools": tools}, {"input": [{"type": "additional_tools", "tools": tools}]}):
        with pytest.raises(InvalidRequest):
            chat_of(**fields)


def test_two_tools_of_one_name_are_for_an_upstream_that_tells_them_apart() -> None:
    assert refusal_of(chat_of(tools=[function("f"), {"type": "custom", "name": "f"}])) is not None
    assert refusal_of(chat_of(tools=[function("f"), space("a", function("f"))])) is None


# ---- tools that the client runs

CALLS: list[tuple[str, Json, Json]] = [
    (
        "local_shell",
        {"command": ["ls", "-l"], "working_directory": "/tmp"},
        {
            "type": "local_shell_call",
            "action": {"type": "exec", "env": {}, "command": ["ls", "-l"], "working_directory": "/tmp"},
        },
    ),
    (
        "shell",
        {"commands": ["ls", "pwd"], "timeout_ms": 9},
        {"type": "shell_call", "action": {"commands": ["ls", "pwd"], "timeout_ms": 9}},
    ),
    (
        "apply_patch",
        {"type": "update_file", "path": "a.py", "diff": "@@\n-a\n+b\n"},
        {"type": "apply_patch_call", "operation": {"type": "update_file", "path": "a.py", "diff": "@@\n-a\n+b\n"}},
    ),
    (
        "tool_search",
        {"query": "calendar"},
        {"type": "tool_search_call", "execution": "client", "arguments": {"query": "calendar"}},
    ),
]


def client_tool(kind: str) -> Json:
    schema = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    searching = {"execution": "client", "description": "Finds tools.", "parameters": schema}
    return {"type": kind, **(searching if kind == "tool_search" else {})}


@pytest.mark.parametrize(("kind", "arguments", "item"), CALLS)
def test_a_tool_that_the_client_runs_is_a_function_whose_call_is_its_own_item(
    kind: str, arguments: Json, item: Json
) -> None:
    chat = chat_of(tools=[client_tool(kind)], tool_choice={"type": kind})
    sent = chat.to_wire()
    assert sent["tools"][0]["function"]["name"] == kind
    assert sent["tools"][0]["function"]["description"]
    assert sent["tools"][0]["function"]["parameters"]["properties"].keys() >= arguments.keys()
    assert sent["tool_choice"] == {"type": "function", "function": {"name": kind}}
    text = json.dumps(arguments)
    events, made = called(kind, text[:9], text[9:], tools=[client_tool(kind)])
    assert {name: made[name] for name in item} == item
    assert (made["call_id"], made["status"]) == ("c1", "completed")
    assert events[-2]["item"] == made
    again = chat_of(input=[{"role": "user", "content": "Hi"}, made], tools=[client_tool(kind)]).to_wire()
    (call,) = again["messages"][1]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("c1", kind)
    assert json.loads(call["function"]["arguments"]) == arguments


def test_the_skills_of_a_local_shell_are_told_to_the_model() -> None:
    skill = {"name": "pdf", "description": "Reads PDFs.", "path": "/skills/pdf"}
    shell = {"type": "shell", "environment": {"type": "local", "skills": [skill]}}
    (sent,) = chat_of(tools=[shell]).to_wire()["tools"]
    assert "pdf: Reads PDFs. (in /skills/pdf)" in sent["function"]["description"]


def test_the_commands_of_a_shell_are_told_in_their_order() -> None:
    events, _ = called("shell", '{"commands": ["ls", "pwd"]}', tools=[{"type": "shell"}])
    told = [(event["type"], event["command_index"]) for event in events if "shell_call_command" in event["type"]]
    kinds = ("added", "delta", "done")
    assert told == [(f"response.shell_call_command.{kind}", at) for at in (0, 1) for kind in kinds]


def test_results_of_such_tools_answer_their_calls() -> None:
    shown = {"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "action": {"type": "exec", "command": ["a"]}},
        {"type": "local_shell_call_output", "id": "lsh_1", "output": "one"},
        {"type": "shell_call", "call_id": "c2", "action": {"commands": ["a"]}},
        {"type": "shell_call_output", "call_id": "c2", "output": [shown]},
        {"type": "apply_patch_call", "call_id": "c3", "operation": {"type": "delete_file", "path": "a"}},
        {"type": "apply_patch_call_output", "call_id": "c3", "status": "failed", "output": "No such file."},
    ]
    messages = chat_of(input=items).to_wire()["messages"]
    said = {message["tool_call_id"]: message["content"] for message in messages if message["role"] == "tool"}
    assert said["c1"] == "one"
    assert json.loads(said["c2"]) == {"output": [shown]}
    assert json.loads(said["c3"]) == {"status": "failed", "output": "No such file."}
    ids = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    assert ids == ["c1", "c2", "c3"]


def test_tools_that_a_search_found_can_be_called() -> None:
    found = [space("calendar", function("create", defer_loading=True)), function("weather")]
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "tool_search_call", "call_id": "c1", "execution": "client", "arguments": {"query": "q"}},
        {"type": "tool_search_output", "call_id": "c1", "execution": "client", "tools": found},
    ]
    chat = chat_of(input=items, tools=[client_tool("tool_search")])
    assert names_in(chat) == ["tool_search", "calendar__create", "weather"]
    answer = chat.to_wire()["messages"][-1]
    assert (answer["role"], answer["tool_call_id"]) == ("tool", "c1")
    assert "calendar__create, weather" in answer["content"]
    assert not chat.left_out
    _, item = called("calendar__create", "{}", input=items, tools=[client_tool("tool_search")])
    assert (item["namespace"], item["name"]) == ("calendar", "create")


def test_a_namespace_within_a_namespace_that_was_found_has_no_tools() -> None:
    found = [space("outer", space("inner"), {"type": "namespace"}, function("f"))]
    output = {"type": "tool_search_output", "call_id": "c", "execution": "client", "tools": found}
    chat = chat_of(input=[{"role": "user", "content": "Hi"}, output])
    assert names_in(chat) == ["outer__f"]


def test_a_function_keeps_its_name_beside_a_tool_of_the_client() -> None:
    tools = [{"type": "shell"}, function("shell")]
    first, second = names_in(chat_of(tools=tools))
    assert second == "shell"
    assert first != "shell"
    assert called(first, '{"commands": ["ls"]}', tools=tools)[1]["type"] == "shell_call"
    assert called("shell", "{}", tools=tools)[1]["type"] == "function_call"


@pytest.mark.parametrize("text", ["{", "[]", '{"commands": 5}', "{}"])
def test_a_call_without_the_tools_arguments_is_no_answer(text: str) -> None:
    with pytest.raises(AnswerInvalid, match="shell"):
        called("shell", text, tools=[{"type": "shell"}])


def test_a_command_in_one_text_is_run_all_the_same() -> None:
    _, shell = called("shell", '{"commands": "ls", "timeout_ms": null}', tools=[{"type": "shell"}])
    assert shell["action"] == {"commands": ["ls"]}
    _, local = called("local_shell", '{"command": "ls -l"}', tools=[{"type": "local_shell"}])
    assert local["action"]["command"] == ["bash", "-lc", "ls -l"]


@pytest.mark.parametrize("kind", ["shell", "local_shell", "apply_patch", "tool_search"])
def test_a_call_that_is_cut_off_looks_unfinished(kind: str) -> None:
    _, item = called(kind, '{"com', finish="length", tools=[client_tool(kind)])
    assert item["status"] == ("in_progress" if kind == "apply_patch" else "incomplete")


# ---- tools that the provider runs


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "file_search", "vector_store_ids": ["v"]},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "mcp", "server_label": "x", "server_url": "https://example.com"},
        {"type": "computer_use_preview"},
        {"type": "shell", "environment": {"type": "container_auto"}},
        {"type": "tool_search"},
        {"type": "web_search", "external_web_access": False},
        {"type": "brand_new"},
    ],
)
def test_what_a_provider_runs_is_left_out_and_named_and_refused_only_if_demanded(tool: Json) -> None:
    chat = chat_of(tools=[tool, function("f")])
    assert (names_in(chat), refusal_of(chat)) == (["f"], None)
    assert chat.left_out == (f"tools.{tool['type']}",)
    assert chat.original is not None
    assert chat.original.own_tools, "an upstream that has it may run it"
    for demand in (
        {"tool_choice": {"type": tool["type"], "server_label": "x"}, "tools": [tool, function("f")]},
        {"tool_choice": "required", "tools": [tool]},
        {
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [tool]},
            "tools": [tool, function("f")],
        },
    ):
        refusal = refusal_of(chat_of(**demand))
        assert refusal is not None
        assert refusal.param == "tool_choice"


def test_items_of_a_providers_own_work_are_left_out_and_named() -> None:
    items = [
        {"role": "user", "content": "Hi"},
        {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "status": "completed"},
        {"type": "mcp_list_tools", "id": "m_1", "server_label": "x", "tools": []},
        {"type": "brand_new", "id": "b_1"},
        {"type": "tool_search_call", "execution": "server", "arguments": {}, "call_id": None},
        {"type": "tool_search_output", "execution": "server", "tools": [function("found")], "call_id": None},
    ]
    chat = chat_of(input=items)
    assert set(chat.left_out) == {"input.file_search_call", "input.mcp_list_tools", "input.brand_new"}
    assert (len(chat.messages), names_in(chat), refusal_of(chat)) == (1, ["found"], None)


@pytest.mark.parametrize("kind", ["item_reference", "compaction"])
def test_a_part_of_the_conversation_that_only_openai_can_read_is_never_left_out(kind: str) -> None:
    refusal = refusal_of(chat_of(input=[{"type": kind, "id": "x", "encrypted_content": "gAAA"}]))
    assert refusal is not None
    assert refusal.param == "input[0]"


@pytest.mark.parametrize("junk", [5, "x", [5], [{"text": 5}], {"a": 1}])
def test_a_malformed_summary_of_sealed_reasoning_says_nothing(junk: Any) -> None:
    item = {"type": "reasoning", "summary": junk, "content": junk, "encrypted_content": sealed([], "m")}
    (message,) = chat_of(input=[item, {"role": "user", "content": "Hi"}]).messages
    assert message.role == "user"


@pytest.mark.parametrize("item", [{"type": []}, {"type": 5}])
def test_an_item_whose_type_is_no_name_is_a_400(item: Json) -> None:
    with pytest.raises(InvalidRequest):
        chat_of(input=[item])


def test_a_message_between_agents_reaches_the_model_as_text() -> None:
    parts = [
        {"type": "input_text", "text": "Do this:"},
        {"type": "encrypted_content", "encrypted_content": "say BANANA"},
    ]
    task: Json = {"type": "agent_message", "author": "/root", "recipient": "/root/a", "content": parts}
    chat = chat_of(input=[task])
    assert [(message.role, message.content) for message in chat.messages] == [
        ("user", "Message from /root to /root/a:\nDo this:\nsay BANANA")
    ]
    assert chat.left_out == ()
    with pytest.raises(InvalidRequest) as wrong:
        chat_of(input=[{**task, "content": "say BANANA"}])
    assert wrong.value.param == "input[0].content"
