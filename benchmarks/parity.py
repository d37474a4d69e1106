"""How far a bundle's answers are from PyTorch's, on held-out texts.

    python -m benchmarks.parity [--model FOLDER] [--texts FILE] [--profile NAME]

Converts the model in fp32 and int8 for every engine of the profile and prints, for each variant,
the file's size and its parity on 200 texts that the conversion did not see.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.held_out import held_out_texts
from edgeformer.converters.conversion import ConversionReport
from edgeformer.converters.verification import reference_answers, verify
from edgeformer.device_profiles.profile import load_profile
from edgeformer.pipeline import convert, default_model, prepare_checkpoint
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import open_engine
from edgeformer.runtime.text import encode_texts
from edgeformer.runtime.threads import available_threads
from edgeformer.runtime.tokenizer import load_tokenizer


def main() -> None:
    """Convert, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=None, help="folder; the embedded default")
    parser.add_argument("--texts", type=Path, default=None, help="held-out texts")
    parser.add_argument("--profile", default="rpi4")
    args = parser.parse_args()
    texts = held_out_texts(args.texts)
    with tempfile.TemporaryDirectory() as folder:
        report = convert(
            args.model,
            profile=args.profile,
            output=Path(folder) / "model.edge",
            precisions=("fp32", "int8"),
            progress=lambda s: (
                print(f"# {s.name} {s.seconds:.1f} s", file=sys.stderr) if s.seconds else None
            ),
        )
        seconds = sum(stage.seconds or 0 for stage in report.stages)
        print(f"converted in {seconds:.0f} s, peak memory {report.peak_rss_mb:.0f} MB")
        _compare(args.model or default_model(), args.profile, texts, report)


def _compare(model: Path, profile_name: str, texts: list[str], report: ConversionReport) -> None:
    profile = load_profile(profile_name)
    prepared, _ = prepare_checkpoint(model, None, None, profile)
    assert prepared.tokenizer_json is not None
    tokenizer = load_tokenizer(prepared.tokenizer_json)
    rows = encode_texts(tokenizer, texts, None, prepared.card.max_length, "truncate")
    reference = reference_answers(prepared, rows.batch)
    lengths = rows.batch.lengths
    print(
        f"{len(texts)} held-out texts, {lengths.min()} to {lengths.max()} tokens,"
        f" mean {lengths.mean():.1f}"
    )
    print("| variant | file MB | max abs | min cosine | mean cosine | batch cosine | within |")
    print("|---|---|---|---|---|---|---|")
    with open_bundle(report.path) as bundle:
        for variant in report.manifest.variants:
            engine = open_engine(bundle, variant, available_threads(report.manifest.threads))
            parity = verify(engine, variant, reference, profile.tolerance, prepared.card.task)
            engine.close()
            size = bundle.size(variant.programs["main"].file) / 1e6
            print(
                f"| {variant.id} | {size:.1f} | {parity.max_abs:.1e} | {parity.min_cosine:.5f}"
                f" | {parity.mean_cosine:.5f} | {parity.batch_cosine:.6f}"
                f" | {'yes' if parity.passed else '; '.join(parity.failures)} |"
            )


if __name__ == "__main__":
    main()
