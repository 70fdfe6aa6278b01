"""Codex CLI: ``codex exec`` runs a command of the shell and tells its output."""

from pathlib import Path

from agent import COMMAND, prompt, run
from task import MODEL, URL

home = Path.home() / ".codex"
home.mkdir()
(home / "config.toml").write_text(
    f'''model = "{MODEL}"
model_provider = "here"
[model_providers.here]
name = "Roundhouse"
base_url = "{URL}/v1"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
'''
)
asked = prompt("exec_command", {"cmd": COMMAND})
run("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", asked)
