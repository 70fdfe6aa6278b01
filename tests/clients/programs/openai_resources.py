"""Each method of each resource of OpenAI's Python SDK, on objects that the server itself made, in a table.

A method passes if its answer is of the SDK's strict types. One whose path the server does not have is "not
served", one that needs an object of such a path "no object". The exit status tells whether one has failed.
"""

import base64
import io
import json
import sys
import time
import wave
from collections.abc import Callable
from typing import Any

from openai import APIResponseValidationError, APIStatusError, NotFoundError, OpenAI
from task import EMBEDDER, MODEL

client = OpenAI(max_retries=0, timeout=60, _strict_response_validation=True)
loose = OpenAI(max_retries=0, timeout=60)
"""Where the SDK's types deny what OpenAI itself sends: null finish reasons in streams of completions, and users'
messages among stored ones and in a compacted response."""
HELLO: Any = [{"role": "user", "content": "Say hello."}]
LINE = {
    "custom_id": "one",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": MODEL, "messages": HELLO},
}
JSONL = (json.dumps(LINE) + "\n").encode()
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
made: dict[str, Any] = {}
rows: list[tuple[str, str]] = []


class Nothing(Exception):
    """An object that a method needs was not made."""


def the(name: str) -> Any:
    if name not in made:
        raise Nothing(name)
    return made[name]


def step(
    name: str, call: Callable[[], Any], *, keep: str = "", check: Callable[[Any], bool] | None = None
) -> None:
    """Make one call, keep its answer under a name, and note the verdict."""
    try:
        answer = call()
        if check is not None and not check(answer):
            verdict = f"failed: {str(answer)[:300]}"
        else:
            verdict = "passed"
            made[keep or name] = answer
    except Nothing as missing:
        verdict = f"no object: {missing}"
    except NotFoundError as error:
        verdict = "not served" if "path" in str(error).lower() else f"failed: {error}"
    except (APIStatusError, APIResponseValidationError) as error:
        served = error.status_code not in (405, 501)
        verdict = f"failed: {error} {error.__cause__ or ''}" if served else "not served"
    except Exception as error:  # every method has its row, whatever happens
        verdict = f"failed: {type(error).__name__}: {error}"
    rows.append((name, verdict))


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(bytes(32_000))
    return file.getvalue()


def waited(call: Callable[[], Any]) -> Any:
    """Ask until the object's status is an end, or 30 s."""
    end = time.monotonic() + 30
    while (answer := call()).status in ("queued", "validating", "in_progress", "finalizing", "cancelling"):
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    return answer


def models() -> None:
    step("models.list", client.models.list, check=lambda page: any(model.id == MODEL for model in page))
    step("models.retrieve", lambda: client.models.retrieve(MODEL), check=lambda model: model.id == MODEL)


def chat() -> None:
    chats = client.chat.completions
    asked: Any = {"model": MODEL, "messages": HELLO, "max_tokens": 20}
    step("chat.completions.create", lambda: chats.create(**asked), check=lambda it: it.choices[0].message.content)
    step("chat.completions.create stream", lambda: list(chats.create(**asked, stream=True)), check=len)
    kept = {**asked, "store": True, "metadata": {"of": "test"}}
    step("chat.completions.create store", lambda: chats.create(**kept), keep="chat")
    step(
        "chat.completions.retrieve",
        lambda: chats.retrieve(the("chat").id),
        check=lambda it: it.id == the("chat").id,
    )
    step("chat.completions.update", lambda: chats.update(the("chat").id, metadata={"of": "me"}))
    step(
        "chat.completions.list",
        lambda: chats.list(limit=5),
        check=lambda page: the("chat").id in {it.id for it in page},
    )
    step(
        "chat.completions.messages.list",
        lambda: loose.chat.completions.messages.list(the("chat").id),
        check=lambda page: list(page),
    )
    step("chat.completions.delete", lambda: chats.delete(the("chat").id), check=lambda it: it.deleted)


def small() -> None:
    step("completions.create", lambda: client.completions.create(model=MODEL, prompt="Hello", max_tokens=5))
    step(
        "completions.create stream",
        lambda: list(loose.completions.create(model=MODEL, prompt="Hello", max_tokens=5, stream=True)),
    )
    step(
        "embeddings.create",
        lambda: client.embeddings.create(model=EMBEDDER, input=["a", "b"], encoding_format="float"),
        check=lambda it: len(it.data) == 2,
    )
    step("moderations.create", lambda: client.moderations.create(input=["Hello."]), check=lambda it: it.results[0])


def responses() -> None:
    api = client.responses
    asked: Any = {"model": MODEL, "input": "Say hello.", "max_output_tokens": 20}
    step(
        "responses.create",
        lambda: api.create(**asked, store=True),
        keep="response",
        check=lambda it: it.output_text,
    )
    step("responses.create stream", lambda: list(api.create(**asked, stream=True)), check=len)
    step("responses.parse", lambda: api.parse(**asked))
    step("responses.retrieve", lambda: api.retrieve(the("response").id), check=lambda it: it.output_text)
    step("responses.retrieve stream", lambda: list(api.retrieve(the("response").id, stream=True)), check=len)
    step(
        "responses.input_items.list",
        lambda: api.input_items.list(the("response").id),
        check=lambda page: list(page),
    )
    step("responses.create previous", lambda: api.create(**asked, previous_response_id=the("response").id))
    step(
        "responses.create background", lambda: api.create(**asked, background=True, store=True), keep="background"
    )
    step("responses.cancel", lambda: api.cancel(the("background").id))
    step(
        "responses.input_tokens.count",
        lambda: api.input_tokens.count(model=MODEL, input="Hello."),
        check=lambda it: it.input_tokens,
    )
    step(
        "responses.compact",
        lambda: loose.responses.compact(model=MODEL, input=[*HELLO, {"role": "assistant", "content": "Hello."}]),
    )
    step("responses.delete", lambda: api.delete(the("response").id))


