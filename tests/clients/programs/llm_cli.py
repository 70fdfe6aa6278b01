"""Simon Willison's llm: a prompt with a tool on the command line, the model named in its own file."""

import subprocess
from pathlib import Path

from task import KEY, MODEL, PROMPT, SCRIPTED, URL

TOOL = """
def get_weather(city: str) -> str:
    "Tell the weather of a city."
    return f"Snow in {city}, -4 degrees."
"""
folder = Path.home() / ".config" / "io.datasette.llm"
folder.mkdir(parents=True)
(folder / "extra-openai-models.yaml").write_text(
    f"- {{model_id: here, model_name: {MODEL}, api_base: {URL}/v1, api_key_name: openai, supports_tools: true}}\n"
)


def llm(*arguments: str) -> str:
    done = subprocess.run(["llm", *arguments, "--key", KEY], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


if SCRIPTED:
    for way in ([], ["--no-stream"]):
        said = llm("prompt", PROMPT, "-m", "here", "--functions", TOOL, *way)
        assert "Snow in Oslo, -4 degrees." in said, said
assert llm("prompt", "Say hello.", "-m", "here", "-o", "max_tokens", "60").strip()
