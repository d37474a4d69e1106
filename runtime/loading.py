"""``load``: from a path to a Model whose answers were just checked on this machine."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeformer.errors import EdgeFormerError, EngineError, UsageError
from edgeformer.runtime.bundle import Bundle, open_bundle
from edgeformer.runtime.dispatch import Dispatcher
from edgeformer.runtime.engine import (
    ENGINES,
    Engine,
    import_engine,
    missing_engine,
    open_engine,
)
from edgeformer.runtime.golden import (
    GoldenCase,
    check_exits,
    check_golden,
    parse_golden,
    quick_cases,
)
from edgeformer.runtime.manifest import Manifest, Variant
from edgeformer.runtime.model import Model
from edgeformer.runtime.threads import available_threads
from edgeformer.runtime.tokenizer import Tokenizer, load_tokenizer
from edgeformer.runtime.tuned import Choice, read_table, table_path


def load(
    path: str | os.PathLike[str],
    engine: str = "auto",
    threads: int | None = None,
    tuned: str | os.PathLike[str] | None = "auto",
) -> Model:
    """Open a bundle: check its hashes, choose an engine, run the self-test.

    Args:
        path: bundle folder or zip.
        engine: ``auto`` takes the tuned table's choice, else the profile's order, and skips what is
            not installed or fails the self-test (``model.skipped`` says why); an engine's name, or
            a variant's id such as ``onnx-fp32``, takes just that.
        threads: most threads to use; None for the profile's number. The affinity mask and the
            cgroup's quota lower both.
        tuned: table that ``edgeformer tune`` wrote, used with ``auto`` only; ``auto`` looks for it
            beside the bundle, None looks for none. One that is damaged, or made for another
            bundle, machine or engine version, is ignored (``model.notices`` says why).

    Raises:
        UsageError: no such path, engine or thread count.
        BundleError: damaged, altered, unsafe or from a newer schema.
        EngineError: no engine of the bundle works here; the message names each reason.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    bundle = open_bundle(path)
    try:
        beside = table_path(path) if tuned == "auto" else tuned
        opened = open_dispatcher(bundle, engine, threads, beside)
    except BaseException:
        bundle.close()
        raise
    return Model(bundle, opened.dispatcher, opened.tokenizer, opened.skipped, opened.notices)


@dataclass(frozen=True)
class Opened:
    """What ``open_dispatcher`` opened.

    Attributes:
        dispatcher: its main engine open and self-tested.
        tokenizer: see ``load_bundle_tokenizer``.
        skipped: (variant id, reason) of those that were tried before.
        notices: why a tuned table was ignored.
    """

    dispatcher: Dispatcher
    tokenizer: Tokenizer | EdgeFormerError | None
    skipped: tuple[tuple[str, str], ...]
    notices: tuple[str, ...]


def open_dispatcher(
    bundle: Bundle, engine: str, threads: int | None, tuned: str | os.PathLike[str] | None
) -> Opened:
    """The engines of an open bundle; arguments as in ``load``, ``tuned`` a path or None."""
    manifest = bundle.manifest
    count = available_threads(threads or manifest.threads)
    candidates = [Choice(variant.id, count) for variant in _candidates(manifest, engine)]
    table, notice = None, ""
    if engine == "auto" and tuned is not None:
        table, notice = read_table(Path(tuned), manifest, count)
    if table is not None:
        rest = [choice for choice in candidates if choice.variant != table.main.variant]
        candidates = [table.main, *rest]
    model_files = check_in_background(bundle, _files(manifest.variant(candidates[0].variant)))
    bundle.check([name for name in (manifest.golden, manifest.tokenizer) if name])
    cases = quick_cases(parse_golden(bundle.read(manifest.golden)))
    tokenizer = load_bundle_tokenizer(bundle)
    shares = table is not None and len(table.choices) > 1

    def open_one(choice: Choice, check: Callable[[], None] | None = None) -> Engine:
        variant = manifest.variant(choice.variant)
        return open_checked(bundle, variant, choice.threads, tokenizer, cases, check, shares)

    place, first, skipped = _first_working(bundle, candidates, open_one, model_files)
    if place > 0:  # the table's main variant does not work here: the rest is not believed
        table = None
    others = candidates[place + 1 :]
    chosen = candidates[place]

    def check_segments(engine: Engine, variant: Variant) -> None:
        check_exits(engine, variant, cases)

    dispatcher = Dispatcher(
        manifest.variants, chosen, first, others, table, open_one, check_segments
    )
    return Opened(dispatcher, tokenizer, skipped, (notice,) if notice else ())


