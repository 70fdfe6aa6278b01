"""Continue: ``cn -p`` runs a command of the shell and tells its output; the model in a file of its own."""

from pathlib import Path

from agent import COMMAND, prompt, run
from task import KEY, MODEL, URL

Path("config.yaml").write_text(f"""name: Roundhouse
version: 1.0.0
schema: v1
models:
  - name: Roundhouse
    provider: openai
    model: {MODEL}
    apiBase: {URL}/v1
    apiKey: {KEY}
    roles: [chat, edit, apply]
    capabilities: [tool_use]
""")
run("cn", "--config", "config.yaml", "--auto", "-p", prompt("Bash", {"command": COMMAND}))
