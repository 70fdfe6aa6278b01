"""The task of every coding agent: a file that it has to make in its working folder, and the proof that it did."""

import json
import os
import subprocess
import sys
from pathlib import Path

FILE = Path("made.txt")
TEXT = "made by agent 42"
COMMAND = f"echo made by agent $((6 * 7)) > {FILE} && cat {FILE}"
"""The prompt does not have the text: an answer with it tells what the tool said."""


def prompt(tool: str, arguments: dict[str, object]) -> str:
    """The prompt that scripts a model: a call of the agent's own tool."""
    if os.environ["ROUNDHOUSE_UPSTREAM"] == "strict":  # tests/fakes/copier.py
        call = json.dumps({"name": tool, "arguments": arguments})
        return f"Make the file {FILE}: <|say|><tool_call>\n{call}\n</tool_call>"
    return f"Make the file {FILE}: Call {tool} {json.dumps(arguments)}"


def run(*command: str, given: str = "", said: str = TEXT) -> None:
    """Run the agent, with ``given`` on its input; check the file, and that the last text tells the output."""
    Path(".git").mkdir(exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, input=given, check=False)
    print(done.stdout, done.stderr, sep="\n", flush=True)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}")
    assert FILE.is_file(), "the file was not made"
    assert FILE.read_text().strip() == TEXT, FILE.read_text()
    assert said in done.stdout, "the answer does not tell what the tool said"
