"""OpenAI's Agents SDK: a tool loop by the Responses API, its default, plain and streamed, and by chat."""

import asyncio

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from task import DEMAND, MODEL, PROMPT, SCRIPTED, TOKENS, get_weather, proven

set_tracing_disabled(True)


def agent(model: object) -> Agent:
    # a small real model would call the tool for ever
    end = "run_llm_again" if SCRIPTED else "stop_on_first_tool"
    settings = ModelSettings(tool_choice=DEMAND, max_tokens=TOKENS)
    tools = [function_tool(get_weather)]
    return Agent("forecaster", tools=tools, model=model, model_settings=settings, tool_use_behavior=end)


async def main() -> None:
    proven((await Runner.run(agent(MODEL), PROMPT)).final_output)
    streamed = Runner.run_streamed(agent(MODEL), PROMPT)
    kinds = {event.type async for event in streamed.stream_events()}
    assert kinds >= {"raw_response_event", "run_item_stream_event"}, kinds
    proven(streamed.final_output)
    chat = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(max_retries=0))
    proven((await Runner.run(agent(chat), PROMPT)).final_output)


asyncio.run(main())
