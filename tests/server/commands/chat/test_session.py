"""The chat in a terminal: what is typed, and what comes of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from catalog.errors import ConfigurationError, ModelUnavailable
from server.commands.chat.conversation import ChatConversation
from server.commands.chat.line_editor import open_ended
from server.commands.chat.models import choose
from server.commands.chat.session import COMMANDS, ChatSession
from server.commands.support.statuses import ServerAnswered
from tests.server.commands.chat.fakes import FakeServerClient


def chat(client: FakeServerClient, *typed: str | type[BaseException]) -> str:
    """The output of a chat in which these lines are typed, or an exception comes in place of one."""
    lines = iter(typed)

    def read(_: str) -> str:
        line = next(lines, EOFError)
        if isinstance(line, str):
            return line
        raise line

    out = io.StringIO()
    ChatSession(client, ChatConversation(), Console(file=out, width=80)).run(read)
    return out.getvalue()


def said(client: FakeServerClient) -> list[list[tuple[str, str]]]:
    return [[(each["role"], each["content"]) for each in body["messages"]] for body in client.asked]


def test_each_question_is_asked_with_what_was_said_before_and_the_system_prompt() -> None:
    client = FakeServerClient(["four"], ["five"])
    told = chat(client, "/system Be brief.", "2 + 2?", "", "and 1 more?")
    first = [("system", "Be brief."), ("user", "2 + 2?")]
    assert said(client) == [first, [*first, ("assistant", "four"), ("user", "and 1 more?")]]
    for part in ("four", "five", "10 tokens/s", "first after 0.50 s", "$0.00125", "expected quality 0.5"):
        assert part in told


def test_an_interrupted_answer_is_kept_and_the_chat_goes_on() -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    client = FakeServerClient(["once ", interrupt], ["go on"])
    told = chat(client, KeyboardInterrupt, "tell", "more")
    assert "Ctrl-D" in told
    assert "stopped" in told
    assert said(client)[1][1] == ("assistant", "once ")


def test_an_error_is_one_line_and_its_question_is_not_remembered() -> None:
    client = FakeServerClient([{"error": {"message": "Too much."}}], ["fine"])
    assert "Too much." in chat(client, "first", "second")
    assert said(client)[1] == [("user", "second")]


def test_retry_undo_and_new_change_what_is_remembered() -> None:
    client = FakeServerClient(["a"], ["b"], ["c"], ["d"])
    told = chat(client, "/retry", "one", "/retry", "/undo", "/undo", "two", "/new", "three")
    assert "No question was asked" in told
    assert said(client) == [[("user", "one")], [("user", "one")], [("user", "two")], [("user", "three")]]


def test_the_model_is_changed_only_to_one_that_chats() -> None:
    client = FakeServerClient(["a"])
    told = chat(client, "/model vectors", "/model nothing", "/model tiny", "hi", "/models")
    assert "vectors does not chat. Models that do: tiny" in told
    assert "The nearest: tiny" in told
    assert client.asked[0]["model"] == "tiny"
    assert "* tiny" in told


def test_parameters_are_sent_and_can_be_removed() -> None:
    client = FakeServerClient(["a"], ["b"])
    told = chat(client, "/set temperature 0.2", "/set stop END", "/set model x", "hi", "/set temperature", "hi")
    assert (client.asked[0]["temperature"], client.asked[0]["stop"]) == (0.2, "END")
    assert "'model' is set by the chat itself" in told
    assert "temperature" not in client.asked[1]


@pytest.mark.parametrize(
    ("line", "said_of_it"),
    [
        ("/set temperature hot", "'temperature': it must be a number"),
        ("/set temperature 3", "'temperature': it must be at most 2"),
        ("/set max_tokens 0", "'max_tokens': it must be at least 1"),
        ("/set response_format json", "'response_format'"),
        ("/set temprature 0.2", "did you mean 'temperature'?"),
    ],
)
def test_a_parameter_that_no_request_may_have_is_refused_when_it_is_set(line: str, said_of_it: str) -> None:
    client = FakeServerClient(["a"])
    told = " ".join(chat(client, line, "hi").split())
    assert said_of_it in told
    assert client.asked[0].keys() == {"messages", "model", "stream", "stream_options", "timings"}


def test_a_parameter_of_one_server_alone_is_sent_and_remarked() -> None:
    client = FakeServerClient(["a"])
    told = " ".join(chat(client, '/set chat_template_kwargs {"x": 1}', "/set top_a 0.5", "hi").split())
    assert "top_a is none of the API's parameters" in told
    assert (client.asked[0]["top_a"], client.asked[0]["chat_template_kwargs"]) == (0.5, {"x": 1})


def test_an_unknown_command_is_told_with_the_nearest_one() -> None:
    told = " ".join(chat(FakeServerClient(), "/nonsense", "/sytem Be brief.").split())
    assert "There is no command /nonsense. /help lists them." in told
    assert "There is no command /sytem. Did you mean /system" in told


def test_a_conversation_is_saved_and_read_back_and_no_file_is_overwritten(tmp_path: Path) -> None:
    file, readable = tmp_path / "chat.json", tmp_path / "chat.md"
    client = FakeServerClient(["four"], ["five"])
    told = chat(client, "/system Be brief.", "2 + 2?", f"/save {file}", f"/save {readable}", f"/save {file}")
    assert "is there already" in " ".join(told.split())
    assert "**You**\n\n2 + 2?" in readable.read_text()
    chat(client, f"/load {file}", "and 1?")
    assert said(client)[1][:3] == [("system", "Be brief."), ("user", "2 + 2?"), ("assistant", "four")]
    before = file.read_text()
    assert "2 messages" in chat(client, f"/load {file}", f"/save! {file}")
    assert json.loads(file.read_text()) == json.loads(before)


@pytest.mark.parametrize("content", ["", "[]", '{"messages": [1]}', '{"messages": [], "model": 1, "x": '])
def test_what_was_not_saved_by_a_chat_is_not_loaded(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(ConfigurationError, match="no conversation"):
        ChatConversation.load(tmp_path / "file")


def test_a_file_is_sent_with_the_question_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("alpha")
    client = FakeServerClient(["x"], ["y"], ["z"])
    told = chat(client, "/file a.txt what is it?", "/file b.txt", "and @a.txt", "//file is a word")
    assert "There is no file b.txt" in told
    asked = [messages[-1][1] for messages in said(client)]
    assert asked[:2] == [f"a.txt:\n```\nalpha\n```\n\n{text}" for text in ("a.txt what is it?", "and a.txt")]
    assert asked[2] == "/file is a word"


def test_a_message_may_begin_with_a_slash_and_a_path_is_no_command(tmp_path: Path) -> None:
    (tmp_path / "b.txt").touch()
    client = FakeServerClient(["x"], ["y"])
    told = chat(client, "//etc is what?", f"{tmp_path}/b.txt is what?", "/nonsense")
    assert [message[-1][1] for message in said(client)] == ["/etc is what?", f"{tmp_path}/b.txt is what?"]
    assert "There is no command /nonsense" in told


def test_figures_and_markdown_can_be_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeServerClient(["**bold**"], ["**bold**"])
    told = chat(client, "/stats off", "hi", "/markdown off", "hi", "/stats maybe")
    assert "tokens/s" not in told
    assert "bold" in told
    assert capsys.readouterr().out == "**bold**\n"
    assert "Say on or off" in told


def test_help_names_every_command_and_exit_ends_the_chat() -> None:
    told = chat(FakeServerClient(), "/help", "/why", "/exit", "never asked")
    for name in COMMANDS:
        assert f"  {name} " in told
    assert "No question" in told


@pytest.mark.parametrize(
    ("text", "open_"),
    [
        ("one", False),
        ("one\\", True),
        ('"""', True),
        ('"""one', True),
        ('"""one"""', False),
        ('""""""', False),
        ('say """', False),
    ],
)
def test_a_message_goes_on_after_a_backslash_and_within_triple_quotes(text: str, open_: bool) -> None:
    assert open_ended(text) is open_


