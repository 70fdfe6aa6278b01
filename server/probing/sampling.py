"""Compares a share of the answers of ``auto`` with those of the runner-up, after they were sent.

The comparisons are made one after another, in the background. Only plain texts are compared, and nothing of a
request whose content may not go further: one that must stay local, one with ``store: false``, one whose key, tags
or exclusions do not allow the judge, and none where ``storage.store`` is "never".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Any

import structlog

from backends.adapting.efforts import is_silent_on_effort
from backends.streams.assemble import ChatAssembler
from backends.wire.chat import ChatRequest, TranslatedChat
from catalog.errors import RoundhouseError
from catalog.model import Capability
from routing.calling.answer import Answer, WatchedAnswer
from routing.calling.attempt import Attempt
from routing.calling.job import Job
from routing.facts import Facts, Mode
from routing.plan import Candidate
from routing.reading.intent import is_auto
from routing.settings import JudgeSettings
from server import jobs
from server.callers import Caller
from server.probing.comparing import LONGEST, compare, question_about
from server.probing.judge import judge_of, why_no_judge
from server.probing.prober import Prober, Purse, PurseEmpty
from server.runtime import Runtime

PAYER = Caller(":judge")
"""The caller that comparisons are booked for; no key has such an id."""
_SHORT, _TIMES_LONGER = 2000, 3
"""Characters, and times the length of the answer given, that the runner-up's is taken to be longer at least."""
MOST_WAITING = 16
"""Answers that wait to be compared; others are left out meanwhile."""
_NOT_COMPARED = frozenset(
    {
        Capability.TOOLS,
        Capability.JSON_SCHEMA,
        Capability.VISION,
        Capability.VIDEO_INPUT,
        Capability.AUDIO_INPUT,
        Capability.DOCUMENTS,
        Capability.WEB_SEARCH,
    }
)
"""Features of requests whose answers are more than a text, or are checked by their form."""
_NOT_ASKED_AGAIN = frozenset(
    {"model", "store", "metadata", "stream", "stream_options", "user", "routing", "timings"}
)
_KINDS = (ChatRequest, TranslatedChat)


@dataclass(frozen=True, slots=True)
class Sample:
    """An answered request that is to be compared: its facts within the limits of its key, and its texts."""

    facts: Facts
    request: ChatRequest
    model: str
    answer: str


class Sampler:
    """Takes samples of answers, and compares them while :meth:`run` runs."""

    def __init__(self, runtime: Runtime, settings: JudgeSettings, dice: Random | None = None) -> None:
        self._runtime = runtime
        self._settings = settings
        self._dice = dice or Random()  # noqa: S311 - a sample, not a secret
        self._waiting: asyncio.Queue[Sample] = asyncio.Queue(MOST_WAITING)
        self._comparing = False
        self._told_on = ""
        self._log = structlog.get_logger("server.judge")

    @property
    def busy(self) -> bool:
        """Whether a sample waits or is compared."""
        return self._comparing or not self._waiting.empty()

    def configure(self, settings: JudgeSettings) -> None:
        """Use other settings from now on."""
        self._settings = settings
        self._warn_without_judge()

    def watched(
        self, job: Job[Any], opening: AbstractAsyncContextManager[Answer[Any]]
    ) -> AbstractAsyncContextManager[Answer[Any]]:
        """The same opening, or one whose answer is taken as a sample at its end."""
        settings = self._settings
        if settings.model is None or not self._comparable(job) or self._dice.random() >= settings.share:
            return opening
        return _Watched(opening, self._take)

    def _comparable(self, job: Job[Any]) -> bool:
        facts = job.facts
        local = facts.intent.local_only or facts.intent.mode is Mode.LOCAL
        return (
            facts.capability is Capability.CHAT
            and is_auto(facts.requested)
            and not (local or facts.probe or facts.tokens_only or facts.hosted or job.further)
            and facts.choices == 1
            and facts.features.isdisjoint(_NOT_COMPARED)
            and self._runtime.storage.settings.store != "never"
            and _may_be_kept(job.request)
        )

    def _take(self, job: Job[Any], model: str, answer: str) -> None:
        if answer and len(answer) <= LONGEST and not self._waiting.full():
            self._waiting.put_nowait(Sample(job.facts, job.request, model, answer))  # type: ignore[arg-type]

    async def run(self) -> None:
        """Compare samples until cancelled."""
        self._warn_without_judge()
        while True:
            sample = await self._waiting.get()
            self._comparing = True
            try:
                await self.compare(sample)
            except PurseEmpty as error:
                self._tell_once_a_day(error)
            except RoundhouseError as error:
                self._log.info("answer not compared", model=sample.model, error=error.code)
            except Exception as error:  # the boundary of a comparison: it must not end those after it
                self._log.error("comparison failed", error=type(error).__name__, exc_info=True)
            finally:
                self._comparing = False

    def _warn_without_judge(self) -> None:
        reason = why_no_judge(self._runtime, self._settings)
        if reason is not None:
            self._log.warning("no answer is compared until routing.judge.model can be asked", reason=reason)

    def _tell_once_a_day(self, error: PurseEmpty) -> None:
        today = self._today()
        log = self._log.info if self._told_on == today else self._log.warning
        self._told_on = today
        log("answer not compared: routing.judge.daily_dollars or a cap does not pay for it", reason=error.message)

    def _today(self) -> str:
        return datetime.fromtimestamp(self._runtime.storage.now(), UTC).date().isoformat()

    async def compare(self, sample: Sample) -> None:
        """Ask the runner-up, have the judge compare, and learn from its verdict.

        Raises PurseEmpty when the day's dollars are used up, and the errors of the calls.
        """
        settings, runtime = self._settings, self._runtime
        judge = judge_of(runtime, settings)
        other = None if judge is None else self._runner_up(sample)
        if judge is None or other is None or judge in (other.model.id, sample.model):
            return
        purse = Purse(settings.daily_dollars - await self._spent_today())
        prober = Prober(runtime, PAYER, purse, limits=sample.facts)
        verdicts = self._set_aside(prober, judge, sample)  # before a call is paid for
        body = _again(sample.request, other)
        job = jobs.chat_job(body, prober.origin())
        intent = replace(job.facts.intent, max_cost=self._left(purse) - verdicts)
        facts = replace(job.facts, task=sample.facts.task, complexity=sample.facts.complexity, intent=intent)
        asked = await prober.ask(replace(job, facts=facts), ChatAssembler)
        second = str(asked.value["choices"][0]["message"].get("content") or "")
        if not second:
            return
        verdict = await compare(prober, judge, conversation(sample.request), sample.answer, second)
        if verdict is None:
            return
        confidence = settings.confidence * (1.0 if verdict.agrees else 0.5)
        runtime.learner.report_comparison(sample.facts, sample.model, other.model.id, verdict.share, confidence)
        self._log.info(
            "answers compared",
            model=sample.model,
            other=other.model.id,
            task=sample.facts.task.value,
            share=verdict.share,
        )

    def _set_aside(self, prober: Prober, judge: str, sample: Sample) -> float:
        """The dollars that the judge may cost in both orders. Raises as :meth:`Prober.check`.

        The runner-up's answer, which is not known yet, is taken to be a few times as long as the one that it is
        compared with.
        """
        other = sample.answer + "-" * min(LONGEST, max(_SHORT, (_TIMES_LONGER - 1) * len(sample.answer)))
        facts = question_about(prober, judge, conversation(sample.request), sample.answer, other).facts
        left = self._left(prober.purse)
        prober.check(facts, left)
        both = 2 * prober.most(facts)
        if both > left:
            raise PurseEmpty(f"'{judge}' may cost ${both:.6f} in both orders, and ${left:.6f} is left.")
        return both

    def _left(self, purse: Purse) -> float:
        """The dollars that a comparison may cost: those of the day, and what the caps on spending leave."""
        capped = self._runtime.spend.left(PAYER.id)
        return purse.left if capped is None else min(purse.left, capped.dollars)

    def _runner_up(self, sample: Sample) -> Candidate | None:
        """The best model beside the one that answered, for the same request."""
        plan = self._runtime.dispatcher.explain(sample.facts)
        return next((each for each in plan.candidates if each.model.id != sample.model), None)

    async def _spent_today(self) -> float:
        """The dollars of today's comparisons, of all gateways that share the state."""
        day = self._today()
        rows = await self._runtime.spend.usage(day, day)
        return sum(row.cost for row in rows if row.key == PAYER.id) / 1e9


