"""aider: edits a file by the text of an answer; it has no tools."""

import json

from agent import FILE, TEXT, run
from task import MODEL, URL

answer = f"{FILE}\n```\n{TEXT}\n```\n"
options = ["--yes-always", "--no-git", "--no-check-update", "--no-show-model-warnings", "--no-analytics"]
asked = f"Make the file. Say {json.dumps(answer)}"
run("aider", "--model", f"openai/{MODEL}", "--openai-api-base", f"{URL}/v1", *options, "--message", asked, str(FILE))
