"""Try an int8 file on calibration texts with the device's own engine, and repair it if it fails.

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
from edgeformer.device_profiles.profile import DeviceProfile
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

    def refine(self, draft: Draft) -> Variant:
        """The variant with everything in int8 if that holds the tolerance, else the scan's; with a
        share that stays in float32, the one with that."""
        variant = draft.write(frozenset())
        with self._stages.stage(f"try {variant.id}"):
            first = self._measure(variant)
        if self._fp32_share and draft.sites:
            return self._noted(
                draft, variant, keep_share(self._rank(draft, variant), self._fp32_share, first)
            )
        alone = replace(first, batch_cosine=None)  # what a batch does, no precision repairs
        tolerance = self._profile.tolerance
        if not draft.sites or judge(alone, variant.precision, tolerance).passed:
            return variant

        def measure(kept: frozenset[str]) -> Parity:
            with self._stages.stage(f"try {variant.id}, {len(kept)} in float32"):
                return self._measure(draft.write(kept))

        share = self._profile.quantization.max_fp32_share
        found = scan(self._rank(draft, variant), first, measure, tolerance, share)
        return self._noted(draft, variant, found)

    def _rank(self, draft: Draft, variant: Variant) -> list[Site]:
        with self._stages.stage(f"rank the {len(draft.sites)} sites of {variant.id}"):
            return rank_sites(
                self._prepared.module, self._prepared.examples, self._calibration, draft.sites
            )

    def _noted(self, draft: Draft, variant: Variant, found: Scan) -> Variant:
        """The variant that the scan chose, its file written, the table beside it."""
        draft.write(frozenset(site.name for site in found.kept))
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
