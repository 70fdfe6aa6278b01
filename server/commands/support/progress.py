"""Progress of pulls on standard error: one bar at a time on a terminal, else one line per stage."""

from __future__ import annotations

from catalog.store.progress import PullEvent, Stage
from server.commands import terminal


class PullProgress:
    """Shows the progress of pulls; one line stays for each model that has come. ``of`` is how many models come."""

    def __init__(self, of: int = 1) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._of = of
        self._models: list[str] = []
        self._console = terminal.console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
            expand=True,
        )
        self._task = self._bars.add_task("", total=None, visible=False)
        self._at: tuple[str, Stage] | None = None
        self._files: dict[str | None, tuple[int, int | None]] = {}
        self._downloaded: dict[str, int] = {}

    def __enter__(self) -> PullProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, event: PullEvent) -> None:
        if event.stage is Stage.CACHED:
            return
        new = (event.model, event.stage) != self._at
        if new:
            self._at, self._files = (event.model, event.stage), {}
        if event.model not in self._models:
            self._models.append(event.model)
        self._files[event.file] = (event.done, event.total)
        done = sum(at for at, _ in self._files.values())
        if event.stage is Stage.DOWNLOADING:
            self._downloaded[event.model] = done
        if event.stage is Stage.DONE:
            self._end(event.model)
        elif event.stage is Stage.SKIPPED:
            self._bars.update(self._task, visible=False)
            self._console.print(f"{event.model}: skipped. {event.reason}", highlight=False)
        elif not self._console.is_terminal:
            if new:
                self._console.print(f"{event.model}: {event.stage.value}", highlight=False)
        else:
            self._show(event, done)

    def _show(self, event: PullEvent, done: int) -> None:
        totals = [total for _, total in self._files.values()]
        total = None if None in totals else sum(total or 0 for total in totals)
        count = f" ({len(self._models)} of {self._of})" if self._of > 1 else ""
        self._bars.update(
            self._task,
            description=f"{event.stage.value} {event.model}{count}",
            completed=done,
            total=total or None,
            visible=True,
        )

    def _end(self, model: str) -> None:
        self._bars.update(self._task, visible=False)
        size = terminal.bytes_of(self._downloaded.get(model))
        self._console.print(f"{model}: done{f', {size} downloaded' if size else ''}", highlight=False)
