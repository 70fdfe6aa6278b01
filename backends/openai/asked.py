"""A call for chunks that is repeated in another form if the server refuses the first.

A server that refuses a form has done no work for it, so the repetition is no second answer: it belongs to the same
attempt, costs nothing, and is made once per row, because :class:`backends.asking.AskedForms` remembers it.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType

from backends.adapting.system import has_late_system, system_first, without_developer
from backends.asking import Form
from backends.base import Upstream
from backends.http import HttpClient, UpstreamResponse
from backends.http.errors import ErrorReader
from backends.http.mismatch import refused_among, refuses_developer, refuses_form, refuses_late_system
from backends.notices import DROPPED, note
from backends.translation import BOOKKEEPING
from catalog.errors import ContextLengthExceeded, InvalidRequest
from catalog.types import Json

HINTS = (BOOKKEEPING - {"store"}) | {"client_metadata", "prompt_cache_options", "prompt_cache_retention"}
"""Parameters without which the answer is the same, so that a server which refuses one is asked without it."""


class AskedCall:
    """Context manager of one call; entering gives the response, as ``HttpClient.open`` does.

    Entering raises what ``HttpClient.open`` raises for the last form that was tried.
    """

    __slots__ = (
        "_body",
        "_call",
        "_counts_itself",
        "_errors",
        "_http",
        "_key_header",
        "_left_out",
        "_moved",
        "_no_developer",
        "_options",
        "_path",
        "_upstream",
        "plain",
    )

    def __init__(
        self,
        http: HttpClient,
        upstream: Upstream,
        path: str,
        body: Json,
        *,
        plain: bool,
        key_header: str,
        errors: ErrorReader,
        counts_itself: bool = False,
    ) -> None:
        """``plain`` asks for a plain answer first; the attribute says how the answer was asked for in the end.

        ``counts_itself``: streams of this path report their usage without being asked to.
        """
        self.plain = plain
        self._http = http
        self._upstream = upstream
        self._path = path
        self._body = body
        self._options = body.get("stream_options")
        if self._options and upstream.engine is None:  # the gateway counts: servers other than vLLM refuse it
            self._options = {
                name: self._options[name] for name in self._options if name != "continuous_usage_stats"
            }
        self._counts_itself = counts_itself
        self._key_header = key_header
        self._moved = self._no_developer = False
        self._left_out: frozenset[str] = frozenset()
        self._errors = errors
        self._call: AbstractAsyncContextManager[UpstreamResponse]

    async def __aenter__(self) -> UpstreamResponse:
        upstream = self._upstream
        form: Form = "plain" if self.plain else "stream"
        if upstream.asked.known:
            if upstream.asked.system_first:
                self._move_system()
            if upstream.asked.no_developer:
                self._rename_developer()
            if upstream.asked.lacked:
                self._leave_out(upstream.asked.lacked)
            if form == "stream" and upstream.asked.bare:
                form = "bare"
            elif form == "plain" and upstream.asked.plain:
                upstream = _patient(upstream)
        try:
            return await self._ask(form, upstream)
        except InvalidRequest as refusal:
            other = None if upstream.ours else self._other(form, refusal)
            if other is None:
                raise
        return await self._ask_again(form, other)

    def _other(self, form: Form, refusal: InvalidRequest) -> Form | None:
        """The form to ask in after a refusal of ``form``; the same one where something else was mended for it."""
        named = refused_among(HINTS & self._body.keys(), refusal.lacks or frozenset(), refusal.message)
        if named:
            self._left_out |= named
            self._leave_out(named)
            return form
        if refuses_developer(refusal.message) and self._rename_developer():
            self._no_developer = True
            return form
        if refuses_late_system(refusal.message) and self._move_system():
            self._moved = True
            return form
        return _other(form, refusal)

    def _move_system(self) -> bool:
        """Move all system messages to the beginning; False if they stand there."""
        messages = self._body.get("messages")
        if not messages or not has_late_system([message["role"] for message in messages]):
            return False
        self._body["messages"] = system_first(messages)
        return True

    def _rename_developer(self) -> bool:
        """Give developer messages the role ``system``; False if there are none."""
        for name in ("messages", "input"):
            given = self._body.get(name)
            if isinstance(given, list) and (renamed := without_developer(given)) is not None:
                self._body[name] = renamed
                return True
        return False

    def _leave_out(self, hints: frozenset[str]) -> None:
        for name in sorted(hints & self._body.keys()):
            del self._body[name]
            note({DROPPED: name})

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._call.__aexit__(kind, error, traceback)

    async def _ask_again(self, refused: Form, form: Form) -> UpstreamResponse:
        """Ask in another form, or in a third if that is refused, too. Remember the one that is answered."""
        tried: set[Form] = {refused}
        while True:
            tried.add(form)
            try:
                response = await self._ask(form, _patient(self._upstream) if form == "plain" else self._upstream)
            except InvalidRequest as refusal:
                other = self._other(form, refusal)
                if other is None or (other in tried and other != form):
                    raise
                form = other
                continue
            if self._moved or self._no_developer or self._left_out:
                self._upstream.asked.learn_mended(
                    system_first=self._moved, no_developer=self._no_developer, lacked=self._left_out
                )
            if form != refused and (form != "bare" or not self._counts_itself):
                self._upstream.asked.learn(form, instead_of=refused)
            return response

    async def _ask(self, form: Form, upstream: Upstream) -> UpstreamResponse:
        body = self._body
        self.plain = form == "plain"
        if form == "plain":
            body.pop("stream", None)
        else:
            body["stream"] = True
        if form == "stream" and not self._counts_itself:
            body["stream_options"] = {**(self._options or {}), "include_usage": True}
        elif form != "stream":
            body.pop("stream_options", None)
        self._call = self._http.open(
            upstream, "POST", self._path, json=body, key_header=self._key_header, errors=self._errors
        )
        return await self._call.__aenter__()


def _other(form: Form, refusal: InvalidRequest) -> Form | None:
    """The form to ask in after a refusal of ``form``; None for a refusal of anything else."""
    if isinstance(refusal, ContextLengthExceeded):
        return None
    refused = refuses_form(refusal.param, refusal.message)
    if refused is None:
        return None
    if form == "plain":
        return "stream" if refused == "stream" else None
    return "bare" if form == "stream" and refused == "stream_options" else "plain"


def _patient(upstream: Upstream) -> Upstream:
    """The upstream with the whole time for its first byte: a long answer that is not streamed comes at once."""
    times = upstream.timeouts
    return replace(upstream, timeouts=replace(times, first_byte=max(times.first_byte, times.total)))
