"""aider: edits a file by the text of an answer; it has no tools."""

import json

from agent import FILE, TEXT, run
from task import MODEL, URL

answer = f"{FILE}\n```\n{TEXT}\n```\n"
quiet = ["--yes-always", "--no-git", "--no-check-update", "--no-show-model-warnings", "--no-analytics"]
server = ["--model", f"openai/{MODEL}", "--openai-api-base", f"{URL}/v1"]
asked = f"Make the file. Say {json.dumps(answer)}"
run("aider", *server, *quiet, "--message", asked, str(FILE), said="Applied edit")
