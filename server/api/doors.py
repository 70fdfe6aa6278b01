"""The endpoints whose whole answers can be asked for without HTTP, by path: a line of a batch knocks here."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from backends.streams.assemble import ChatAssembler, CompletionAssembler
from backends.wire.chat import ChatRequest
from backends.wire.completions import CompletionRequest
from backends.wire.embeddings import EmbeddingRequest
from backends.wire.images import ImageEditBody, ImageRequest
from backends.wire.messages import MessagesRequest
from backends.wire.moderation.request import ModerationRequest
from backends.wire.rerank import RerankRequest
from backends.wire.responses import ResponsesRequest
from catalog.types import Json
from server import jobs
from server.answers.sound import with_sound, with_texts
from server.answers.whole import Question, SingleItem
from server.api.inference.completions import FunctionCallAssembler
from server.api.inference.image_edits import EDITED, edit_of
from server.api.inference.images import Pictures
from server.api.inference.rerank import shaped
from server.batches.lines import Door
from server.callers import Origin
from server.history.chats import ChatKeeper, without_store
from server.history.files import names_objects, with_uploads
from server.runtime import Runtime
from server.wires.translation import TranslatedAssembler


async def chat(body: ChatRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """A chat completion; it is kept with ``store: true``, or says that it is not."""
    stored = body.store is True
    keeps = stored and runtime.storage.settings.store != "never"
    if stored and not keeps:
        body = without_store(body)
    body = with_texts(body)
    job = jobs.chat_job(body, origin)
    of_functions = job.request is not body and not body.tools
    if names_objects(body):
        job = await with_uploads(job, body, origin, runtime)
    assembler = FunctionCallAssembler if of_functions else ChatAssembler
    job, opens = with_sound(runtime, job, origin.caller, origin)
    if not keeps:
        shape = (lambda answer: {**answer, "store": False}) if stored else (lambda it: it)
        return Question(job, assembler, shape, opens)
    keeper = ChatKeeper(runtime.storage, origin.caller, job.trace, body)
    return Question(replace(job, kept=jobs.KEPT), assembler, opens=opens, keep=keeper.keep)


async def completion(body: CompletionRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """A completion of a prompt."""
    del runtime
    return Question(jobs.completion_job(body, origin), CompletionAssembler)


async def embedding(body: EmbeddingRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """Embeddings of texts."""
    del runtime
    return Question(jobs.embedding_job(body, origin), SingleItem)


async def moderation(body: ModerationRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """A judgement of content."""
    del runtime
    return Question(jobs.moderation_job(body, origin), SingleItem)


async def image(body: ImageRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """Pictures; a ``url`` is a data URL, as the address of a picture might expire before the batch ends."""
    del runtime
    return Question(jobs.image_job(body, origin), lambda: Pictures(body, data_urls=True))


async def image_edit(body: ImageEditBody, origin: Origin, runtime: Runtime) -> Question[Json]:
    """Changed pictures, given as data URLs or as files of the caller's."""
    edit = await edit_of(body, runtime, origin.caller)
    return Question(jobs.image_edit_job(edit, origin), lambda: Pictures(edit, EDITED, data_urls=True))


async def rerank(body: RerankRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """Documents in the order of their relevance."""
    del runtime
    job = jobs.rerank_job(body, origin)
    return Question(job, SingleItem, lambda answer: shaped(answer, body, job.trace))


async def response(body: ResponsesRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """A response of OpenAI's Responses API.

    It is kept with ``store: true`` alone: the answers of a batch are in its file, and would displace others.
    """
    from server.history.turns import turn_of
    from server.wires.responses import ResponseStream

    if body.store is None:
        body = body.model_copy(update={"store": False})
    turn = await turn_of(runtime, body, origin.caller, origin.trace)
    return Question(
        await turn.job(origin),
        lambda: TranslatedAssembler(turn.translation(), whole=ResponseStream.response),
        opens=turn.opens(origin),
        keep=turn.keep,
    )


async def message(body: MessagesRequest, origin: Origin, runtime: Runtime) -> Question[Json]:
    """A message of Anthropic's Messages API."""
    from server.history.messages import message_chat
    from server.wires.messages import MessageStream, stream_of

    job = jobs.chat_job(await message_chat(body, origin, runtime), origin)

    def assembler() -> TranslatedAssembler[MessageStream]:
        stream = stream_of(body, trace=job.trace, prompt_tokens=job.facts.prompt_tokens)
        return TranslatedAssembler(stream, whole=MessageStream.message)

    return Question(job, assembler)


DOORS = MappingProxyType(
    {
        "/v1/chat/completions": Door(ChatRequest, chat),
        "/v1/responses": Door(ResponsesRequest, response),
        "/v1/completions": Door(CompletionRequest, completion),
        "/v1/embeddings": Door(EmbeddingRequest, embedding),
        "/v1/moderations": Door(ModerationRequest, moderation),
        "/v1/images/generations": Door(ImageRequest, image),
        "/v1/images/edits": Door(ImageEditBody, image_edit),
        "/v1/rerank": Door(RerankRequest, rerank),
        "/v1/messages": Door(MessagesRequest, message),
    }
)
