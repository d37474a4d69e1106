"""Bundles: what is written reads back, and a damaged or hostile one is one clear error."""

import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeformer.converters.bundle_writer import (
    file_records,
    publish,
    refuse_overwrite,
    staging,
)
from edgeformer.errors import BundleError, EdgeFormerError, UsageError
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.manifest_json import digest, dump_manifest, parse_manifest, safe_path
from tests.bundles import FILES, manifest, variant, write_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.edge").mkdir()
    return write_bundle(tmp_path / "tiny.edge")


@pytest.fixture
def zipped(tmp_path: Path, folder: Path) -> Path:
    target = tmp_path / "tiny.edge.zip"
    with staging(target) as stage:
        write_bundle(stage)
        publish(stage, target, zip_file=True)
    return target


def _altered(change: Any) -> bytes:
    """A manifest changed by ``change`` whose digest is right all the same."""
    data = json.loads(dump_manifest(manifest(FILES)))
    change(data)
    data["digest"] = digest(data)
    return json.dumps(data).encode()


def test_manifest_round_trip() -> None:
    whole = manifest(FILES, variant(), variant("onnx-int8", "golden.json"))
    assert parse_manifest(dump_manifest(whole)) == whole
    assert asdict(parse_manifest(dump_manifest(whole))) == asdict(whole)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_byte_of_a_manifest_is_found(data: st.DataObject) -> None:
    text = bytearray(dump_manifest(manifest(FILES)))
    position = data.draw(st.integers(0, len(text) - 2))
    text[position] = data.draw(st.integers(0, 255).filter(lambda b: b != text[position]))
    try:
        same = parse_manifest(bytes(text)) == manifest(FILES)
    except BundleError:
        return
    assert same  # only white space between values may change unseen


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
    ),
    st.sampled_from(["model", "engines", "threads", "variants", "files", "golden", "forced"]),
)
def test_wrongly_typed_fields_are_bundle_errors(value: Any, field: str) -> None:
    text = _altered(lambda data: data.__setitem__(field, value))
    try:
        parse_manifest(text)
    except BundleError:
        return
    assert type(value) is type(json.loads(dump_manifest(manifest(FILES)))[field])


def test_schema_from_the_future_says_upgrade() -> None:
    with pytest.raises(BundleError, match="pip install -U edgeformer"):
        parse_manifest(_altered(lambda data: data.update(schema_version=2)))


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "C:evil", "a\\b", "", "./a"])
def test_paths_cannot_leave_the_bundle(name: str) -> None:
    assert not safe_path(name)
    text = _altered(lambda data: data["files"].update({name: {"size": 1, "sha256": "0"}}))
    with pytest.raises(BundleError, match="outside the bundle"):
        parse_manifest(text)


def test_program_file_must_be_listed() -> None:
    def change(data: dict[str, Any]) -> None:
        data["variants"][0]["programs"]["main"]["file"] = "other.plan"

    with pytest.raises(BundleError, match=r"other\.plan"):
        parse_manifest(_altered(change))


@pytest.mark.parametrize(
    ("where", "key", "value", "message"),
    [
        ("variant", "engine", "tensorrt", "not listed"),
        ("variant", "precision", "int2", "precision"),
        ("port", "dtype", "object", "dtype"),
        ("port", "default", "positions+x", "default"),
        ("port", "shape", [-1], "negative"),
        ("model", "task", "translation", "task"),
        ("manifest", "threads", 0, "threads"),
        ("manifest", "variants", [], "no variant"),
    ],
)
def test_values_no_engine_knows_are_refused(where: str, key: str, value: Any, message: str) -> None:
    def change(data: dict[str, Any]) -> None:
        variant = data["variants"][0]
        port = variant["programs"]["main"]["inputs"][0]
        records = {"variant": variant, "port": port, "model": data["model"], "manifest": data}
        records[where][key] = value

    with pytest.raises(BundleError, match=message):
        parse_manifest(_altered(change))


def test_main_program_is_required() -> None:
    def change(data: dict[str, Any]) -> None:
        programs = data["variants"][0]["programs"]
        programs["second"] = programs.pop("main")

    with pytest.raises(BundleError, match="main"):
        parse_manifest(_altered(change))


@pytest.mark.parametrize("kind", ["folder", "zipped"])
def test_files_read_and_map_back(kind: str, request: pytest.FixtureRequest) -> None:
    with open_bundle(request.getfixturevalue(kind)) as bundle:
        bundle.check(FILES)
        for name, data in FILES.items():
            assert bundle.read(name) == data
            assert bytes(bundle.map(name)) == data


