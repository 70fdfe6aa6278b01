"""Simon Willison's llm: a prompt with a tool on the command line, the model named in its own file."""

import subprocess
from pathlib import Path

from task import KEY, MODEL, PROMPT, SCRIPTED, URL

TOOL = 'def get_weather(city: str) -> str:\n    "Tell the weather of a city."\n    return f"Snow in {city}, -4 degrees."\n'
folder = Path.home() / ".config" / "io.datasette.llm"
folder.mkdir(parents=True)
(folder / "extra-openai-models.yaml").write_text(
    f"- model_id: here\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  supports_tools: true\n  can_stream: true\n"
)


def llm(*arguments: str) -> str:
    done = subprocess.run(["llm", *arguments, "--key", KEY], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


for way in ([], ["--no-stream"]):
    said = llm("prompt", PROMPT, "-m", "here", "--functions", TOOL, *way)
    if SCRIPTED:
        assert "Snow in Oslo, -4 degrees." in said, said
assert llm("prompt", "Say hello.", "-m", "here").strip()
