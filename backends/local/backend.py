"""The backend of this machine's workers, with the parts of OpenAI's behaviour that the workers leave out."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from backends.adapting.restoring import restorer_of
from backends.adapting.tools import adapted, restoration_for
from backends.base import Upstream
from backends.constraints.checker import Checker
from backends.fetch import Fetcher
from backends.http import HttpClient
from backends.local.binding import Binding, bind_answer, bind_text, refuse_endless
from backends.local.chat import AT_ONCE, UsageSum, choice_bodies, regular
from backends.local.classify import Likelihoods, left_out
from backends.local.completions import (
    ChoiceCall,
    TextWriter,
    calls_of,
    infill_body,
    infill_chunk,
    mean_logprob,
    refuse_empty,
)
from backends.local.conversation import alternating, has_neighbours, renderable
from backends.local.media import MediaCalls, WorkerWire
from backends.local.merge import collected, merged
from backends.local.mixed import LocalMixedEmbeddings
from backends.local.model.effort import effort_arguments
from backends.local.model.grammars import Grammars, root_of
from backends.local.model.tokens import WorkerTokens, only_llamacpp
from backends.local.parameters import table_of
from backends.local.prompting import with_prompts, with_query_prompt, without_effect
from backends.local.refusals import worker_error
from backends.local.stops import Counts, counted, stopped
from backends.local.tool_schema import chosen_tools, has_calls, told_calls
from backends.notices import DROPPED, note, tell
from backends.openai.backend import checked
from backends.openai.moderation import THRESHOLD, by_classifier, by_scores, texts_of
from backends.pictures.films import Films
from backends.pictures.media import with_media
from backends.pictures.redrawing import STB, Redrawer
from backends.streams.assemble import chat_chunks, completion_chunks
from backends.streams.shapes import PROGRESS
from backends.wire.audio import TranscriptionRequest
from backends.wire.chat import ChatRequest, TranslatedChat
from backends.wire.classify import ClassifyRequest
from backends.wire.common import WireModel
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.moderation.request import ModerationRequest
from backends.wire.rerank import RerankRequest
from backends.wire.sampling import Sampling
from backends.wire.seeing.embeddings import MixedEmbeddingRequest
from backends.wire.tokens import DetokenizeRequest, TokenizeRequest
from catalog.errors import (
    CapabilityMismatch,
    StreamBroken,
    UnsupportedParameter,
)
from catalog.types import Json

_MAX_KNOWN = 256
_TEMPLATED = ("messages", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs")
_ALTERNATE = "must alternate"
"""The words with which templates (Gemma's, Mistral's, Llama 2's) refuse neighbours of one role."""


class LocalWorkerBackend(MediaCalls):
    """Calls llama-server and our own worker app over the Unix socket of the pool's lease."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._openai = WorkerWire(http)
        self._fetcher = Fetcher(http.settings.fetch)
        self._redrawer = Redrawer()
        self._films = Films(self._fetcher)
        self._likelihoods = Likelihoods(http, worker_error)
        self._tokens = WorkerTokens(http, worker_error)
        self._mixed = LocalMixedEmbeddings(self._openai, self._tokens, self._with_media)
        self._checker = Checker()
        http.at_close(self._checker.aclose)
        self._grammars = Grammars(http)

    def dropped(self, request: WireModel, upstream: Upstream) -> tuple[str, ...]:
        """See :class:`backends.base.Backend`."""
        if isinstance(request, ClassifyRequest | ModerationRequest) and upstream.engine == "llamacpp":
            return left_out(request)
        dropped = self._openai.dropped(request, upstream)
        if isinstance(request, TranscriptionRequest):  # a worker takes the language of a translation, too
            return tuple(name for name in dropped if name != "language")
        if isinstance(request, EmbeddingRequest | MixedEmbeddingRequest | RerankRequest):
            dropped += without_effect(upstream, request)
        return dropped

    # ---- chat

    async def chat(self, upstream: Upstream, request: ChatRequest) -> AsyncGenerator[Json]:
        """Chunks of all choices as they arrive, then their total usage.

        The answer has the form that the request asks for (:mod:`backends.local.binding`): a grammar enforces it,
        and a finished answer is checked. Raises AnswerInvalid where a finished one does not fit.
        """
        rules = table_of(upstream.engine).tools
        restorer = restorer_of(restoration_for(request, rules))
        request = adapted(request, rules)
        binding = await self._bind(request, await self._seen(request, upstream), upstream)
        body = await self._grammars.of_chat(await self._sampled(request, binding.body, upstream), upstream)
        usage = UsageSum()
        stops: Sequence[str] = ()
        if binding.calls != "never" or _tells_stops(request, upstream):
            stops = body.pop("stop", None) or ()
        if binding.calls == "must":  # the answer has no text that a sequence could end
            stops = ()
        streams = [
            self._choice(upstream, single, index, binding, usage, stops)
            for index, single in enumerate(choice_bodies(body))
        ]
        head: Json = {}
        async with aclosing(merged(streams, at_once=AT_ONCE)) as chunks:
            async for chunk in chunks:
                head = head or {name: value for name, value in chunk.items() if name != "choices"}
                chunk = {**chunk, "id": head["id"], "created": head["created"]}
                yield chunk if restorer is None else restorer.restore(chunk)
        yield {**head, "choices": [], "usage": usage.total()}

    async def count(self, upstream: Upstream, request: ChatRequest) -> Json:
        """See :class:`backends.base.Count`: the template is applied, with tools, and nothing is decoded."""
        only_llamacpp(upstream, "counts no tokens")
        body = await self._bound(upstream, request)
        path = "/chat/completions/input_tokens"
        counted = await self._http.post_json(upstream, path, body, errors=worker_error)
        return {"input_tokens": checked(counted, "", upstream)["input_tokens"]}

    async def apply_template(self, upstream: Upstream, request: ChatRequest) -> Json:
        """See :class:`backends.base.Template`."""
        only_llamacpp(upstream, "does not tell the prompt of a chat")
        body = await self._bound(upstream, request)
        asked = {name: body[name] for name in _TEMPLATED if name in body}
        extra = request.model_extra or {}
        if "add_generation_prompt" in extra:
            asked["add_generation_prompt"] = extra["add_generation_prompt"]
        return {"prompt": (await self._tokens.template(upstream, asked))["prompt"]}

    async def _bound(self, upstream: Upstream, request: ChatRequest) -> Json:
        """The body of a chat as the worker gets it, with its tools."""
        request = adapted(request, table_of(upstream.engine).tools)
        return (await self._bind(request, await self._seen(request, upstream), upstream)).body

    async def _seen(self, request: ChatRequest, upstream: Upstream) -> Json:
        """The body with pictures of checked bytes: llama-server would fetch an address by itself."""
        return await self._with_media(self._openai.body(request, upstream), upstream)

    async def _with_media(self, body: Json, upstream: Upstream) -> Json:
        reads = STB if upstream.engine in (None, "llamacpp") else None
        films = self._films if upstream.engine == "vllm" else None
        return await with_media(body, self._fetcher, self._redrawer, reads=reads, films=films)

    async def _bind(self, request: ChatRequest, body: Json, upstream: Upstream) -> Binding:
        """Make the messages ones that the template renders, and bind the answer to its form."""
        if not upstream.templated:
            tell(f"'{upstream.model}' has no chat template of its own, so ChatML is used, which it may not know")
        if upstream.engine == "llamacpp" and "reasoning_effort" in body:
            await self._set_effort(body, upstream)
        body["messages"] = renderable(body["messages"])
        if (
            has_calls(body["messages"])
            and not chosen_tools(request)
            and not await self._tokens.renders_calls(upstream)
        ):
            body["messages"] = told_calls(body["messages"])
        binding = await bind_answer(
            request, body, upstream.engine, self._checker, lambda: self._tokens.takes_tools(upstream)
        )
        messages = binding.body["messages"]
        if has_neighbours(messages):
            template = (await self._tokens.props(upstream)).get("chat_template")
            if _ALTERNATE in str(template):
                binding.body["messages"] = alternating(messages)
        return binding

    def _choice(
        self,
        upstream: Upstream,
        body: Json,
        index: int,
        binding: Binding,
        usage: UsageSum,
        stops: Sequence[str],
    ) -> AsyncGenerator[Json]:
        options = body.get("stream_options") or {}
        counting = upstream.engine == "llamacpp" and bool(options.get("continuous_usage_stats"))
        if not stops and not counting:
            return binding.chunks(self._regular(upstream, body, index, usage, None))
        counts = Counts(told=counting)
        chunks = self._regular(upstream, counted(body, upstream.engine), index, usage, counts)
        if not stops:
            return binding.chunks(chunks)
        if binding.calls == "never":
            return binding.chunks(stopped(chunks, stops, lambda: usage.add(counts.usage())))
        return binding.cut(stopped(binding.chunks(chunks), stops, lambda: usage.add(counts.usage())))

    async def _regular(
        self, upstream: Upstream, body: Json, index: int, usage: UsageSum, counts: Counts | None
    ) -> AsyncGenerator[Json]:
        top = body.get("top_logprobs") or 0
        if body.get("logprobs"):  # llama-server takes 0 for none at all, and gives 20 unasked
            body = {**body, "top_logprobs": max(1, top)}
        body = _told(body, upstream)
        stream = self._openai.stream(
            upstream, "/chat/completions", body, chat_chunks, "messages", errors=worker_error
        )
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                if chunk.get("usage") and not chunk.get("choices"):
                    usage.add(chunk["usage"])
                    continue
                if counts is not None:
                    counts.see(chunk)
                made = regular(chunk, index, top)
                yield made if counts is None or not counts.known else {**made, "usage": counts.usage()}

    async def _set_effort(self, body: Json, upstream: Upstream) -> None:
        """Put the effort's arguments into the body; one that the template cannot keep is noted as dropped."""
        template = str((await self._tokens.props(upstream)).get("chat_template") or "")
        arguments, kept = effort_arguments(body.pop("reasoning_effort"), template)
        if arguments:
            body["chat_template_kwargs"] = {**arguments, **(body.get("chat_template_kwargs") or {})}
        if not kept:
            note({DROPPED: "reasoning_effort"})

    async def _sampled(self, request: Sampling, body: Json, upstream: Upstream) -> Json:
        """The body with parameters by the names and in the forms that the engine knows.

        Raises InvalidRequest for a token outside the vocabulary, UnsupportedParameter for an endless answer in a
        form.
        """
        refuse_endless(body)
        look_back = body.get("repeat_last_n")
        if isinstance(look_back, int | float) and look_back == -1:  # llama-server takes no -1
            body["repeat_last_n"] = await self._tokens.context(upstream)
        if "repetition_penalty" in body:
            body.setdefault("repeat_penalty", body.pop("repetition_penalty"))
        if request.logit_bias:
            await self._tokens.in_vocabulary(map(int, request.logit_bias), "logit_bias", upstream)
        if request.stop_token_ids and upstream.engine in (None, "llamacpp"):
            await self._tokens.in_vocabulary(request.stop_token_ids, "stop_token_ids", upstream)
            answers = [
                await self.detokenize(upstream, DetokenizeRequest(tokens=[token]))
                for token in body.pop("stop_token_ids")
            ]
            texts = [answer["content"] for answer in answers if answer["content"]]
            body["stop"] = [*(body.get("stop") or ()), *texts]
        return body

    # ---- completions

    async def complete(self, upstream: Upstream, request: CompletionRequest) -> AsyncGenerator[Json]:
        """Chunks of all choices; choice ``i`` of prompt ``p`` has the index ``p * n + i``. Usage comes last."""
        if request.echo and request.logprobs is not None and upstream.engine not in (None, "llamacpp"):
            raise UnsupportedParameter(
                f"The engine {upstream.engine} gives no logprobs of an echoed prompt.", param="logprobs"
            )
        body = self._openai.body(request, upstream)
        binding = await bind_text(request, body, upstream.engine, self._checker)
        body = await self._grammars.of_text(await self._sampled(request, binding.body, upstream), upstream)
        calls = calls_of(request, body)
        empty = next((call for call in calls if call.prompt == ""), None)
        if empty is not None and request.suffix is None:
            refuse_empty(await self._count(upstream, empty), upstream.model)
        usage = UsageSum()
        count, tries = request.n or 1, request.best_of or request.n or 1
        head: Json = {}
        streams = [self._chunks_of(upstream, call, request, usage, binding) for call in calls]
        if tries > count:
            streams = [
                self._best(streams[at : at + tries], count, at // tries) for at in range(0, len(streams), tries)
            ]
        async with aclosing(merged(streams, at_once=AT_ONCE)) as chunks:
            async for chunk in chunks:
                head = head or {name: value for name, value in chunk.items() if name != "choices"}
                if request.logprobs is None:
                    for choice in chunk["choices"]:
                        choice["logprobs"] = None
                yield {**chunk, "id": head["id"], "created": head["created"]}
        yield {**head, "choices": [], "usage": usage.total()}

    async def _best(self, tries: list[AsyncGenerator[Json]], count: int, position: int) -> AsyncGenerator[Json]:
        """The ``count`` tries of one prompt with the highest mean log probability."""
        done = [await collected(stream) for stream in tries]
        done.sort(key=mean_logprob, reverse=True)
        for rank, chunks in enumerate(done[:count]):
            for chunk in chunks:
                for choice in chunk["choices"]:
                    choice["index"] = position * count + rank
                yield chunk

    async def _chunks_of(
        self, upstream: Upstream, call: ChoiceCall, request: CompletionRequest, usage: UsageSum, binding: Binding
    ) -> AsyncGenerator[Json]:
        """The chunks of one choice: the echo, then the decoded text."""
        # best_of chooses by logprobs, even when the caller wants none.
        top = request.logprobs if request.logprobs is not None else (0 if "logprobs" in call.body else None)
        writer = TextWriter(call.index, top)
        echo = await self._prompt_text(upstream, call) if request.echo else ""
        heard: Json | None = None
        if echo and request.logprobs is not None:
            heard = {"content": await self._tokens.prompt_logprobs(upstream, call.prompt, request.logprobs)}
        if call.body["max_tokens"] == 0:
            usage.add({"prompt_tokens": await self._count(upstream, call)}, call.position)
            choice = {"text": echo, "logprobs": heard, "finish_reason": "length"}
            yield writer.regular({**_head(upstream), "choices": [choice]})
            return
        async with aclosing(binding.chunks(self._decoded(upstream, call, request))) as chunks:
            async for chunk in chunks:
                if chunk.get("usage"):
                    usage.add(chunk["usage"], call.position)
                    continue
                if echo:
                    spoken = {"text": echo, "logprobs": heard, "finish_reason": None}
                    yield writer.regular({**chunk, "choices": [spoken]})
                    echo = ""
                yield writer.regular(chunk)

    async def _decoded(
        self, upstream: Upstream, call: ChoiceCall, request: CompletionRequest
    ) -> AsyncGenerator[Json]:
        if request.suffix is not None:
            async with aclosing(self._infilled(upstream, call, request.suffix)) as infilled:
                async for chunk in infilled:
                    yield chunk
            return
        stream = self._openai.stream(
            upstream, "/completions", _told(call.body, upstream), completion_chunks, "prompt", errors=worker_error
        )
        async with aclosing(stream) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _infilled(self, upstream: Upstream, call: ChoiceCall, suffix: str) -> AsyncGenerator[Json]:
        """Chunks of text between the prompt and a suffix.

        Raises UnsupportedParameter when the model has no infill tokens.
        """
        body = _told({**infill_body(call, suffix), "stream": True}, upstream)
        head = _head(upstream)
        try:
            async with self._http.open(
                root_of(upstream), "POST", "/infill", json=body, errors=worker_error
            ) as response:
                async for event in response.events():
                    if event.done:
                        break
                    told = checked(event.json(), event.event, upstream)
                    if PROGRESS in told:
                        response.prefilling()
                        continue
                    chunk = infill_chunk(told, head)
                    usage = chunk.pop("usage", None)
                    yield chunk
                    if usage:
                        yield {**head, "choices": [], "usage": usage}
                        return
        except CapabilityMismatch as exc:
            raise UnsupportedParameter(
                f"The model '{upstream.model}' cannot fill in text before a suffix.", param="suffix"
            ) from exc
        raise StreamBroken(f"The worker of '{upstream.model}' ended its stream before the answer was finished.")

    async def _prompt_text(self, upstream: Upstream, call: ChoiceCall) -> str:
        if isinstance(call.prompt, str):
            return call.prompt
        answer = await self.detokenize(upstream, DetokenizeRequest(tokens=call.prompt))
        text: str = answer["content"]
        return text

    async def _count(self, upstream: Upstream, call: ChoiceCall) -> int:
        if not isinstance(call.prompt, str):
            return len(call.prompt)
        answer = await self.tokenize(upstream, TokenizeRequest(content=call.prompt, add_special=True))
        return len(answer["tokens"])

    # ---- the rest

    async def embed(self, upstream: Upstream, request: EmbeddingRequest) -> Json:
        # As text, numbers cost more than the rest of the call: 98,304 of them (256 vectors) are 1.2 MB, which is
        # parsed and written once more here.
        prompted = await with_prompts(upstream, request, self._ids)
        return await self._openai.embed(upstream, prompted, over="base64")

    async def embed_contents(self, upstream: Upstream, request: MixedEmbeddingRequest) -> Json:
        """See :class:`backends.base.EmbedContents`."""
        return await self._mixed.embed(upstream, request)

    async def rerank(self, upstream: Upstream, request: RerankRequest) -> Json:
        return await self._openai.rerank(upstream, with_query_prompt(upstream, request))

    async def _ids(self, upstream: Upstream, text: str) -> list[int]:
        answer = await self.tokenize(upstream, TokenizeRequest(content=text, parse_special=False))
        tokens: list[int] = answer["tokens"]
        return tokens

    async def classify(self, upstream: Upstream, request: ClassifyRequest) -> Json:
        """Asks llama.cpp for the likelihoods of the labels; the app of embedding models classifies by itself."""
        if upstream.engine == "llamacpp":
            return await self._likelihoods.classify(root_of(upstream), request)
        if upstream.engine not in (None, "onnx"):
            raise CapabilityMismatch(
                f"'{upstream.model}' runs on {upstream.engine}, which gives no probabilities; llamacpp does.",
                param="model",
            )
        answer = await self._openai.classify(upstream, request)
        if answer.get("scoring") == "similarity":
            tell(
                f"'{upstream.model}' classifies by similarity, which is blind to negation; a chat model that is "
                "measured at it (roundhouse calibrate --tasks classify), or one asked for by name, reads the text"
            )
        return answer

    async def moderate(self, upstream: Upstream, request: ModerationRequest) -> Json:
        """Asks a classifier by its row's labels, or a chat model of llama.cpp about each category."""
        if upstream.moderation is not None:
            return await by_classifier(self.classify, upstream, request, upstream.moderation)
        if upstream.engine != "llamacpp":
            raise CapabilityMismatch(
                f"'{upstream.model}' needs [model.moderation] labels in its row to moderate.", param="model"
            )
        tell(
            f"'{upstream.model}' is a chat model, and its scores are guesses; name a provider's moderation model, "
            "or a classifier whose row has [model.moderation] labels"
        )
        scores, used = await self._likelihoods.moderate(root_of(upstream), texts_of(request, upstream))
        usage = {"prompt_tokens": used, "total_tokens": used}
        return {**by_scores(scores, THRESHOLD), "scoring": "likelihood", "usage": usage}

    async def tokenize(self, upstream: Upstream, request: TokenizeRequest) -> Json:
        return await self._tokens.tokenize(upstream, request)

    async def detokenize(self, upstream: Upstream, request: DetokenizeRequest) -> Json:
        return await self._tokens.detokenize(upstream, request)

    async def properties(self, upstream: Upstream) -> Json:
        return await self._tokens.properties(upstream)


def _tells_stops(request: ChatRequest, upstream: Upstream) -> bool:
    """Whether the gateway stops the text: the Messages API says which sequence did, llama-server does not."""
    return isinstance(request, TranslatedChat) and bool(request.stop) and upstream.engine in (None, "llamacpp")


def _told(body: Json, upstream: Upstream) -> Json:
    """The body that makes llama-server tell of its progress with the prompt, which may take minutes."""
    return {**body, "return_progress": True} if upstream.engine in (None, "llamacpp") else dict(body)


def _head(upstream: Upstream) -> Json:
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": upstream.model,
    }
