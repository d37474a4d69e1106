"""Try an int8 file on calibration texts with the device's own engine, and repair it if it fails;
once more if it misses the proof all the same.

The bridge between the converters, which write a file, and ``sensitivity``, which chooses what stays
in float32. Writes into the staging folder: a manifest for each try, and sensitivity.json beside a
file that had to be scanned.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path

from edgeformer.converters.bundle_writer import file_records, write_manifest
from edgeformer.converters.prepared import PreparedModel
from edgeformer.converters.sensitivity import Draft, Scan, Site, keep_share, rank_sites, scan
from edgeformer.converters.stages import Stages
from edgeformer.converters.verification import Reference, judge, open_to_verify, verify
from edgeformer.device_profiles.profile import DeviceProfile, Tolerance
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.manifest import Manifest, Parity, Variant

TABLE = "sensitivity.json"


class Refiner:
    """Refines the int8 variants of one conversion.

    Attributes:
        scans: what was found, by variant's id, for those that needed it.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        calibration: Reference,
        profile: DeviceProfile,
        folder: Path,
        stages: Stages,
        fp32_share: float = 0.0,
    ) -> None:
        """Takes PyTorch's answers to the calibration texts, the staging folder, and the share of
        the weights that stays in float32 in any case."""
        self._prepared, self._calibration, self._profile = prepared, calibration, profile
        self._folder, self._stages = folder, stages
        self._fp32_share = fp32_share
        self.scans: dict[str, Scan] = {}
        self._tried: dict[str, tuple[Draft, Parity]] = {}  # with everything in int8

    def refine(self, draft: Draft) -> Variant:
        """The variant with everything in int8 if that holds the tolerance, else the scan's; with a
        share that stays in float32, the one with that."""
        variant = draft.write(frozenset())
        with self._stages.stage(f"try {variant.id}"):
            first = self._measure(variant)
        if self._fp32_share and draft.sites:
            ranked = self._rank(draft, variant)
            return self._noted(draft, keep_share(ranked, self._fp32_share, first))
        if draft.sites:
            self._tried[variant.id] = draft, first
        tolerance = self._profile.tolerance
        if not draft.sites or _passes(first, tolerance):
            return variant

        def measure(kept: frozenset[str]) -> Parity:
            with self._stages.stage(f"try {variant.id}, {len(kept)} in float32"):
                return self._measure(draft.write(kept))

        share = self._profile.quantization.max_fp32_share
        found = scan(self._rank(draft, variant), first, measure, tolerance, share)
        return self._noted(draft, found)

    def repair(self, variant: Variant) -> Variant | None:
        """A variant that missed the proof, with as much in float32 as the profile allows.

        The proof's texts choose nothing but that this is tried, once. None if the file is so
        already, has nothing that could stay in float32, or fails by what no precision repairs.
        """
        missed = variant.parity
        if missed is None or variant.id not in self._tried:
            return None
        if _passes(missed, self._profile.tolerance):
            return None
        draft, first = self._tried.pop(variant.id)
        before = self.scans.get(variant.id)
        if before and not before.passed:  # that much was tried, and too little
            return None
        ranked = before.sites if before else self._rank(draft, variant)
        found = keep_share(ranked, self._profile.quantization.max_fp32_share, first)
        if not found.kept or (before and found.kept == before.kept):
            return None
        made = self._noted(draft, found)
        return replace(made, note=f"{made.note}; with less it missed the proof")

    def _rank(self, draft: Draft, variant: Variant) -> list[Site]:
        with self._stages.stage(f"rank the {len(draft.sites)} sites of {variant.id}"):
            return rank_sites(
                self._prepared.module, self._prepared.examples, self._calibration, draft.sites
            )

    def _noted(self, draft: Draft, found: Scan) -> Variant:
        """The variant that the scan chose, its file written, the table beside it."""
        variant = draft.write(frozenset(site.name for site in found.kept))
        self.scans[variant.id] = found
        table = json.dumps(asdict(found), indent=1) + "\n"
        (self._folder / variant.id / TABLE).write_text(table, encoding="utf-8")
        return replace(variant, note="; ".join(filter(None, (variant.note, found.sentence()))))

    def _measure(self, variant: Variant) -> Parity:
        manifest = Manifest(
            model=self._prepared.card,
            profile=json.loads(json.dumps(asdict(self._profile))),
            engines=(variant.engine,),
            threads=1,
            tokenizer="",
            golden="golden.json",
            variants=(variant,),
            files=file_records(self._folder),
        )
        write_manifest(self._folder, manifest)
        with open_bundle(self._folder) as bundle:
            engine = open_to_verify(bundle, variant)
            try:
                task, tolerance = self._prepared.card.task, self._profile.tolerance
                return verify(engine, variant, self._calibration, tolerance, task)
            finally:
                engine.close()


def _passes(parity: Parity, tolerance: Tolerance) -> bool:
    """True if int8 holds the tolerance, but for what a batch does, which no precision repairs."""
    return judge(replace(parity, batch_cosine=None), "int8", tolerance).passed
