"""Write a bundle whole or not at all: a hidden folder beside the target, then one rename."""

import errno
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeformer.errors import EdgeFormerError, UsageError
from edgeformer.runtime.bundle import MANIFEST
from edgeformer.runtime.manifest import FileRecord, Manifest
from edgeformer.runtime.manifest_json import dump_manifest

ALIGNMENT_BYTES = 4096
_ZIP_HEADER_BYTES = 30
_EPOCH = (1980, 1, 1, 0, 0, 0)


def refuse_overwrite(output: Path, force: bool) -> None:
    """Check the target before the long work starts.

    Raises:
        UsageError: it exists without ``force``; it exists and is no bundle, so that ``force``
            would delete something else; or its parent folder is missing or read-only.
    """
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist", hint="make it first")
    if not os.access(output.parent, os.W_OK):
        raise UsageError(f"the folder {output.parent} cannot be written to")
    if not output.exists() and not output.is_symlink():
        return
    if not force:
        raise UsageError(f"{output} exists", hint="choose another -o, or add --force")
    empty = output.is_dir() and not any(output.iterdir())
    bundle = (output / MANIFEST).is_file() or (output.is_file() and zipfile.is_zipfile(output))
    if output.is_symlink() or not (bundle or empty):
        raise UsageError(
            f"{output} exists and is not a bundle: --force does not delete it",
            hint="choose another -o",
        )


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A temporary folder beside ``output``; removed unless ``publish`` moved it away.

    Raises:
        EdgeFormerError: the disk is full or the folder cannot be written.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    folder.chmod(0o755)
    try:
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EdgeFormerError(
                f"no space left on the disk of {output.parent}",
                hint="free some space, or write to another disk with -o",
            ) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file below ``folder`` but the manifest, by POSIX path."""
    records = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            records[name] = FileRecord(path.stat().st_size, sha256)
    return records


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put manifest.json into the staging folder."""
    (folder / MANIFEST).write_bytes(dump_manifest(manifest))


def publish(folder: Path, output: Path, zip_file: bool) -> None:
    """Move the finished staging folder (or a zip of it) to ``output`` in one rename.

    A bundle already there is moved aside first and deleted last, so that at no moment is there
    neither.
    """
    finished = folder
    if zip_file:
        finished = folder.with_name(folder.name + ".zip")
    old = folder.with_name(folder.name + ".old")
    try:
        if zip_file:
            _write_zip(folder, finished)
        if output.exists():
            output.rename(old)
        try:
            finished.rename(output)
        except OSError:
            if old.exists():
                old.rename(output)
            raise
    finally:
        if zip_file:
            finished.unlink(missing_ok=True)
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def _write_zip(folder: Path, target: Path) -> None:
    """Store every file uncompressed, its bytes starting at a multiple of 4096, dates fixed."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH)
            info.external_attr = 0o644 << 16
            start = archive.fp.tell() if archive.fp else 0
            header = start + _ZIP_HEADER_BYTES + len(info.filename.encode())
            padding = -(header + 4) % ALIGNMENT_BYTES
            # One extra field: an id that no tool claims, its length, and that many zeros.
            info.extra = b"\xed\xed" + padding.to_bytes(2, "little") + bytes(padding)
            with path.open("rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member, 1 << 20)
