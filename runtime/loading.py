"""``load``: from a path to a Model whose answers were just checked on this machine."""

import os
import threading
from collections.abc import Callable, Sequence

from edgeformer.errors import EdgeFormerError, EngineError, UsageError
from edgeformer.runtime.bundle import Bundle, open_bundle
from edgeformer.runtime.engine import (
    ENGINES,
    Engine,
    import_engine,
    missing_engine,
    open_engine,
)
from edgeformer.runtime.golden import GoldenCase, check_golden, parse_golden
from edgeformer.runtime.manifest import Manifest, Variant
from edgeformer.runtime.model import Model
from edgeformer.runtime.threads import available_threads
from edgeformer.runtime.tokenizer import Tokenizer, load_tokenizer


def load(path: str | os.PathLike[str], engine: str = "auto", threads: int | None = None) -> Model:
    """Open a bundle: check its hashes, choose an engine, run the self-test.

    Args:
        path: bundle folder or zip.
        engine: ``auto`` takes the profile's order and skips what is not installed or fails the
            self-test (``model.skipped`` says why); an engine's name, or a variant's id such as
            ``onnx-fp32``, takes just that.
        threads: most threads to use; None for the profile's number. The affinity mask and the
            cgroup's quota lower both.

    Raises:
        UsageError: no such path, engine or thread count.
        BundleError: damaged, altered, unsafe or from a newer schema.
        EngineError: no engine of the bundle works here; the message names each reason.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    bundle = open_bundle(path)
    try:
        return _choose(bundle, engine, threads)
    except BaseException:
        bundle.close()
        raise


def _choose(bundle: Bundle, engine: str, threads: int | None) -> Model:
    manifest = bundle.manifest
    candidates = _candidates(manifest, engine)
    count = available_threads(threads or manifest.threads)
    model_files = check_in_background(bundle, _files(candidates[0]))
    bundle.check([name for name in (manifest.golden, manifest.tokenizer) if name])
    cases = parse_golden(bundle.read(manifest.golden))
    tokenizer = load_bundle_tokenizer(bundle)
    skipped: list[tuple[str, str]] = []
    for variant in candidates:
        try:
            check = model_files if variant is candidates[0] else None
            opened = open_checked(bundle, variant, count, tokenizer, cases[:1], check)
        except EngineError as error:
            if len(candidates) == 1:
                raise
            skipped.append((variant.id, str(error)))
            continue
        return Model(bundle, variant, opened, tokenizer, tuple(skipped))
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
) -> Engine:
    """Open one variant after checking its files, and run ``cases`` on it.

    ``check`` waits for a check of its files that was started before; None checks them now.

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
    engine = open_engine(bundle, variant, threads)
    try:
        usable = None if isinstance(tokenizer, EdgeFormerError) else tokenizer
        check_golden(engine, variant, usable, cases)
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
    return sorted({program.file for program in variant.programs.values()})


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
