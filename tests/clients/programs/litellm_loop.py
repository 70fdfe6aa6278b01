"""LiteLLM: a tool loop by the wire of OpenAI and by Anthropic's, a streamed answer, embeddings, responses."""

import os

import litellm
from task import DEMAND, EMBEDDER, KEY, MODEL, PROMPT, TOKENS, TOOL, URL, proven, run_tool

litellm.num_retries = 0
os.environ["OPENAI_API_BASE"] = f"{URL}/v1"


def loop(model: str) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    asked = {"model": model, "max_tokens": TOKENS, "tools": [TOOL]}
    said = litellm.completion(**asked, messages=messages, tool_choice=DEMAND).choices[0].message
    messages.append(said.model_dump(exclude_none=True))
    for call in said.tool_calls:
        output = run_tool(call.function.name, call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
    chunks = list(litellm.completion(**asked, messages=messages, stream=True))
    proven(litellm.stream_chunk_builder(chunks).choices[0].message.content or "")


loop(f"openai/{MODEL}")
loop(f"anthropic/{MODEL}")
embedded = litellm.embedding(model=f"openai/{EMBEDDER}", input=["one", "two"], api_base=f"{URL}/v1", api_key=KEY)
assert len(embedded.data) == 2
assert litellm.responses(model=f"openai/{MODEL}", input="Say hello.", max_output_tokens=50).output
