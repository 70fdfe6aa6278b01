"""A local answer has the form that the request asks for: enforced by a grammar, checked at its end, or refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from backends.base import Upstream
from backends.constraints.checker import Checker
from backends.local.backend import LocalWorkerBackend
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.tokens import DetokenizeRequest
from catalog.errors import AnswerInvalid, InvalidRequest
from catalog.types import Json
from tests.backends.answers import assemble_chat, assemble_completion
from tests.fakes.llama_server import FakeLlamaServer

DIGITS = {"type": "object", "properties": {"id": {"type": "string", "pattern": r"^\d+$"}}, "required": ["id"]}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": DIGITS}} for name in ("find", "drop")]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields})


def form(schema: Json) -> Json:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def calls(*names: str, **arguments: Any) -> str:
    return json.dumps({"tool_calls": [{"name": name, "arguments": arguments} for name in names]})


async def chunks_of(backend: LocalWorkerBackend, upstream: Upstream, request: ChatRequest) -> list[Json]:
    return [chunk async for chunk in backend.chat(upstream, request)]


# ---- forms


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"response_format": {"type": "json_object"}}, "start: %json"),
        ({"response_format": form(DIGITS)}, "start: %json"),
        ({"guided_json": json.dumps(DIGITS)}, "start: %json"),
        ({"structured_outputs": {"json": DIGITS}}, "start: %json"),
        ({"structured_outputs": {"choice": ["a", 'b"']}}, r'start: "a" | "b\""'),
        ({"guided_regex": "^a/b$"}, r"start: /a\/b/"),
        ({"grammar": 'root ::= "a"'}, 'start: "a"'),
    ],
)
async def test_every_form_reaches_the_worker_as_one_grammar(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, asked: Json, rule: str
) -> None:
    fake.scripted = "never of this form"
    with pytest.raises(AnswerInvalid):
        await assemble_chat(backend.chat(upstream, chat(**asked)))
    sent = fake.calls[-1].body
    assert sent["grammar"].startswith("%llguidance")
    assert rule in sent["grammar"]
    assert not {"response_format", "structured_outputs", "guided_json", "guided_regex"} & sent.keys()


async def test_the_last_chunk_of_a_wrong_answer_never_leaves(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = '{"id": "" }'
    seen: list[Json] = []
    with pytest.raises(AnswerInvalid, match="'pattern' is not kept"):
        async for chunk in backend.chat(upstream, chat(response_format=form(DIGITS))):
            seen.append(chunk)  # noqa: PERF401 - the chunks before the error
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in seen) in fake.scripted
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in seen)


async def test_a_form_comes_after_the_thought_that_a_template_opens(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, checker: Checker
) -> None:
    fake.scripted, fake.opens = '{"id": "7"}', "<think>\n"
    await assemble_chat(backend.chat(upstream, chat(response_format=form(DIGITS))))
    grammar = fake.calls[-1].body["grammar"]
    await checker.check_text('Hm. {"id": 5}</think>\n\n{"id": "7"}', grammar)
    for wrong in ('{"id": "7"}', 'Hm.</think>{"id": "x"}', 'Hm.</think>{"id": "7"} and</think>{"id": "7"}'):
        with pytest.raises(AnswerInvalid):
            await checker.check_text(wrong, grammar)


@pytest.mark.parametrize(
    ("token", "ends"), [("<|im_end|>", True), ("</s>", True), ("", False), ("a b", False), ("<a b>", False)]
)
async def test_a_grammar_lets_a_model_end_its_turn(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, token: str, ends: bool
) -> None:
    fake.scripted, fake.end_token, fake.opens = '{"id": "7"}', token, "<think>\n"
    await assemble_chat(backend.chat(upstream, chat(response_format=form(DIGITS))))
    thinking = fake.calls[-1].body["grammar"]
    request = CompletionRequest.model_validate({"model": "m", "prompt": "a", "guided_choice": ["The quick"]})
    fake.reply = "The quick"
    await assemble_completion(backend.complete(upstream, request))
    for grammar in (thinking, fake.calls[-1].body["grammar"]):
        assert grammar.startswith("%llguidance")
        assert grammar.count("\nstart:") == 1
        assert (f"\nstart: ended {token}?\nended:" in grammar) is ends


async def test_an_answer_that_was_cut_by_its_length_must_begin_the_form(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    """An engine whose grammar fails in mid-answer goes on in free text."""
    cut = {"response_format": form(DIGITS), "max_tokens": 2}
    fake.scripted = '{"id": "1 2 3 4"}'
    answer = await assemble_chat(backend.chat(upstream, chat(**cut)))
    assert answer["choices"][0]["finish_reason"] == "length"
    fake.scripted = "It was a typical day."
    for asked in (cut, {"guided_regex": "(a|aa){20}b", "max_tokens": 2}):
        with pytest.raises(AnswerInvalid):
            await assemble_chat(backend.chat(upstream, chat(**asked)))


async def test_a_completion_has_its_form_too(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    for asked in ({"guided_choice": ["yes", "no"]}, {"response_format": form(DIGITS)}):
        request = CompletionRequest.model_validate({"model": "m", "prompt": "a", "max_tokens": 99, **asked})
        with pytest.raises(AnswerInvalid):
            await assemble_completion(backend.complete(upstream, request))
        sent = fake.calls[-1].body
        assert "grammar" in sent
        assert not asked.keys() & sent.keys()


@pytest.mark.parametrize(
    ("asked", "param", "says"),
    [
        ({"response_format": form({"not": {}})}, "response_format.json_schema.schema", r"'not' at \$ "),
        ({"response_format": form({"oneOf": [{}, {}]})}, "response_format.json_schema.schema", "oneOf"),
        ({"guided_regex": "a(?=b)"}, "guided_regex", "look-around"),
        *(
            (
                {
                    "response_format": form(
                        {"type": "object", "properties": {"a": {"items": {"pattern": pattern}}}}
                    )
                },
                "response_format.json_schema.schema",
                r"'pattern' at \$\.properties\.a\.items .*look-ahead",
            )
            for pattern in ("(?=a)b", "x(?!y)", "(?<=a)b", r"\\\\(?<!a)b")
        ),
        (
            {"response_format": form({"patternProperties": {"^(?!x)": {}}})},
            "response_format.json_schema.schema",
            r"'patternProperties' at \$ ",
        ),
        ({"guided_choice": ["a"], "ignore_eos": True}, "ignore_eos", "no form"),
        ({"response_format": {"type": "json_object", "schema": {"not": {}}}}, "response_format.schema", "'not'"),
        ({"response_format": {"type": "json_object", "shape": {}}}, "response_format", "shape"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format", "schema"),
        (
            {"response_format": form({"type": "array", "items": {}, "minItems": 10_000_000})},
            "response_format.json_schema.schema",
            "minItems",
        ),
        ({"grammar": "root ::= ("}, "grammar", "cannot be read"),
        ({"guided_choice": ["a"], "guided_regex": "b"}, "guided_choice", "two"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"choice": ["b"], "whitespace": 1}}, "structured_outputs", "whitespace"),
        ({"tools": TOOLS, "guided_regex": "a"}, "guided_regex", "not both"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"not": {}}}}
                ]
            },
            "tools.f.parameters",
            "'not'",
        ),
    ],
)
async def test_a_form_that_cannot_be_kept_is_refused_before_the_call(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, asked: Json, param: str, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        await assemble_chat(backend.chat(upstream, chat(**asked)))
    assert refused.value.param == param
    assert not [call for call in fake.calls if call.path.endswith("completions")]


async def test_references_may_not_double_without_end(backend: LocalWorkerBackend, upstream: Upstream) -> None:
    levels = {
        f"n{at}": {"anyOf": [{"$ref": f"#/$defs/n{at + 1}"}, {"$ref": f"#/$defs/n{at + 1}"}]} for at in range(40)
    }
    bomb = {"$ref": "#/$defs/n0", "$defs": {**levels, "n40": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": bomb}}
    for asked in ({"response_format": form(bomb)}, {"tools": [tool]}):
        with pytest.raises(InvalidRequest, match="expand to more than"):
            await assemble_chat(backend.chat(upstream, chat(**asked)))


# ---- tools


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_one_call_at_a_time_is_a_form_that_can_be_kept(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, choice: str
) -> None:
    fake.scripted = "Hello"
    request = chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    with contextlib.suppress(AnswerInvalid):  # the scripted worker does not decode by the grammar
        await assemble_chat(backend.chat(upstream, request))
    assert "grammar" in next(call.body for call in fake.calls if call.path.endswith("completions"))


async def test_text_streams_although_tools_were_offered(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = "Two words and more {braces}."
    given = await chunks_of(backend, upstream, chat(tools=TOOLS))
    texts = [chunk["choices"][0]["delta"].get("content") for chunk in given if chunk["choices"]]
    assert [text for text in texts if text] == ["Two", " words", " and", " more", " {braces}."]
    assert given[-2]["choices"][0]["finish_reason"] == "stop"


async def test_a_form_streams_although_tools_were_offered(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = '{"content": {"id": "12", "more": {"a": {}}}}'
    given = await chunks_of(backend, upstream, chat(tools=TOOLS, response_format=form(DIGITS)))
    texts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in given if chunk["choices"]]
    assert len([text for text in texts if text]) > 1
    assert json.loads("".join(texts)) == {"id": "12", "more": {"a": {}}}
    fake.scripted = '{"content": {"id": "x"}}'
    with pytest.raises(AnswerInvalid):
        await chunks_of(backend, upstream, chat(tools=TOOLS, response_format=form(DIGITS)))


async def test_whole_calls_before_a_cut_are_calls_and_the_rest_is_no_content(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = calls("find", "drop", id="7").replace('"drop"', '"drop with"')
    words = len(fake.scripted.split())
    for kept, names in ((words - 2, ["find"]), (3, [])):
        answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, max_tokens=kept)))
        (choice,) = answer["choices"]
        assert [call["function"]["name"] for call in choice["message"].get("tool_calls") or ()] == names
        assert not choice["message"]["content"]
        assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "find"}}])
async def test_a_call_whose_arguments_do_not_fit_is_never_given(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, choice: Any
) -> None:
    fake.scripted = '{"id": "x"}' if isinstance(choice, dict) else calls("find", id="x")
    with pytest.raises(AnswerInvalid, match="pattern"):
        await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice=choice)))
    fake.scripted = fake.scripted.replace("x", "7")
    answer = await assemble_chat(backend.chat(upstream, chat(tools=TOOLS, tool_choice=choice)))
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_what_a_tools_grammar_cannot_hold_is_checked_if_the_tool_is_not_strict(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    schema = {**DIGITS, "not": {"properties": {"id": {"const": "7"}}}}
    tools = [{"type": "function", "function": {"name": "find", "parameters": schema}}]
    fake.scripted = calls("find", id="7")
    with pytest.raises(AnswerInvalid, match="'not' is not kept"):
        await assemble_chat(backend.chat(upstream, chat(tools=tools)))
    fake.scripted = calls("find", id="8")
    assert (await assemble_chat(backend.chat(upstream, chat(tools=tools))))["choices"][0]["message"]["tool_calls"]


async def test_a_strict_tool_goes_to_the_template_only_if_the_server_enforces_its_schema(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.takes_tools = True
    plain = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
    for schema, native in ((plain, True), (DIGITS, False)):
        fake.scripted = None if native else calls("f", id="1")
        tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": schema}}
        answer = await assemble_chat(backend.chat(upstream, chat(tools=[tool], tool_choice="required")))
        assert answer["choices"][0]["message"]["tool_calls"]
        sent = [call for call in fake.calls if call.path.endswith("completions")][-1].body
        assert ("tools" in sent, "grammar" in sent) == (native, not native)


# ---- tokens


async def test_vllms_names_of_parameters_are_llama_cpps(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    asked = chat(repetition_penalty=1.3, stop_token_ids=[113], stop=["z"])
    answer = await assemble_chat(backend.chat(upstream, asked))
    sent = [call for call in fake.calls if call.path.endswith("completions")][-1].body
    assert (sent["repeat_penalty"], sent["stop"]) == (1.3, ["z", "q"])
    assert not {"repetition_penalty", "stop_token_ids"} & sent.keys()
    assert answer["choices"][0]["message"]["content"] == "The "


@pytest.mark.parametrize("asked", [{"logit_bias": {"1114112": 1}}, {"stop_token_ids": [1114112]}])
async def test_a_token_beyond_the_vocabulary_is_refused(
    backend: LocalWorkerBackend, upstream: Upstream, asked: Json
) -> None:
    with pytest.raises(InvalidRequest, match="0 to 1114111") as refused:
        await assemble_chat(backend.chat(upstream, chat(**asked)))
    assert refused.value.param == next(iter(asked))


async def test_a_token_beyond_the_vocabulary_is_not_sent_to_detokenize(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await backend.detokenize(upstream, DetokenizeRequest(tokens=[5, 1114112]))
    assert refused.value.param == "tokens"
    assert not [call for call in fake.calls if call.path == "/detokenize"]


# ---- custom tools whose input has a grammar

LARK = 'start: "*** " word "\\n"\nword: /[a-z{}]+/'


def custom(syntax: str, definition: str, name: str = "patch") -> Json:
    form = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    return {"type": "custom", "custom": {"name": name, "description": "Patches.", "format": form}}


PLAIN_TOOL: Json = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize(("syntax", "definition"), [("lark", LARK), ("regex", r"\*\*\* [a-z{}]+\n")])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("takes_tools", [False, True])
async def test_the_input_of_a_custom_tool_is_bound_to_its_grammar(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, checker: Checker,
    syntax: str, definition: str, named: bool, takes_tools: bool,
) -> None:  # fmt: skip
    head, fake.takes_tools = "" if named else '{"custom_tool": "patch"}\n', takes_tools
    fake.scripted = f"{head}*** a{{b\n"
    choice = {"tool_choice": {"type": "custom", "custom": {"name": "patch"}}} if named else {}
    request = chat(tools=[custom(syntax, definition), PLAIN_TOOL], **choice)
    assert backend.dropped(request, upstream) == ()
    answer = await assemble_chat(backend.chat(upstream, request))
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert (call["type"], call["custom"]) == ("custom", {"name": "patch", "input": "*** a{b\n"})
    sent = fake.calls[-1].body
    assert "tools" not in sent
    await checker.check_text(fake.scripted, sent["grammar"])
    for wrong in (f"{head}*** A\n", f"{head}*** a", f"{head}"):
        with pytest.raises(AnswerInvalid):
            await checker.check_text(wrong, sent["grammar"])
    if not named:
        await checker.check_text('{"tool_calls": [{"name": "f", "arguments": {}}]}', sent["grammar"])
        await checker.check_text("Hello.", sent["grammar"])
        fake.scripted = '{"tool_calls": [{"name": "f", "arguments": {}}]}'
        other = await assemble_chat(backend.chat(upstream, request))
        assert other["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "f"
        fake.scripted = '{"custom_tool": "patch"}\n*** A\n'
        with pytest.raises(AnswerInvalid):
            await assemble_chat(backend.chat(upstream, request))


async def test_a_custom_tool_that_must_be_called_is_bound_too(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream, checker: Checker
) -> None:
    fake.scripted = '{"custom_tool": "patch"}\n*** a\n'
    request = chat(tools=[custom("lark", LARK)], tool_choice="required")
    answer = await assemble_chat(backend.chat(upstream, request))
    assert answer["choices"][0]["message"]["tool_calls"][0]["custom"]["input"] == "*** a\n"
    with pytest.raises(AnswerInvalid):
        await checker.check_text("Hello.", fake.calls[-1].body["grammar"])


async def test_a_past_call_of_such_a_tool_is_written_as_the_model_writes_it(
    fake: FakeLlamaServer, backend: LocalWorkerBackend, upstream: Upstream
) -> None:
    fake.scripted = "Done."
    call = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "*** a\n"}}
    past = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    past.append({"role": "tool", "tool_call_id": "c1", "content": "OK"})
    await assemble_chat(backend.chat(upstream, chat(messages=past, tools=[custom("lark", LARK)])))
    assert '{"custom_tool": "patch"}\n*** a\n' in [
        message["content"] for message in fake.calls[-1].body["messages"]
    ]


@pytest.mark.parametrize("tool", [custom("peg", "a"), custom("lark", "start: nowhere"), custom("regex", "a(?=b)")])
async def test_a_grammar_that_cannot_bind_an_input_is_refused(
    backend: LocalWorkerBackend, upstream: Upstream, tool: Json
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await assemble_chat(backend.chat(upstream, chat(tools=[tool])))
    assert refused.value.param == "tools.patch.format"
