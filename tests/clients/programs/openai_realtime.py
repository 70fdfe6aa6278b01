"""OpenAI's Python SDK over /v1/realtime: a spoken question and answer, an interruption, a function call."""

import asyncio
import base64

from openai import AsyncOpenAI
from task import DEMAND, MODEL, PROMPT, SCRIPTED, TOOL, run_tool

PIECE = 4800
SILENCE = bytes(48_000)


async def spoken(client: AsyncOpenAI, text: str) -> bytes:
    """The microphone: speech as pcm16 at 24 kHz."""
    answer = await client.audio.speech.create(model="hibari", voice="heart", input=text, response_format="pcm")
    return answer.content


async def until(connection, *kinds):
    """The events up to the first of one of these types."""
    events = []
    async for event in connection:
        events.append(event)
        assert event.type != "error", event
        if event.type in kinds:
            return events
    raise AssertionError(f"the session ended before {kinds}")


async def say(connection, audio, step=PIECE):
    for at in range(0, len(audio), step):
        await connection.input_audio_buffer.append(audio=base64.b64encode(audio[at : at + step]).decode())


def of(events, kind):
    return [event for event in events if event.type == kind]


async def main() -> None:
    client = AsyncOpenAI(max_retries=0)
    question = await spoken(client, "What is the weather in Oslo?")
    audio = {"input": {"transcription": {"model": "whisper-tiny.en"}}, "output": {"model": "hibari"}}
    async with client.realtime.connect(model=MODEL) as connection:
        session = {"type": "realtime", "instructions": "Answer in one sentence.", "audio": audio}
        await connection.session.update(session=session)
        await say(connection, question + SILENCE)
        events = await until(connection, "response.done")
        (heard,) = of(events, "conversation.item.input_audio_transcription.completed")
        assert "weather" in heard.transcript.lower(), heard.transcript
        sound = b"".join(base64.b64decode(event.delta) for event in of(events, "response.output_audio.delta"))
        assert len(sound) > PIECE

        # The answer still plays: a client that is interrupted says how much of it was heard.
        item = events[-1].response.output[0].id
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=100)
        await until(connection, "conversation.item.truncated")

        function = {"type": "function", **TOOL["function"]}
        text = {"type": "realtime", "output_modalities": ["text"], "tools": [function], "tool_choice": DEMAND}
        await connection.session.update(session=text)
        content = [{"type": "input_text", "text": PROMPT}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
        await connection.response.create()
        output = (await until(connection, "response.done"))[-1].response.output
        calls = [each for each in output if each.type == "function_call"]
        assert calls
        for call in calls:
            result = run_tool(call.name, call.arguments)
            await connection.conversation.item.create(
                item={"type": "function_call_output", "call_id": call.call_id, "output": result}
            )
        await connection.response.create(response={"tool_choice": "none"})
        events = await until(connection, "response.done")
        said = "".join(event.delta for event in of(events, "response.output_text.delta"))
        assert "Snow in Oslo, -4 degrees." in said if SCRIPTED else said, said


asyncio.run(main())
