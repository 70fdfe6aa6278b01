"""The task of every coding agent: a file that it has to make in its working folder, and the proof that it did."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path("made.txt")
TEXT = "made by an agent"
COMMAND = f"echo {TEXT} > {FILE} && cat {FILE}"


def prompt(tool: str, arguments: dict[str, object]) -> str:
    """The prompt that scripts a capable model: a call of the agent's own tool."""
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
