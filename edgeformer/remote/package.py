"""What is sent to a board: the part of EdgeFormer that runs on devices, and nothing of the host's.

The same files that `pip install edgeformer` would put there, less the command line, the models,
the converters and the trainer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeformer.errors import UsageError

ROOT = Path(__file__).parent.parent
FOLDERS = (
    *("runtime", "runtime/engines", "runtime/tasks", "device_profiles"),
    *("benchmarking", "evaluation", "tuning", "profiling", "report", "remote", "doctor_models"),
)
SINGLE_FILES = ("compression/__init__.py", "compression/examples.py", "calibration_texts.txt")
ENDINGS = (".py", ".toml", ".css", ".zip", ".typed")
# Modules of the root folder that only a host uses, by the beginnings of their names.
HOST_MODULES = ("__main__", "pipeline", "checkpoint_model", "image_", "ports")


@dataclass(frozen=True)
class Parcel:
    """Files to send.

    Attributes:
        files: path on the board, relative to its folder, and path here.
        sizes: of each, in bytes.
    """

    files: tuple[tuple[str, Path], ...]
    sizes: tuple[int, ...]

    @property
    def total_bytes(self) -> int:
        """Of all files together."""
        return sum(self.sizes)


def parcel(files: Iterator[tuple[str, Path]]) -> Parcel:
    """The same files with their sizes."""
    found = tuple(files)
    return Parcel(found, tuple(path.stat().st_size for _, path in found))


def package_files() -> Iterator[tuple[str, Path]]:
    """The device side of this package, under ``code/edgeformer``."""
    for path in sorted(ROOT.glob("*.py")):
        if not path.name.startswith(HOST_MODULES):
            yield f"code/edgeformer/{path.name}", path
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).iterdir()):
            if path.suffix in ENDINGS:
                yield f"code/edgeformer/{folder}/{path.name}", path
    for name in SINGLE_FILES:
        yield f"code/edgeformer/{name}", ROOT / name


def check_file(path: Path) -> None:
    """Raises UsageError unless there is a file of that name."""
    if not path.is_file():
        raise UsageError(f"no file {str(path)!r}", hint="check the path")


def check_bundle(path: Path) -> None:
    """Refuse here what no board could run.

    Raises:
        UsageError: nothing of that name, or a checkpoint, which needs PyTorch.
        BundleError: not a bundle, or a damaged manifest.
    """
    from edgeformer.evaluation.models import is_checkpoint
    from edgeformer.runtime.bundle import open_bundle

    if is_checkpoint(path):
        raise UsageError(
            f"{path} is a checkpoint: it needs PyTorch, which no board has",
            hint="evaluate it here with --save-predictions FILE.jsonl, and name that --against",
        )
    open_bundle(path).close()


def sent_files(path: Path, where: str) -> Iterator[tuple[str, Path]]:
    """A file, or of a bundle's folder the manifest and what it lists, under ``where``.

    What is missing is left out: the board says so as it would of its own.
    """
    from edgeformer.runtime.bundle import MANIFEST, open_bundle

    name = path.resolve().name
    if path.is_file():
        yield f"{where}/{name}", path
        return
    with open_bundle(path) as bundle:
        names = (MANIFEST, *bundle.manifest.files)
    for file in names:
        if (path / file).is_file():
            yield f"{where}/{name}/{file}", path / file