def test_triple_quotes_are_not_sent() -> None:
    client = FakeServerClient(["x"])
    chat(client, '"""\nfirst\nsecond\n"""')
    assert said(client) == [[("user", "first\nsecond")]]


def test_a_model_that_is_not_here_is_pulled_if_the_user_agrees() -> None:
    client = FakeServerClient()
    questions: list[str] = []

    def agree(question: str) -> bool:
        questions.append(question)
        return True

    assert choose(client, "far", agree) == "far"
    assert client.pulled == ["far"]
    assert questions == ["far is not on this machine yet. Pull it?"]
    assert choose(client, "far", None) == "far"
    client = FakeServerClient()
    for confirm in (None, lambda _: False):
        with pytest.raises(ModelUnavailable, match="roundhouse pull far"):
            choose(client, "far", confirm)
    assert client.pulled == []
    client.fails = True
    with pytest.raises(ConfigurationError, match=r"far was not pulled: No room\."):
        choose(client, "far", agree)


def test_an_unknown_name_is_pulled_only_if_it_is_one_to_pull() -> None:
    client = FakeServerClient()
    with pytest.raises(ServerAnswered, match="nearest"):
        choose(client, "nothing-like-it", lambda _: True)
    for name in ("owner/repository", "qwen3:8b"):
        with pytest.raises(ModelUnavailable, match=f"roundhouse pull {name}"):
            choose(client, name, lambda _: False)
    assert client.pulled == []
    client.replies.append(["x"])
    assert choose(client, "hf.co/owner/repository:Q4_K_M", lambda _: True) == "far"
    assert client.pulled == ["hf.co/owner/repository:Q4_K_M"]
