"""The paths of workers beyond OpenAI's API: tokenizer, chat template, properties, probabilities of a prompt."""

from __future__ import annotations

from collections.abc import Iterable

from backends.base import Upstream
from backends.http import HttpClient
from backends.http.errors import ErrorReader
from backends.local.model.grammars import root_of
from backends.openai.backend import checked
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.errors import CapabilityMismatch, InvalidRequest, UpstreamError, UpstreamProtocolError
from catalog.types import Json

_MAX_KNOWN = 256
_FORCED = 1000.0
"""Added to the logit of a token that must come; the probabilities are told before it is added."""
_PROPERTIES = (
    *("default_generation_settings", "total_slots", "chat_template", "chat_template_caps", "modalities"),
    *("bos_token", "eos_token", "build_info"),
)
"""Fields of llama-server's properties that name no file of this machine."""


_CALLED_WORDS = ("look_up", "lighthouse", "a tower by the sea")
_CALLED: list[Json] = [
    {"role": "user", "content": "Hi"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "abcdefghi",  # Mistral's templates refuse another length
                "type": "function",
                "function": {"name": "look_up", "arguments": '{"word":"lighthouse"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "look_up", "content": "a tower by the sea"},
]
"""A conversation with a call, of which a template that renders it shows the words."""


class WorkerTokens:
    """Calls the paths of workers that have no counterpart in OpenAI's API."""

    def __init__(self, http: HttpClient, errors: ErrorReader) -> None:
        self._http = http
        self._errors = errors
        self._takes_tools: dict[str, bool] = {}
        self._renders_calls: dict[str, bool] = {}
        self._vocabularies: dict[str, int | None] = {}

    async def tokenize(self, upstream: Upstream, request: TokenizeRequest) -> Json:
        """``{"tokens": [...]}``: ids, or with ``with_pieces`` objects of ``id`` and ``piece``."""
        body = {
            "content": request.content,
            "add_special": request.add_special,
            "parse_special": request.parse_special,
            "with_pieces": request.with_pieces,
        }
        return checked(await self._http.post_json(root_of(upstream), "/tokenize", body), "", upstream)

    async def detokenize(self, upstream: Upstream, request: DetokenizeRequest) -> Json:
        """``{"content": text}``. Raises InvalidRequest for a token that the model does not have."""
        await self.in_vocabulary(request.tokens, "tokens", upstream)
        body = {"tokens": request.tokens}
        return checked(await self._http.post_json(root_of(upstream), "/detokenize", body), "", upstream)

    async def vocabulary(self, upstream: Upstream) -> int | None:
        """The number of the model's tokens, if the worker tells it; it is asked once."""
        key = upstream.uds or upstream.base_url
        if key not in self._vocabularies:
            listed = checked(await self._http.get_json(upstream, "/models"), "", upstream)
            row = next(iter(listed.get("data") or ()), None) or {}
            size = (row.get("meta") or {}).get("n_vocab")
            if len(self._vocabularies) >= _MAX_KNOWN:
                self._vocabularies.clear()
            self._vocabularies[key] = size if isinstance(size, int) else None
        return self._vocabularies[key]

    async def in_vocabulary(self, tokens: Iterable[int], param: str, upstream: Upstream) -> None:
        """Raises InvalidRequest for a token beyond the vocabulary, if the worker tells its size."""
        highest, size = max(tokens, default=-1), await self.vocabulary(upstream)
        if size is not None and highest >= size:
            raise InvalidRequest(
                f"{param} has the token {highest}, and '{upstream.model}' has the tokens 0 to {size - 1}.",
                param=param,
            )

    async def props(self, upstream: Upstream) -> Json:
        """llama-server's properties of the model, as it tells them."""
        return checked(await self._http.get_json(root_of(upstream), "/props"), "", upstream)

    async def context(self, upstream: Upstream) -> int:
        """The tokens of one conversation's context. Raises UpstreamProtocolError if the worker does not tell."""
        size = ((await self.props(upstream)).get("default_generation_settings") or {}).get("n_ctx")
        if not isinstance(size, int):
            raise UpstreamProtocolError(f"The worker of '{upstream.model}' tells no size of its context.")
        return size

    async def properties(self, upstream: Upstream) -> Json:
        """Those of the properties that name no file. Raises CapabilityMismatch at another engine."""
        only_llamacpp(upstream, "tells no properties")
        props = await self.props(upstream)
        return {name: props[name] for name in _PROPERTIES if name in props}

    async def takes_tools(self, upstream: Upstream) -> bool:
        """Whether the model's chat template takes tools; the worker is asked once."""
        key = upstream.uds or upstream.base_url
        known = self._takes_tools.get(key)
        if known is None:
            props = await self.props(upstream)
            caps = props.get("chat_template_caps") or {}
            known = bool(caps.get("supports_tools", "tools" in (props.get("chat_template") or "")))
            if len(self._takes_tools) >= _MAX_KNOWN:
                self._takes_tools.clear()
            self._takes_tools[key] = known
        return known

    async def renders_calls(self, upstream: Upstream) -> bool:
        """Whether the model's chat template renders earlier calls and results where a request has no tools.

        Many do so only beside tools, or not at all; llama-server is asked once, by an example. Of other engines'
        templates it is taken to be so if they take tools.
        """
        if upstream.engine not in (None, "llamacpp"):
            return await self.takes_tools(upstream)
        key = upstream.uds or upstream.base_url
        known = self._renders_calls.get(key)
        if known is None:
            try:
                prompt = (await self.template(upstream, {"messages": _CALLED}))["prompt"]
            except (InvalidRequest, UpstreamError):
                prompt = ""
            known = all(word in prompt for word in _CALLED_WORDS)
            if len(self._renders_calls) >= _MAX_KNOWN:
                self._renders_calls.clear()
            self._renders_calls[key] = known
        return known

    async def template(self, upstream: Upstream, body: Json) -> Json:
        """``{"prompt": text}``: the chat template applied to ``body``."""
        filled = await self._http.post_json(root_of(upstream), "/apply-template", body, errors=self._errors)
        return checked(filled, "", upstream)

    async def prompt_logprobs(self, upstream: Upstream, prompt: str | list[int], top: int) -> list[Json]:
        """The tokens of a prompt with their log probabilities and ``top`` alternatives, in llama-server's form.

        llama-server tells the probabilities of generated tokens alone, so each token of the prompt is generated
        once, by force; the worker's cache leaves one token to decode for each. The first has no probability, for
        want of tokens before it.
        """
        if isinstance(prompt, str):
            text = prompt
        else:
            text = (await self.detokenize(upstream, DetokenizeRequest(tokens=prompt)))["content"]
        asked = TokenizeRequest(content=text, add_special=isinstance(prompt, str), with_pieces=True)
        told = await self.tokenize(upstream, asked)
        ids, pieces = [row["id"] for row in told["tokens"]], [row["piece"] for row in told["tokens"]]
        if isinstance(prompt, list) and ids != prompt:  # another split of the same text
            ids = prompt
            pieces = [
                (await self.detokenize(upstream, DetokenizeRequest(tokens=[token])))["content"] for token in ids
            ]
        before = 0
        while isinstance(prompt, str) and before < len(ids) and not prompt.startswith(str(pieces[before])):
            before += 1  # a token that the tokenizer puts before every text
        found: list[Json] = []
        for place in range(before, len(ids)):
            entry: Json = {"logprob": None, "top_logprobs": None}
            if place:
                entry = await self._logprob(upstream, ids[:place], ids[place], top)
            piece = pieces[place]
            found.append(
                {**entry, "token": piece if isinstance(piece, str) else bytes(piece).decode(errors="replace")}
            )
        return found

    async def _logprob(self, upstream: Upstream, before: list[int], token: int, top: int) -> Json:
        """The log probability of one token after others."""
        first = await self._forced(upstream, before, token, max(1, top))
        if first is not None:
            return first
        # A token that ends no character is not told: find it among all after a token that is.
        size = await self.vocabulary(upstream) or 0
        letter = (await self.tokenize(upstream, TokenizeRequest(content="a")))["tokens"][0]
        told = await self._forced(upstream, before, letter, size)
        rows = [] if told is None else told["top_logprobs"]
        for row in rows:
            if row["id"] == token:
                return {"logprob": row["logprob"], "top_logprobs": rows[: max(1, top)]}
        raise UpstreamProtocolError(f"The worker of '{upstream.model}' sent no probability of a token.")

    async def _forced(self, upstream: Upstream, before: list[int], token: int, count: int) -> Json | None:
        body = {
            "prompt": before,
            "n_predict": 1,
            "n_probs": count,
            "temperature": 0,
            "cache_prompt": True,
            "logit_bias": [[token, _FORCED]],
        }
        answer = checked(
            await self._http.post_json(root_of(upstream), "/completion", body, errors=self._errors), "", upstream
        )
        try:
            first: Json = answer["completion_probabilities"][0]
            if first["id"] != token:
                return None
            return {"logprob": float(first["logprob"]), "top_logprobs": list(first["top_logprobs"])}
        except (IndexError, KeyError, TypeError, ValueError):
            return None


def only_llamacpp(upstream: Upstream, lack: str) -> None:
    """Raises CapabilityMismatch for a model of another engine, which has the ``lack``."""
    if upstream.engine not in (None, "llamacpp"):
        raise CapabilityMismatch(
            f"'{upstream.model}' runs on {upstream.engine}, which {lack}; llamacpp does.", param="model"
        )
