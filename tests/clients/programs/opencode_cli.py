"""opencode: ``opencode run`` runs a command of the shell and tells its output; the provider in its own file."""

import json
from pathlib import Path

from agent import COMMAND, prompt, run
from task import MODEL, URL

provider = {
    "npm": "@ai-sdk/openai-compatible",
    "name": "Roundhouse",
    "options": {"baseURL": f"{URL}/v1", "apiKey": "{env:OPENAI_API_KEY}"},
    "models": {MODEL: {"name": MODEL}},
}
Path("opencode.json").write_text(json.dumps({"provider": {"here": provider}, "model": f"here/{MODEL}"}))
# it escapes the quotes of a prompt that is an argument
run("opencode", "run", given=prompt("bash", {"command": COMMAND}))