def test_zip_members_are_stored_and_aligned(zipped: Path) -> None:
    raw = zipped.read_bytes()
    with zipfile.ZipFile(zipped) as archive:
        assert archive.testzip() is None
        names = {info.filename for info in archive.infolist()}
        assert names == {*FILES, "manifest.json"}
    for data in FILES.values():
        start = raw.index(data)
        assert start % 4096 == 0


def test_two_zips_of_one_bundle_are_equal(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        with staging(tmp_path / name) as stage:
            write_bundle(stage)
            publish(stage, tmp_path / name, zip_file=True)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("kind", ["folder", "zipped"])
def test_flipped_bit_in_a_file_is_found(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    target = path / "numpy-fp32/model.plan" if path.is_dir() else path
    raw = bytearray(target.read_bytes())
    raw[raw.index(FILES["numpy-fp32/model.plan"]) + 1000] ^= 4
    target.write_bytes(raw)
    with (
        open_bundle(path) as bundle,
        pytest.raises(BundleError, match=r"model\.plan was altered"),
    ):
        bundle.check(FILES)


def test_truncated_file_is_found(folder: Path) -> None:
    (folder / "golden.json").write_bytes(b"{")
    with open_bundle(folder) as bundle, pytest.raises(BundleError, match="has 1 bytes"):
        bundle.check(FILES)


def test_truncated_zip_is_found(zipped: Path) -> None:
    zipped.write_bytes(zipped.read_bytes()[:-300])
    with pytest.raises(BundleError):
        open_bundle(zipped)


def test_missing_file_is_found(folder: Path) -> None:
    (folder / "golden.json").unlink()
    with open_bundle(folder) as bundle, pytest.raises(BundleError, match="missing"):
        bundle.check(FILES)


@pytest.mark.parametrize("target", ["golden.json", "numpy-fp32", "manifest.json"])
def test_links_are_refused(tmp_path: Path, folder: Path, target: str) -> None:
    (folder / target).rename(tmp_path / "elsewhere")
    (folder / target).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError):
        open_bundle(folder)


def test_compressed_zip_is_refused(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "deflated.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*FILES, "manifest.json"):
            archive.write(folder / name, name)
    with pytest.raises(BundleError, match="compressed"):
        open_bundle(path)


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle at"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match="not a bundle"):
        open_bundle(tmp_path)
    (tmp_path / "file").write_bytes(b"x" * 100)
    with pytest.raises(BundleError, match="neither"):
        open_bundle(tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "b")
    with pytest.raises(BundleError, match="not a bundle"):
        open_bundle(tmp_path / "other.zip")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 11000), st.integers(1, 255))
def test_a_damaged_zip_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, position: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    with staging(folder / "a.zip") as stage:
        write_bundle(stage)
        publish(stage, folder / "a.zip", zip_file=True)
    raw = bytearray((folder / "a.zip").read_bytes())
    raw[-1 - position % len(raw)] ^= flip
    (folder / "a.zip").write_bytes(raw)
    try:
        with open_bundle(folder / "a.zip") as bundle:
            bundle.check(FILES)
    except EdgeFormerError:
        pass


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "out.edge") as stage:
            write_bundle(stage)
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "out.edge"):
            raise OSError(28, "No space left on device")

    with pytest.raises(EdgeFormerError, match="no space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_overwriting_needs_force_and_a_bundle(tmp_path: Path, folder: Path) -> None:
    refuse_overwrite(tmp_path / "new", force=False)
    refuse_overwrite(folder, force=True)
    with pytest.raises(UsageError, match="--force"):
        refuse_overwrite(folder, force=False)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").touch()
    with pytest.raises(UsageError, match="does not delete"):
        refuse_overwrite(tmp_path / "thesis", force=True)
    with pytest.raises(UsageError, match="does not exist"):
        refuse_overwrite(tmp_path / "no" / "where", force=False)


def test_publish_replaces_an_old_bundle(tmp_path: Path, folder: Path) -> None:
    with staging(folder) as stage:
        write_bundle(stage, FILES | {"extra": b"1"})
        publish(stage, folder, zip_file=False)
    assert (folder / "extra").read_bytes() == b"1"
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.edge"]


def test_records_cover_every_file_but_the_manifest(folder: Path) -> None:
    assert file_records(folder) == manifest(FILES).files


def test_variant_lookup_names_what_there_is() -> None:
    with pytest.raises(BundleError, match="numpy-fp32"):
        manifest(FILES).variant("onnx-int8")
