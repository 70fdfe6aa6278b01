"""A session with OpenAI's SDK, spoken: turns, transcripts, sound, interruptions. Files are the microphone."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
import pytest

from catalog.errors import UpstreamOverloaded
from routing.accounts.virtual_keys import KeyLimits, Rate
from server.realtime.sound import AudioForm
from tests.server.conftest import Gateway, Start
from tests.server.fakes import ANSWER, chunk, usage_chunk
from tests.server.realtime.conversing import connected, of_type, quiet, say, speak, spoken, types, until

HEARS: Any = {"type": "realtime", "audio": {"input": {"transcription": {"model": "auto"}}}}
SECOND = (np.sin(np.arange(24_000) / 10) * 8000).astype("<i2").tobytes()


def listens(**turns: Any) -> Any:
    given = {"transcription": {"model": "auto"}, "turn_detection": turns or None}
    return {"type": "realtime", "audio": {"input": given}}


async def test_a_spoken_turn_is_found_transcribed_answered_and_spoken(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (SECOND[:20_001], SECOND[20_001:])
        await connection.session.update(session=HEARS)
        await speak(connection, spoken("question") + quiet(1))
        events = await until(connection, "response.done")
    started = of_type(events, "input_audio_buffer.speech_started")
    stopped = of_type(events, "input_audio_buffer.speech_stopped")
    assert len(started) == len(stopped) == 1
    assert 0 <= started[0].audio_start_ms <= 350  # the speaker begins at 350 ms, less the padding
    assert 2000 <= stopped[0].audio_end_ms <= 2400  # ends at 1,650 ms, and 500 of silence
    (committed,) = of_type(events, "input_audio_buffer.committed")
    assert committed.item_id == started[0].item_id == stopped[0].item_id
    (transcript,) = of_type(events, "conversation.item.input_audio_transcription.completed")
    assert transcript.transcript == "Hello there. <Bye>"
    assert transcript.item_id == committed.item_id
    deltas = of_type(events, "conversation.item.input_audio_transcription.delta")
    assert "".join(event.delta for event in deltas) == "Hello there. <Bye>"
    told = "".join(event.delta for event in of_type(events, "response.output_audio_transcript.delta"))
    assert told == "Hello there"
    sound = b"".join(base64.b64decode(event.delta) for event in of_type(events, "response.output_audio.delta"))
    assert sound == SECOND
    order = types(events)
    assert order.index("response.output_audio.done") < order.index("response.content_part.done")
    (item,) = events[-1].response.output
    assert item.content[0].transcript == "Hello there"
    assert item.content[0].type == "output_audio"
    form = events[-1].response.audio.output.format
    assert (form.type, form.rate) == ("audio/pcm", 24000)
    speech = gateway.backend.requests[-1]
    assert (speech.input, speech.response_format, speech.sample_rate) == ("Hello there", "pcm", 24000)
    heard = gateway.backend.requests[-3]
    assert heard.file[:4] == b"RIFF"
    chat = gateway.backend.requests[-2]
    assert chat.messages[-1].content == "Hello there. <Bye>"


async def test_sentences_are_spoken_while_the_model_still_writes(serve: Start) -> None:
    held = asyncio.Event()
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (SECOND,)
        gateway.backend.script = (
            chunk("First. "),
            chunk("Sec"),
            held,
            chunk("ond."),
            chunk(finish="stop"),
            usage_chunk(),
        )
        await say(connection, "Hi")
        events = await until(connection, "response.output_audio.delta")
        assert of_type(events, "response.output_audio_transcript.delta")[0].delta == "First. "
        held.set()
        events += await until(connection, "response.done")
    spoken_texts = [request.input for request in gateway.backend.requests if hasattr(request, "input")]
    assert spoken_texts == ["First.", "Second."]


async def test_speech_stops_the_answer_and_cuts_it_where_it_was_heard(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (SECOND * 20,)
        gateway.backend.script = (chunk("One two three four. "), chunk("Five."), asyncio.Event())
        await connection.session.update(session=HEARS)
        await say(connection, "Count")
        events = await until(connection, "response.output_audio.delta")
        item = of_type(events, "response.output_item.added")[0].item.id
        await speak(connection, spoken("question"))
        events = await until(connection, "conversation.item.truncated")
        names = types(events)
        begun = names.index("input_audio_buffer.speech_started")
        assert "response.output_audio.delta" not in names[begun:]
        done = of_type(events, "response.done")[0].response
        assert (done.status, done.status_details.reason) == ("cancelled", "turn_detected")
        told = done.roundhouse
        assert told["model"] == "parrot"
        assert done.usage.total_tokens == 4
        truncated = events[-1]
        assert truncated.item_id == item
        assert truncated.audio_end_ms < 15_000
        await connection.conversation.item.retrieve(item_id=item)
        (kept,) = [
            event
            for event in await until(connection, "conversation.item.retrieved")
            if event.type == "conversation.item.retrieved"
        ]
        assert len(kept.item.content[0].transcript) < len("One two three four. Five.")


def said_before(gateway: Gateway) -> list[str]:
    """The words of the assistant that the model was told."""
    asked = [request for request in gateway.backend.requests if hasattr(request, "messages")][-1].messages
    return [str(message.content) for message in asked if message.role == "assistant"]


async def test_an_interruption_before_the_first_sound_leaves_nothing_that_was_said(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (b"", asyncio.Event())
        gateway.backend.script = (chunk("One two three four. "), chunk("Five."), asyncio.Event())
        await connection.session.update(session=HEARS)
        await say(connection, "Count")
        await until(connection, "response.output_audio_transcript.delta")
        await speak(connection, spoken("question"))
        events = await until(connection, "conversation.item.truncated")
        assert events[-1].audio_end_ms == 0
        gateway.backend.script, gateway.backend.audio = ANSWER, (SECOND,)
        await speak(connection, quiet(1))
        assert (await until(connection, "response.done"))[-1].response.status == "completed"
    assert said_before(gateway) == []


async def test_an_interruption_within_a_sentence_leaves_the_words_whose_sound_was_sent(serve: Start) -> None:
    text = "One two three four five six seven eight nine ten eleven twelve. "
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (SECOND, asyncio.Event())
        gateway.backend.script = (chunk(text), chunk("More."), asyncio.Event())
        await say(connection, "Count")
        events = await until(connection, "response.output_audio.delta")
        item = of_type(events, "response.output_item.added")[0].item.id
        for _ in range(2):  # a second in three deltas
            await until(connection, "response.output_audio.delta")
        await connection.response.cancel()
        done = (await until(connection, "response.done"))[-1].response
        kept = done.output[0].content[0].transcript
        assert kept.startswith("One two three")
        assert len(kept) < len(text) / 2
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=0)
        await until(connection, "conversation.item.truncated")
        gateway.backend.script, gateway.backend.audio = ANSWER, (SECOND,)
        await say(connection, "Go on")
        await until(connection, "response.done")
    assert said_before(gateway) == []


async def test_an_answer_that_was_cut_stays_cut_when_the_next_is_interrupted(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (SECOND * 4,)
        gateway.backend.script = (chunk("One two three four."), chunk(finish="stop"), usage_chunk())
        await connection.session.update(session=HEARS)
        await say(connection, "Count")
        item = (await until(connection, "response.done"))[-1].response.output[0].id
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=2000)
        gateway.backend.script = (asyncio.Event(),)
        await say(connection, "Go on")
        await until(connection, "response.created")
        await speak(connection, spoken("question"))
        await until(connection, "response.done")
        gateway.backend.script, gateway.backend.audio = ANSWER, (SECOND,)
        await speak(connection, quiet(1))
        await until(connection, "response.done")
    assert [each.split() for each in said_before(gateway)] == [["One", "two"]]


async def test_the_client_says_exactly_what_was_heard(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (SECOND * 4,)
        gateway.backend.script = (chunk("One two three four."), chunk(finish="stop"), usage_chunk())
        await say(connection, "Count")
        item = (await until(connection, "response.done"))[-1].response.output[0].id
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=2000)
        (event,) = await until(connection, "conversation.item.truncated")
        assert event.audio_end_ms == 2000
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=4100)
        assert (await until(connection, "error"))[-1].error.param == "audio_end_ms"
        await connection.conversation.item.retrieve(item_id=item)
        kept = (await until(connection, "conversation.item.retrieved"))[-1].item
        assert kept.content[0].transcript.split() == ["One", "two"]
        assert len(base64.b64decode(kept.content[0].audio)) == 2 * 48_000


async def test_a_response_counts_as_its_transcription_its_chat_and_its_speech(serve: Start) -> None:
    text = "One is here. Two is there. Three is gone. "
    async with serve() as gateway:
        await gateway.keys.create("boss", admin=True)
        few = await gateway.keys.create("few", limits=KeyLimits(requests=Rate(day=3)))
        async with connected(gateway, key=few.secret) as connection:
            gateway.backend.audio = (SECOND,)
            gateway.backend.script = (chunk(text), chunk(finish="stop"), usage_chunk())
            await connection.session.update(session=HEARS)
            await speak(connection, spoken("question") + quiet(1))
            done = (await until(connection, "response.done"))[-1].response
            assert done.status == "completed", done.status_details
            await connection.response.create()
            done = (await until(connection, "response.done"))[-1].response
            assert done.status_details.error.code == "rate_limit_exceeded"
    texts = [request.input for request in gateway.backend.requests if hasattr(request, "input")]
    assert texts == ["One is here.", "Two is there.", "Three is gone."]


async def test_a_turn_that_is_transcribed_anew_after_a_pause_counts_once(serve: Start) -> None:
    async with serve() as gateway:
        await gateway.keys.create("boss", admin=True)
        few = await gateway.keys.create("few", limits=KeyLimits(requests=Rate(day=3)))
        began, transcribe = asyncio.Event(), gateway.backend.transcribe

        async def told(upstream: Any, request: Any) -> Any:
            began.set()
            async for event in transcribe(upstream, request):
                yield event

        gateway.backend.transcribe = told  # type: ignore[method-assign]
        async with connected(gateway, key=few.secret) as connection:
            await connection.session.update(session=listens(type="server_vad", silence_duration_ms=1500))
            for _ in range(2):  # the pause is no end of the turn
                await speak(connection, spoken("question") + quiet(0.5))
                await asyncio.wait_for(began.wait(), 5)
                began.clear()
            await speak(connection, quiet(2))
            events = await until(connection, "response.done")
            done = events[-1].response
            assert done.status == "completed", done.status_details
    assert len(of_type(events, "input_audio_buffer.committed")) == 1
    assert len([request for request in gateway.backend.requests if hasattr(request, "file")]) > 1


async def test_without_turn_detection_the_client_commits(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session=listens())
        await speak(connection, spoken("question"))
        await connection.input_audio_buffer.commit()
        events = await until(connection, "conversation.item.input_audio_transcription.completed")
        assert "response.created" not in types(events)
        assert "input_audio_buffer.speech_started" not in types(events)
        await connection.response.create()
        assert (await until(connection, "response.done"))[-1].response.status == "completed"
        await speak(connection, spoken("question"))
        await connection.input_audio_buffer.clear()
        await until(connection, "input_audio_buffer.cleared")
        await connection.input_audio_buffer.commit()
        assert (await until(connection, "error"))[-1].error.code == "input_audio_buffer_commit_empty"


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_telephone_formats_go_in_and_out(serve: Start, kind: Any) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.audio = (SECOND,)
        form = {"format": {"type": kind}}
        session: Any = {"type": "realtime", "audio": {"input": form, "output": form}}
        await connection.session.update(session=session)
        await speak(connection, spoken("question", kind) + quiet(1, kind), step=800)
        events = await until(connection, "response.done")
        assert "input_audio_buffer.speech_stopped" in types(events)
    sound = b"".join(base64.b64decode(event.delta) for event in of_type(events, "response.output_audio.delta"))
    assert len(sound) == pytest.approx(8000, abs=20)
    samples = AudioForm(kind).decode(sound).astype(float)
    assert np.sqrt((samples**2).mean()) == pytest.approx(8000 / np.sqrt(2), rel=0.05)


async def test_a_failed_transcription_is_told_and_fails_the_response(serve: Start) -> None:
    async def broken(upstream: Any, request: Any) -> Any:
        yield {"type": "transcript.text.delta", "delta": ""}
        raise UpstreamOverloaded("Deaf.")

    async with serve() as gateway, connected(gateway) as connection:
        gateway.backend.transcribe = broken  # type: ignore[method-assign]
        await connection.session.update(session=HEARS)
        await speak(connection, spoken("question") + quiet(1))
        events = await until(connection, "response.done")
    (failed,) = of_type(events, "conversation.item.input_audio_transcription.failed")
    assert failed.error.code == "upstream_overloaded"
    assert events[-1].response.status == "failed"


async def test_a_transcription_session_only_transcribes(serve: Start) -> None:
    async with serve() as gateway, connected(gateway, extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(session={"type": "transcription"})
        (event,) = await until(connection, "session.updated")
        assert event.session.type == "transcription"
        await speak(connection, spoken("question") + quiet(1))
        events = await until(connection, "conversation.item.input_audio_transcription.completed")
        assert events[-1].transcript == "Hello there. <Bye>"
        assert events[-1].usage.type == "duration"
        await connection.response.create()
        assert (await until(connection, "error"))[-1].error.type == "invalid_request_error"


async def test_semantic_turns_wait_longer_for_words_that_break_off(serve: Start) -> None:
    async def ends(text: str) -> int:
        async with serve() as gateway, connected(gateway) as connection:
            gateway.backend.transcript = {**gateway.backend.transcript, "text": text}
            await connection.session.update(session=listens(type="semantic_vad", eagerness="high"))
            audio = spoken("question") + quiet(3)
            for at in range(0, len(audio), 4800):
                await speak(connection, audio[at : at + 4800])
                await asyncio.sleep(0.002)
            (stopped,) = of_type(await until(connection, "response.done"), "input_audio_buffer.speech_stopped")
            return int(stopped.audio_end_ms)

    assert await ends("What is the capital of France?") < 2400
    assert await ends("I would like to know whether the.") > 3200


async def test_a_long_silence_prompts_the_model(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        turns: Any = listens(type="server_vad", idle_timeout_ms=1000)
        await connection.session.update(session=turns)
        await say(connection, "Hi")
        await until(connection, "response.done")
        events = await until(connection, "response.done")
    assert types(events)[:2] == ["input_audio_buffer.timeout_triggered", "input_audio_buffer.committed"]
    assert "said nothing" in gateway.backend.requests[-2].messages[-1].content


async def test_a_voice_cannot_change_once_it_has_spoken(serve: Start) -> None:
    async with serve() as gateway, connected(gateway) as connection:
        await connection.session.update(session={"type": "realtime", "audio": {"output": {"voice": "wren"}}})
        await say(connection, "Hi")
        await until(connection, "response.done")
        assert gateway.backend.requests[-1].voice == "wren"
        await connection.session.update(session={"type": "realtime", "audio": {"output": {"voice": "robin"}}})
        assert (await until(connection, "error"))[-1].error.param == "session.audio.output.voice"
