"""Pydantic AI: a tool loop by chat and by responses, a streamed answer, and a typed output."""

import asyncio
from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from task import MODEL, PROMPT, SCRIPTED, TOKENS, get_weather, proven


class Person(BaseModel):
    name: Literal["Ada", "Bob"]
    age: int


async def main() -> None:
    for model in (OpenAIChatModel(MODEL), OpenAIResponsesModel(MODEL)):
        agent = Agent(model, tools=[get_weather], retries=3, model_settings={"max_tokens": TOKENS})
        proven((await agent.run(PROMPT)).output) if SCRIPTED else await agent.run("Say hello.")
        async with agent.run_stream(PROMPT if SCRIPTED else "Say hello.") as result:
            text = await result.get_output()
        if SCRIPTED:
            proven(text)
        person = await Agent(model, output_type=Person, retries=3).run("Ada is 36.")
        assert isinstance(person.output, Person)


asyncio.run(main())
