"""Claude Code: ``claude -p`` runs a command of the shell and tells its output."""

from agent import COMMAND, prompt, run
from task import MODEL

asked = prompt("Bash", {"command": COMMAND, "description": "Make a file"})
run("claude", "-p", asked, "--model", MODEL, "--allowedTools", "Bash")
