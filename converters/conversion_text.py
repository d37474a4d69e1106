"""What a conversion tells the user: why it failed, what to try, what to know of the bundle."""

from collections.abc import Mapping, Sequence

from edgeformer.converters.sensitivity import Scan
from edgeformer.runtime.manifest import Manifest, Parity, Variant

FEW_TEXTS = 400  # that prove; of fewer, one to four that were undecided before refuse a bundle


def failure_text(failed: Sequence[Variant], scans: Mapping[str, Scan]) -> str:
    """Which tolerance each variant missed, and how near a scan came."""
    lines = ["the converted answers differ too much from the model's; no bundle was written"]
    for variant in failed:
        assert variant.parity is not None
        lines += [f"  {variant.id}: {sentence}" for sentence in variant.parity.failures]
        if variant.id in scans:
            lines.append(f"  {variant.id}: {scans[variant.id].sentence()}")
    return "\n".join(lines)


def failure_hint(verified: Sequence[Variant]) -> str:
    """What to try: other precisions or texts for int8, else the engines that did pass."""
    failed = [v for v in verified if v.parity and not v.parity.passed]
    bad = {v.engine for v in failed}
    good = ",".join(dict.fromkeys(v.engine for v in verified if v.engine not in bad))
    choices = ["texts of the model's own kind with --calibration FILE"]
    if any(v.parity and _share_of_few(v.parity) for v in failed):
        choices = [f"more {choices[0]}: some 700 make a share of 99 % certain enough"]
    if any(v.precision != "fp32" for v in failed):
        choices.insert(0, "--precision fp32")
    if good:
        choices.insert(1, f"only what passed: --engines {good}")
    return "try " + ", or ".join(choices)


def _share_of_few(parity: Parity) -> bool:
    """True if too many answers changed, of texts that are few to tell."""
    missed = any(sentence.startswith("top-") for sentence in parity.failures)
    return missed and parity.texts < FEW_TEXTS


def notices_of(manifest: Manifest, scans: Mapping[str, Scan]) -> tuple[str, ...]:
    """What the user should know of a bundle that was written."""
    budget = manifest.profile["memory"]["budget_mb"] * 1e6
    notices = []
    for variant in manifest.variants:
        size = sum(manifest.files[name].size for name in variant.files)
        if size > budget:
            notices.append(
                f"{variant.id} has {size / 1e6:.0f} MB, more than the profile's memory budget"
            )
        scanned = variant.id in scans
        if scanned or (variant.engine == "tflite" and variant.programs["main"].buckets):
            notices.append(f"{variant.id}: {variant.note}")
    if manifest.forced:
        notices.append("a tolerance was missed: the manifest is marked 'forced'")
    return tuple(notices)