def _first_working(
    bundle: Bundle,
    candidates: list[Choice],
    open_one: Callable[[Choice, Callable[[], None] | None], Engine],
    check: Callable[[], None],
) -> tuple[int, Engine, tuple[tuple[str, str], ...]]:
    """Place of the first candidate that opens, its engine, and why those before it did not.

    ``check`` waits for the check of the first candidate's files.
    """
    skipped: list[tuple[str, str]] = []
    for place, choice in enumerate(candidates):
        try:
            return place, open_one(choice, None if place else check), tuple(skipped)
        except EngineError as error:
            if len(candidates) == 1:
                raise
            skipped.append((choice.variant, str(error)))
    reasons = "\n".join(f"  {name}: {reason}" for name, reason in skipped)
    raise EngineError(
        f"no engine of {bundle.path} works here:\n{reasons}",
        hint="`edgeformer doctor` tests each engine and says what to install",
    )


def open_checked(
    bundle: Bundle,
    variant: Variant,
    threads: int,
    tokenizer: Tokenizer | EdgeFormerError | None,
    cases: tuple[GoldenCase, ...],
    check: Callable[[], None] | None = None,
    shares_process: bool = False,
) -> Engine:
    """Open one variant after checking its files, and run ``cases`` on it.

    ``check`` waits for a check of its files that was started before; None checks them now.
    ``shares_process`` says that another engine runs in this process too.

    Raises:
        BundleError: a file that is not what the manifest says.
        EngineError: not installed, refused here, or wrong answers.
    """
    missing = missing_engine(variant.engine)
    if missing:
        raise missing
    import_engine(variant.engine)
    if check is None:
        bundle.check(_files(variant))
    else:
        check()
    engine = open_engine(bundle, variant, threads, shares_process)
    try:
        usable = None if isinstance(tokenizer, EdgeFormerError) else tokenizer
        check_golden(engine, variant, usable, cases, bundle.manifest.model.max_length)
    except BaseException:
        engine.close()
        raise
    return engine


def check_in_background(bundle: Bundle, names: Sequence[str]) -> Callable[[], None]:
    """Start ``bundle.check(names)`` on a thread: hashing needs neither the GIL nor what is read
    meanwhile. The function returned waits for it, and raises what it raised."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            bundle.check(names)
        except BaseException as error:
            failures.append(error)

    def wait() -> None:
        thread.join()
        if failures:
            raise failures[0]

    thread = threading.Thread(target=work, name="edgeformer-check")
    thread.start()
    return wait


def _files(variant: Variant) -> list[str]:
    return list(variant.files)


def load_bundle_tokenizer(bundle: Bundle) -> Tokenizer | EdgeFormerError | None:
    """The checked bundle's tokenizer, None for a plain module.

    An EngineError (a package is missing) is returned, not raised: such a bundle still serves
    ``run(input_ids=...)``.
    """
    if not bundle.manifest.tokenizer:
        return None
    try:
        return load_tokenizer(bundle.read(bundle.manifest.tokenizer))
    except EngineError as error:
        return error


def _candidates(manifest: Manifest, engine: str) -> list[Variant]:
    if engine == "auto":
        return sorted(manifest.variants, key=lambda v: manifest.engines.index(v.engine))
    chosen = [v for v in manifest.variants if engine in (v.engine, v.id)]
    if not chosen:
        known = ["auto", *dict.fromkeys(v.engine for v in manifest.variants)]
        known += [v.id for v in manifest.variants]
        why = "was not converted for" if engine in ENGINES else "has no engine or variant"
        raise UsageError(f"the bundle {why} {engine!r}", hint=f"choose one of: {', '.join(known)}")
    return chosen
