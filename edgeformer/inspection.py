"""Look into a bundle, and prove on this machine that it is whole and answers as it should.

    verification = verify_bundle("model.edge")
    verification.passed, verification.problems

NumPy and the standard library only; reads, never writes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from edgeformer.errors import BundleError, EdgeFormerError
from edgeformer.runtime.bundle import Bundle, open_bundle
from edgeformer.runtime.engine import missing_engine
from edgeformer.runtime.golden import GoldenCase, parse_golden
from edgeformer.runtime.loading import load_bundle_tokenizer, open_checked
from edgeformer.runtime.manifest import Variant
from edgeformer.runtime.threads import available_threads


@dataclass(frozen=True)
class FileCheck:
    """Whether a file's size and SHA-256 are the manifest's; ``problem`` is empty if so."""

    name: str
    problem: str


@dataclass(frozen=True)
class AnswerCheck:
    """A variant's self-test here: ``passed``, ``failed`` or ``not installed``, and why."""

    variant: str
    state: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """What ``verify_bundle`` found.

    Attributes:
        files: every file of the manifest.
        answers: every variant, all golden cases.
        cases: how many golden cases each was tried on.
    """

    files: tuple[FileCheck, ...]
    answers: tuple[AnswerCheck, ...]
    cases: int

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for everything that is wrong."""
        found = [check.problem for check in self.files if check.problem]
        found += [f"{a.variant}: {a.reason}" for a in self.answers if a.state == "failed"]
        if all(a.state == "not installed" for a in self.answers):
            found.append("no engine of the bundle is installed here: no answer was tested")
        return tuple(found)

    @property
    def passed(self) -> bool:
        """Every file is whole, some variant was tried, and none that was tried failed."""
        return not self.problems


def verify_bundle(
    path: str | os.PathLike[str], progress: Callable[[str], None] | None = None
) -> Verification:
    """Check every file's hash, and every golden case on every variant installed here.

    Args:
        path: bundle folder or zip.
        progress: called with the name of each file and variant before it is checked.

    Raises:
        UsageError, BundleError: no bundle, or a manifest that cannot be believed.
    """
    tell = progress or (lambda name: None)
    with open_bundle(path) as bundle:
        files = tuple(_check_file(bundle, name, tell) for name in bundle.manifest.files)
        broken = {check.name for check in files if check.problem}
        needed = {name for name in (bundle.manifest.golden, bundle.manifest.tokenizer) if name}
        if broken & needed:
            reason = "not tried, because the self-test or the tokenizer is damaged"
            answers = tuple(AnswerCheck(v.id, "failed", reason) for v in bundle.manifest.variants)
            return Verification(files, answers, 0)
        cases = parse_golden(bundle.read(bundle.manifest.golden))
        checks = []
        for variant in bundle.manifest.variants:
            tell(variant.id)
            checks.append(_check_answers(bundle, variant, cases))
    return Verification(files, tuple(checks), len(cases))


def _check_file(bundle: Bundle, name: str, tell: Callable[[str], None]) -> FileCheck:
    tell(name)
    try:
        bundle.check([name])
    except BundleError as error:
        return FileCheck(name, error.message)
    return FileCheck(name, "")


def _check_answers(bundle: Bundle, variant: Variant, cases: tuple[GoldenCase, ...]) -> AnswerCheck:
    missing = missing_engine(variant.engine)
    if missing:
        return AnswerCheck(variant.id, "not installed", missing.hint)
    tokenizer = load_bundle_tokenizer(bundle)
    try:
        threads = available_threads(bundle.manifest.threads)
        open_checked(bundle, variant, threads, tokenizer, cases).close()
    except EdgeFormerError as error:
        return AnswerCheck(variant.id, "failed", error.message)
    return AnswerCheck(variant.id, "passed", "")
