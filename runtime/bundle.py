"""Open a bundle, folder or zip, and give out its files only after their size and hash agree.

    with open_bundle("model.edge") as bundle:
        bundle.check(["tokenizer/tokenizer.json"])
        data = bundle.read("tokenizer/tokenizer.json")

Nothing is parsed before it is checked, no path leaves the bundle, links are refused, and nothing
is ever unpickled. A bundle from someone else can therefore be wrong, but not harmful.
"""

import hashlib
import mmap
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgeformer.errors import BundleError, EngineError, UsageError
from edgeformer.runtime.manifest import Manifest
from edgeformer.runtime.manifest_json import parse_manifest

if TYPE_CHECKING:
    import zipfile

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_LOCAL_HEADER_BYTES = 30


class Bundle:
    """An open bundle. ``manifest`` is checked; files are checked by ``check``.

    ``spans`` says where each file lies: (path on disk, offset, size), for both kinds of bundle.
    """

    def __init__(self, path: Path, manifest: Manifest, spans: dict[str, tuple[Path, int, int]]):
        self.path = path
        self.manifest = manifest
        self._spans = spans
        self._maps: list[mmap.mmap] = []

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap what is no longer in use."""
        for mapped in self._maps:
            try:
                mapped.close()
            except BufferError:  # an array still looks at it; it is unmapped with that array
                continue
        self._maps.clear()

    def check(self, names: Iterable[str]) -> None:
        """Compare size and SHA-256 of each file with the manifest's.

        Raises:
            BundleError: missing, truncated or altered.
        """
        for name in names:
            path, offset, size = self._span(name)
            record = self.manifest.files[name]
            if size != record.size:
                raise BundleError(
                    f"{name} has {size} bytes, the manifest says {record.size}", hint=_AGAIN
                )
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                if _sha256(file, size) != record.sha256:
                    raise BundleError(
                        f"{name} was altered: its SHA-256 does not match", hint=_AGAIN
                    )

    def read(self, name: str) -> bytes:
        """The whole file."""
        path, offset, size = self._span(name)
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def map(self, name: str) -> memoryview:
        """The file mapped read-only; pages are read when touched and shared between processes.

        Raises:
            EngineError: it is larger than what this process can address.
        """
        path, offset, size = self._span(name)
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        if size == 0:
            return memoryview(b"")
        with path.open("rb") as file:
            try:
                mapped = mmap.mmap(
                    file.fileno(), size + offset - start, access=mmap.ACCESS_READ, offset=start
                )
            except (OSError, OverflowError) as error:  # OverflowError: above what 32 bits address
                raise EngineError(
                    f"{name} ({size / 1e6:.0f} MB) cannot be mapped into memory: {error}",
                    hint="use a smaller model, or a 64-bit system",
                ) from None
        self._maps.append(mapped)
        return memoryview(mapped)[offset - start :]

    def file_path(self, name: str) -> Path | None:
        """Where the file lies on disk, None inside a zip."""
        path, offset, _ = self._span(name)
        return path if offset == 0 and path != self.path else None

    def size(self, name: str) -> int:
        """Bytes of the file."""
        return self._span(name)[2]

    def _span(self, name: str) -> tuple[Path, int, int]:
        if name not in self.manifest.files:
            raise BundleError(f"the bundle has no file {name!r}", hint=_AGAIN)
        if name not in self._spans:
            raise BundleError(f"{name} is missing from the bundle", hint=_AGAIN)
        return self._spans[name]


_AGAIN = "copy the bundle again, or convert again"


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle folder or zip and check its manifest.

    Raises:
        UsageError: nothing there.
        BundleError: not a bundle, or a manifest that is altered, unsafe or from a newer schema.
    """
    where = Path(path)
    if not where.exists():
        raise UsageError(
            f"no bundle at {where}", hint="make one with `edgeformer convert MODEL -o DIR`"
        )
    try:
        return _open_folder(where) if where.is_dir() else _open_zip(where)
    except OSError as error:
        raise BundleError(f"{where} cannot be read: {error.strerror or error}") from None


def _open_folder(where: Path) -> Bundle:
    path = where / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise BundleError(f"{where} is not a bundle: it has no {MANIFEST}", hint=_AGAIN)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} is larger than any manifest", hint=_AGAIN)
    manifest = parse_manifest(path.read_bytes())
    spans = {}
    for name in manifest.files:
        file = where / name
        _refuse_links(where, file)
        if file.is_file():
            spans[name] = (file, 0, file.stat().st_size)
    return Bundle(where, manifest, spans)


def _refuse_links(where: Path, file: Path) -> None:
    for part in (file, *file.parents):
        if part == where:
            return
        if part.is_symlink():
            raise BundleError(
                f"{part} is a link", hint="do not use this bundle: it was made to reach other files"
            )


def _open_zip(where: Path) -> Bundle:
    import zipfile  # only here: importing it costs more than opening a folder

    try:
        with zipfile.ZipFile(where) as archive:
            members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            if MANIFEST not in members:
                raise BundleError(f"{where} is not a bundle: it has no {MANIFEST}", hint=_AGAIN)
            for info in members.values():
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                    raise BundleError(
                        f"{info.filename} in {where} is compressed or encrypted",
                        hint="make the file with `edgeformer convert --zip`: it stores members as"
                        " they are, so that they can be mapped",
                    )
            if members[MANIFEST].file_size > MAX_MANIFEST_BYTES:
                raise BundleError(f"{MANIFEST} in {where} is too large", hint=_AGAIN)
            manifest = parse_manifest(archive.read(MANIFEST))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise BundleError(f"{where} is neither a bundle folder nor a zip: {error}") from None
    with where.open("rb") as file:
        spans = {
            name: (where, _data_offset(file, members[name]), members[name].file_size)
            for name in manifest.files
            if name in members
        }
    return Bundle(where, manifest, spans)


def _data_offset(file: BinaryIO, info: "zipfile.ZipInfo") -> int:
    """Where a member's bytes start: its local header's name and extra may differ in length."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise BundleError(f"{info.filename}: the zip is damaged", hint=_AGAIN)
    name_length = int.from_bytes(header[26:28], "little")
    extra_length = int.from_bytes(header[28:30], "little")
    return info.header_offset + _LOCAL_HEADER_BYTES + name_length + extra_length


def _sha256(file: FileIO, size: int) -> str:
    """Hash of the next ``size`` bytes.

    Read, not mapped, so that no page stays resident; in large pieces, since a thread that hashes
    waits for the interpreter's lock between two of them.
    """
    hasher, buffer = hashlib.sha256(), memoryview(bytearray(min(size, _CHUNK_BYTES)))
    while size > 0 and (count := file.readinto(buffer[:size])):
        hasher.update(buffer[:count])
        size -= count
    return hasher.hexdigest()
