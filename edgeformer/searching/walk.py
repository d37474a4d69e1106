"""The walk of a search from candidate to candidate.

It makes each, has it judged, and keeps on disk only the bundle that would be taken so far.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeformer.data import Text, read_texts
from edgeformer.device_profiles.profile import DeviceProfile
from edgeformer.errors import EngineError, InputError, ModelError, ToleranceError, TrainingError
from edgeformer.evaluation.data import Cases
from edgeformer.searching.candidates import Candidate, Sizes, cuts, exits, mixtures, precisions
from edgeformer.searching.making import make_bundle
from edgeformer.searching.measuring import Judge, Measure, Tell, usual_tokens
from edgeformer.searching.request import Request
from edgeformer.searching.trials import Trial, choose, settled

if TYPE_CHECKING:
    from edgeformer.report.schema import Report


@dataclass(frozen=True)
class Start:
    """What a walk starts from.

    Attributes:
        request: what the user asks for.
        profile: the device.
        cases: the data; None without.
        sizes: of the model; or, where no smaller models are tried, why not.
    """

    request: Request
    profile: DeviceProfile
    cases: Cases | None
    sizes: Sizes | str


class Walk:
    """From candidate to candidate.

    Attributes:
        trials: made so far.
        original: name and value of the main figure of the model that was given; None without data.
        tokens: of the text that is timed; None for the benchmark's own.
        machine: the CPU that was measured, and of whom; ``architecture``: its own.
    """

    def __init__(self, start: Start, folder: Path, measure: Measure, tell: Tell) -> None:
        """Takes an empty folder for everything temporary, and what benchmarks a bundle."""
        self._start, self._request = start, start.request
        self._folder, self._measure, self._tell = folder, measure, tell
        answers = folder / "original.jsonl"
        request = self._request
        self._judge = Judge(
            request.data, request.columns, request.labels_map, answers, self._measured
        )
        self.trials: list[Trial] = []
        self.original: tuple[str, float] | None = None
        self.tokens: int | None = None
        self.machine = self.architecture = ""

    def run(self) -> None:
        """Try candidates until the search is settled, or nothing is left."""
        if self._request.data is not None:
            figures = self._judge.evaluate(self._request.folder, self._tell, original=True)
            self.original = figures.metrics[0].name, figures.metrics[0].value
        for candidate in self._candidates():
            self.trials.append(self._try(candidate))
            self._keep_the_best()
            if settled(self.trials, self._request.budget):
                return

    def _candidates(self) -> Iterator[Candidate]:
        request, budget = self._request, self._request.budget
        engines = request.engines or self._start.profile.runtime.engines
        yield from precisions(self._start.profile, engines, request.precisions)
        yield from mixtures(self.trials, budget, self._start.profile)
        if request.exits is not None:
            yield from exits(self.trials, budget)
        if isinstance(self._start.sizes, Sizes):
            yield from cuts(self.trials, budget, self._start.sizes)

    def _try(self, candidate: Candidate) -> Trial:
        bundle = self.bundle(len(self.trials))

        def tell(what: str) -> None:
            self._tell(f"{candidate.name}: {what}")

        try:
            make_bundle(self._request, candidate, bundle, tell)
            trial = Trial(candidate, note=self._read(bundle))
            return self._judge.judge(trial, bundle, self.tokens, tell)
        except (ModelError, EngineError, InputError, ToleranceError, TrainingError) as error:
            return Trial(candidate, problem=error.message)

    def _read(self, bundle: Path) -> str:
        """What is to be known of the variant; also finds out, once, how long the texts are."""
        from edgeformer.converters.exit_calibration import exit_sentence
        from edgeformer.runtime.bundle import open_bundle

        with open_bundle(bundle) as opened:
            if self.tokens is None:
                self.tokens = usual_tokens(opened, self._texts())
            variant = opened.manifest.variants[0]
        if variant.exits is None or not variant.exits.curve:
            return variant.note
        return "; ".join(part for part in (variant.note, exit_sentence(variant.exits)) if part)

    def _texts(self) -> tuple[Text, ...]:
        """Those whose length is the usual one; none for the benchmark's own length."""
        if self._start.cases is not None:
            return tuple((case.text, case.pair) for case in self._start.cases.rows)
        calibration = self._request.calibration
        return () if calibration is None else read_texts(calibration)

    def _measured(self, bundle: Path, *, tokens: int | None) -> "Report":
        report = self._measure(bundle, tokens=tokens)
        self.machine = report.machine.cpu_model + (f" of {report.host}" if report.host else "")
        self.architecture = report.machine.architecture
        return report

    def _keep_the_best(self) -> None:
        best = choose(self.trials, self._request.budget)
        for place in range(len(self.trials)):
            if place != best:
                shutil.rmtree(self.bundle(place), ignore_errors=True)
            shutil.rmtree(self.bundle(place).with_suffix(".models"), ignore_errors=True)

    def bundle(self, place: int) -> Path:
        """Where the bundle of a trial lies, or would."""
        return self._folder / f"{place}.edge"
