"""Instructor: a form by a tool, by JSON and by a JSON schema, whole and in parts."""

from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel
from task import MODEL


class Person(BaseModel):
    name: Literal["Ada", "Bob"]
    age: int


asked = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Ada is 36 years old."}],
    "response_model": Person,
}
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(max_retries=0), mode=mode)
    person = client.chat.completions.create(**asked, max_retries=2)
    assert isinstance(person, Person), person
    *_, last = client.chat.completions.create_partial(**asked)
    assert isinstance(last.name, str), last