def conversations() -> None:
    api = client.conversations
    item: Any = {"type": "message", "role": "user", "content": "Hello."}
    step("conversations.create", lambda: api.create(items=[item], metadata={"of": "test"}), keep="conversation")
    step("conversations.retrieve", lambda: api.retrieve(the("conversation").id))
    step(
        "conversations.update",
        lambda: api.update(the("conversation").id, metadata={"of": "me"}),
        check=lambda it: it.metadata == {"of": "me"},
    )
    step(
        "conversations.items.create", lambda: api.items.create(the("conversation").id, items=[item]), keep="items"
    )
    step(
        "conversations.items.list",
        lambda: api.items.list(the("conversation").id),
        check=lambda page: len(list(page)) == 2,
    )
    step(
        "conversations.items.retrieve",
        lambda: api.items.retrieve(the("items").data[0].id, conversation_id=the("conversation").id),
    )
    step(
        "responses.create conversation",
        lambda: client.responses.create(
            model=MODEL, input="Hi.", conversation=the("conversation").id, max_output_tokens=10
        ),
    )
    step(
        "conversations.items.delete",
        lambda: api.items.delete(the("items").data[0].id, conversation_id=the("conversation").id),
    )
    step("conversations.delete", lambda: api.delete(the("conversation").id), check=lambda it: it.deleted)


def files() -> None:
    api = client.files
    step("files.create", lambda: api.create(file=("lines.jsonl", JSONL), purpose="batch"), keep="file")
    step("files.retrieve", lambda: api.retrieve(the("file").id), check=lambda it: it.bytes == len(JSONL))
    step(
        "files.list",
        lambda: api.list(purpose="batch"),
        check=lambda page: the("file").id in {it.id for it in page},
    )
    step("files.content", lambda: api.content(the("file").id).read(), check=lambda it: it == JSONL)
    sized: Any = {
        "bytes": len(JSONL),
        "filename": "parts.jsonl",
        "mime_type": "application/jsonl",
        "purpose": "batch",
    }
    uploads = client.uploads
    step("uploads.create", lambda: uploads.create(**sized), keep="upload")
    step("uploads.parts.create", lambda: uploads.parts.create(the("upload").id, data=JSONL), keep="part")
    step(
        "uploads.complete",
        lambda: uploads.complete(the("upload").id, part_ids=[the("part").id]),
        check=lambda it: it.file,
    )
    step("uploads.create again", lambda: uploads.create(**sized), keep="second upload")
    step(
        "uploads.cancel",
        lambda: uploads.cancel(the("second upload").id),
        check=lambda it: it.status == "cancelled",
    )


def batches() -> None:
    api = client.batches
    asked: Any = {"completion_window": "24h", "endpoint": "/v1/chat/completions"}
    step("batches.create", lambda: api.create(**asked, input_file_id=the("file").id), keep="batch")
    step(
        "batches.retrieve",
        lambda: waited(lambda: api.retrieve(the("batch").id)),
        keep="done",
        check=lambda it: it.status == "completed",
    )
    step(
        "batches output",
        lambda: client.files.content(the("done").output_file_id).text,
        check=lambda it: '"one"' in it,
    )
    step("batches.list", lambda: api.list(limit=5), check=lambda page: the("batch").id in {it.id for it in page})
    step("batches.create again", lambda: api.create(**asked, input_file_id=the("file").id), keep="second batch")
    step("batches.cancel", lambda: api.cancel(the("second batch").id))
    step("files.delete", lambda: client.files.delete(the("file").id), check=lambda it: it.deleted)


def media() -> None:
    step(
        "images.generate",
        lambda: client.images.generate(model="capable-image", prompt="A fox."),
        check=lambda it: it.data,
    )
    step("images.edit", lambda: client.images.edit(model="capable-image", image=("a.png", PNG), prompt="A hat."))
    step(
        "images.create_variation",
        lambda: client.images.create_variation(model="capable-image", image=("a.png", PNG)),
    )
    audio = client.audio
    heard: Any = {"model": "capable-ear", "file": ("a.wav", sound())}
    step("audio.transcriptions.create", lambda: audio.transcriptions.create(**heard), check=lambda it: it.text)
    step("audio.translations.create", lambda: audio.translations.create(**heard), check=lambda it: it.text)
    step(
        "audio.speech.create",
        lambda: audio.speech.create(model="capable-voice", voice="alloy", input="Hello.").read(),
        check=len,
    )


for group in (models, chat, small, responses, conversations, files, batches, media):
    group()
width = max(len(name) for name, _ in rows)
for name, verdict in rows:
    print(f"{name:{width}}  {verdict}")
counts = {
    kind: sum(verdict.startswith(kind) for _, verdict in rows)
    for kind in ("passed", "failed", "not served", "no object")
}
print(", ".join(f"{count} {kind}" for kind, count in counts.items()))
sys.exit(1 if counts["failed"] else 0)
