"""A call to a board: greeting, files, requests and their answers, and what goes wrong.

with call("pi@raspberrypi.local") as connection:
    connection.ask("benchmark", {"path": Path("model.edge")}, settings, print)
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeformer.errors import UsageError
from edgeformer.remote import failures
from edgeformer.remote.link import Link
from edgeformer.remote.package import Parcel, package_files, parcel, sent_files
from edgeformer.remote.target import Target, check_python, command, parse_target

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Facts:
    """What a board says of itself.

    Attributes:
        host: its own name.
        architecture: as the kernel says.
        python, numpy: versions; numpy's is empty where it does not tell.
        folder: temporary, of this connection.
        free_bytes: on the disk of that folder, when it was made.
    """

    host: str
    architecture: str
    python: str
    numpy: str
    folder: str
    free_bytes: int


def call(
    target: str,
    python: str,
    config: str | os.PathLike[str] | None,
    folder: str | None,
    silence_seconds: float,
    tell: Tell,
) -> "Connection":
    """Call a board, see whether it will do, and send it what runs there; see ``board.connect``."""
    check_python(python)
    if config is not None and not Path(config).is_file():
        raise UsageError(f"no file {os.fspath(config)!r}", hint="--ssh-config takes ssh's config")
    where = replace(parse_target(target), config=None if config is None else os.fspath(config))
    ssh = shutil.which("ssh")
    if ssh is None:
        raise failures.no_client()
    words = command(where, python, folder, silence_seconds)
    tell(f"calling {where}")
    link = Link([ssh, *words], silence_seconds)
    try:
        connection = Connection(where, link, _greet(where, python, link))
        connection.install()
    except BaseException:
        link.close()
        raise
    return connection


def _greet(target: Target, python: str, link: Link) -> Facts:
    """The board's first words. Raises RemoteError if there are none, or it will not do."""
    message = link.receive()
    if message is None:
        raise failures.not_connected(target, python, link.status or 0, link.said)
    if "broken" in message:
        raise failures.broken(target, "temporary folder", message["errno"], message["broken"])
    hello = message.get("hello", message)
    lack = failures.not_fit(target, hello)
    if lack:
        raise lack
    return Facts(**hello)


class Connection:
    """A board that answered. A context manager; leaving it removes everything there.

    Attributes:
        target: who was called.
        facts: what the board says of itself.
    """

    def __init__(self, target: Target, link: Link, facts: Facts) -> None:
        self.target, self.facts = target, facts
        self._link = link

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; what runs on the board is killed, and its folder removed."""
        self._link.close()

    def install(self) -> None:
        """Send the package, and compile it as an installation would."""
        self._send(parcel(package_files()))
        self._order({"compile": "code"})

    def ask(
        self, verb: str, names: Mapping[str, Path], settings: Mapping[str, Any], tell: Tell
    ) -> Any:
        """Send files, run a verb on them, and give its answer.

        Args:
            verb: one of ``worker.VERBS``.
            names: arguments that are files or folders here, by name.
            settings: the other arguments, as JSON data.
            tell: called with what is being done.

        Raises:
            RemoteError: the link dropped, the board is full, or what ran there died.
            EdgeFormerError: what the verb raised there.
        """
        files = parcel(_request_files(names))
        if files.total_bytes:
            tell(f"copying {files.total_bytes / 1e6:.1f} MB to {self.target}")
        self._order({"drop": "work"})  # what a request that failed has left
        self._send(files)
        there = {key: place(names, key) for key in names}
        self._order({"run": {"verb": verb, "arguments": {**settings, **there}}})
        answer = self._hear(names, tell)
        self._order({"drop": "work"})
        return answer

    def _send(self, files: Parcel) -> None:
        if files.total_bytes > self.facts.free_bytes:
            raise failures.too_large(
                self.target, self.facts.folder, files.total_bytes, self.facts.free_bytes
            )
        for (there, here), size in zip(files.files, files.sizes, strict=True):
            self._order({"put": there, "size": size}, here)

    def _order(self, order: dict[str, Any], file: Path | None = None) -> None:
        try:
            self._link.send(order, file)
        except BrokenPipeError:
            self._hear({}, lambda what: None)

    def _hear(self, names: Mapping[str, Path], tell: Tell) -> Any:
        """The answer of the worker; raises what went wrong there."""
        outcome: dict[str, Any] = {}
        while (message := self._link.receive()) is not None:
            if "progress" in message:
                tell(message["progress"])
            elif "broken" in message:
                number = message["errno"]
                raise failures.broken(self.target, self.facts.folder, number, message["broken"])
            elif "ended" in message:
                break
            else:
                outcome = message
        else:
            raise failures.dropped(self.target, self._link.said)
        if "answer" in outcome:
            return outcome["answer"]
        if outcome.get("errno") in failures.FULL:
            number, words = outcome["errno"], outcome["failure"]
            raise failures.broken(self.target, self.facts.folder, number, words)
        if "failure" in outcome:
            words, hint = (self._as_here(outcome[k], names) for k in ("failure", "hint"))
            raise failures.as_there(outcome["kind"], f"on {self.target}: {words}", hint)
        raise failures.died(self.target, message["ended"], self._link.said)

    def _as_here(self, text: str, names: Mapping[str, Path]) -> str:
        """A message of the board as its reader needs it."""
        text = names_of_here(text, names)
        return text.replace("edgeformer doctor", f"edgeformer doctor --ssh {self.target}")


def place(names: Mapping[str, Path], key: str) -> str:
    """Where a file of a request lies, from the folder in which it runs."""
    return f"{key}/{names[key].resolve().name}"


def names_of_here(text: str, names: Mapping[str, Path]) -> str:
    """A text of the board with the paths that were sent instead of where they lie there."""
    for key, path in names.items():
        text = text.replace(place(names, key), str(path))
    return text


def _request_files(names: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """The files of a request, with the table that ``tune`` left beside the model to evaluate."""
    from edgeformer.runtime.tuned import table_path

    found = [sent_files(path, f"work/{key}") for key, path in names.items()]
    table = table_path(names["model"]) if "model" in names else None
    if table is not None and table.is_file():
        found.append(sent_files(table, "work/model"))
    return itertools.chain.from_iterable(found)