def _may_be_kept(request: Any) -> bool:
    """Whether the caller did not say ``store: false``, in the language of its own request."""
    if not isinstance(request, _KINDS) or request.store is False:
        return False
    original = request.original if isinstance(request, TranslatedChat) else None
    return original is None or getattr(original.request, "store", None) is not False


def _again(request: ChatRequest, other: Candidate) -> ChatRequest:
    """The same request to another model, without what concerns only the first answer.

    It names the reasoning effort that the router would have asked for: a model that is named is left to its own.
    """
    kept = {name: value for name, value in request.to_wire().items() if name not in _NOT_ASKED_AGAIN}
    if other.effort is not None and is_silent_on_effort(request):
        kept["reasoning_effort"] = other.effort
    return ChatRequest.model_validate({**kept, "model": other.model.id})


def conversation(request: ChatRequest) -> str:
    """The messages of a request as one text, each after its role."""
    return "\n\n".join(f"{message.role}: {text_of(message.content)}" for message in request.messages)


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str) or content is None:
        return content or ""
    return "\n".join(part.text for part in content if part.text)


class _Watched(AbstractAsyncContextManager[Answer[Any]]):
    """Opens an answer, and gives its text to ``take`` when it has ended well."""

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Answer[Any]],
        take: Callable[[Job[Any], str, str], None],
    ) -> None:
        self._opening = opening
        self._take = take
        self._answer: _CollectedAnswer | None = None

    async def __aenter__(self) -> Answer[Any]:
        self._answer = _CollectedAnswer(await self._opening.__aenter__())
        return self._answer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        answer = self._answer
        assert answer is not None
        if error is None and answer.finished:
            self._take(answer.attempt.job, answer.model.id, answer.text)
        return await self._opening.__aexit__(kind, error, traceback)


class _CollectedAnswer(WatchedAnswer[Any]):
    """An answer whose text is collected as it passes; one that begins anew is collected anew."""

    def __init__(self, answer: Answer[Any]) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self.finished = False
        super().__init__(answer, self._collect)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def adopt(self, attempt: Attempt[Any], reason: str) -> None:
        self._pieces, self._length, self.finished = [], 0, False
        super().adopt(attempt, reason)

    def _collect(self, item: Any) -> None:
        for choice in item.get("choices") or ():
            text = (choice.get("delta") or {}).get("content")
            if text and self._length <= LONGEST:
                self._pieces.append(text)
                self._length += len(text)
            if choice.get("finish_reason") == "stop":
                self.finished = True
