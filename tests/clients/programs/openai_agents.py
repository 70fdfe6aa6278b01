"""OpenAI's Agents SDK: a tool loop by the Responses API, its default, plain and streamed, and by chat."""

import asyncio

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from task import DEMAND, MODEL, PROMPT, get_weather, proven

set_tracing_disabled(True)


def agent(model: object) -> Agent:
    settings = ModelSettings(tool_choice=DEMAND, max_tokens=200)
    return Agent("forecaster", tools=[function_tool(get_weather)], model=model, model_settings=settings)


async def main() -> None:
    proven((await Runner.run(agent(MODEL), PROMPT)).final_output)
    streamed = Runner.run_streamed(agent(MODEL), PROMPT)
    kinds = {event.type async for event in streamed.stream_events()}
    assert kinds >= {"raw_response_event", "run_item_stream_event"}, kinds
    proven(streamed.final_output)
    chat = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(max_retries=0))
    proven((await Runner.run(agent(chat), PROMPT)).final_output)


asyncio.run(main())
