"""The command line as a user and a script see it: streams, exit codes, and errors that help."""

import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgeformer.pipeline
from edgeformer import __version__
from edgeformer.cli.main import commands, main
from edgeformer.device_profiles.profile import load_profile, profile_names
from edgeformer.doctor import TINY_BUNDLE
from edgeformer.runtime import load
from edgeformer.runtime.bundle import open_bundle
from tests.command_line import ROOT, Edgeformer, is_error, start
from tests.tiny_bundles import bundle


@pytest.fixture
def edgeformer_command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Edgeformer:
    return Edgeformer(capfd, monkeypatch)


def test_import_loads_click_and_the_standard_library_only() -> None:
    code = "import sys, edgeformer.cli.main; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    outside = {name.split(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)
    outside = {name for name in outside if not name.startswith("__")}
    assert "click" in outside
    assert not outside & {"numpy", "torch", "onnx", "onnxruntime", "ai_edge_litert", "scipy"}
    loaded = {name for name in done.stdout.split() if name.startswith("edgeformer.")}
    assert loaded <= {"edgeformer.errors"} | {n for n in loaded if n.startswith("edgeformer.cli")}


def test_version_and_help_go_to_stdout(edgeformer_command: Edgeformer) -> None:
    assert edgeformer_command("--version") == (0, f"edgeformer {__version__}\n", "")
    code, out, err = edgeformer_command("--help")
    assert (code, err) == (0, "")
    for name in ("convert", "run", "benchmark", "inspect", "profiles", "doctor"):
        assert name in out
        assert CliRunner().invoke(commands, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "edgeformer --help"),
        (["profiles"], "edgeformer profiles --help"),
        (["convrt"], "did you mean 'convert'?"),
        (["frobnicate"], "the commands are: "),
        (["profiles", "lst"], "did you mean 'list'?"),
        (["run"], "edgeformer run --help"),
        (["run", "x.edge", "text", "--thread", "2"], "--threads"),
        (["run", "x.edge", "text", "--threads", "0"], "x>=1"),
        (["convert", "x", "--profile", "rpi4"], "--output"),
        (["convert", "x", "--profile", "rpi4", "-o", "x.edge", "--engines", ","], "commas"),
        (["convert", "no-such-folder", "--profile", "rpi44", "-o", "x.edge"], "'rpi4'"),
        (["profiles", "show", "rpi44"], "did you mean 'rpi4'?"),
        (["inspect", "no-such.edge"], "edgeformer convert"),
        (["benchmark", "no-such.edge"], "edgeformer convert"),
    ],
)
def test_a_wrong_request_exits_2_and_says_what_to_type(
    edgeformer_command: Edgeformer, arguments: list[str], says: str
) -> None:
    assert is_error(*edgeformer_command(*arguments), exit_code=2, says=says)


def test_profiles_can_be_listed(edgeformer_command: Edgeformer) -> None:
    code, out, err = edgeformer_command("profiles", "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[1:]] == profile_names()
    code, out, _ = edgeformer_command("profiles", "list", "--json")
    assert [profile["name"] for profile in json.loads(out)] == profile_names()


@pytest.mark.parametrize("name", profile_names())
def test_a_shown_profile_is_a_file_that_gives_the_same_profile(
    edgeformer_command: Edgeformer, name: str, tmp_path: Path
) -> None:
    code, out, _ = edgeformer_command("profiles", "show", name)
    (tmp_path / "kept.toml").write_text(out)
    assert code == 0
    assert load_profile(str(tmp_path / "kept.toml")) == load_profile(name)


def test_a_shown_profile_keeps_awkward_strings(
    edgeformer_command: Edgeformer, tmp_path: Path
) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "x86"\ndescription = "tab\\t quote\\" slash\\\\ é \\u0007"', "utf-8")
    assert load_profile(str(path)).description == 'tab\t quote" slash\\ é \a'
    _, out, _ = edgeformer_command("profiles", "show", path)
    assert tomllib.loads(out)["description"] == load_profile(str(path)).description
    _, out, _ = edgeformer_command("profiles", "show", path, "--json")
    assert json.loads(out) == json.loads(json.dumps(asdict(load_profile(str(path)))))


def test_run_prints_the_embedding(edgeformer_command: Edgeformer) -> None:
    path = bundle("embedding")
    with load(path) as model:
        vector = model.embed("a lovely film")
    code, out, err = edgeformer_command("run", path, "a lovely film")
    assert (code, err) == (0, "")
    np.testing.assert_allclose(np.array(out.split(), np.float64), vector, rtol=1e-5)
    _, out, _ = edgeformer_command("run", path, "a lovely film", "--json", "--engine", "numpy")
    answer = json.loads(out)
    assert np.array_equal(np.array(answer["embedding"], np.float32), vector)  # to the last bit
    assert (answer["text"], answer["variant"]) == ("a lovely film", "numpy-int8")


def test_run_answers_each_line_of_stdin(edgeformer_command: Edgeformer) -> None:
    """An empty line is a text too: answers stay beside their lines."""
    texts = ["good", "", "bad film", "a\u2028b", *["very boring"] * 40]
    data = ("\ufeff" + "\r\n".join(texts)).encode()
    with load(bundle()) as model:
        wanted = [labels[0] for labels in model.classify(texts)]
    for arguments in (["run", bundle(), "-"], ["run", bundle()]):
        code, out, _ = edgeformer_command(*arguments, stdin=data)
        assert code == 0
        assert out.splitlines() == [f"{label.name}\t{label.score:.4f}" for label in wanted]
    _, out, _ = edgeformer_command("run", bundle(), "-", "--json", stdin=data)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [row["labels"][0]["name"] for row in rows] == [label.name for label in wanted]


def test_run_of_nothing_prints_nothing(edgeformer_command: Edgeformer) -> None:
    assert edgeformer_command("run", bundle(), "-") == (0, "", "")


def test_run_classifies_pairs_and_gives_top_k(edgeformer_command: Edgeformer) -> None:
    with load(bundle()) as model:
        wanted = model.classify("good", "bad", top_k=2)
    assert wanted != load(bundle()).classify("good", top_k=2)
    _, out, _ = edgeformer_command("run", bundle(), "good", "--pair", "bad", "--top-k", 2)
    fields = out.strip().split("\t")
    assert fields[::2] == [label.name for label in wanted]
    assert fields[1::2] == [f"{label.score:.4f}" for label in wanted]


def test_run_tags_spans(edgeformer_command: Edgeformer) -> None:
    path, text = bundle("token-classification"), "the film was good"
    spans = load(path).tag(text)
    _, out, _ = edgeformer_command("run", path, text)
    wanted = [f"{s.label}\t{s.score:.4f}\t{s.start}:{s.end}\t{s.text}" for s in spans]
    assert out.splitlines() == wanted
    _, out, _ = edgeformer_command("run", path, "-", stdin=f"{text}\n\n{text}".encode())
    assert out.splitlines() == [*wanted, "", "", "", *wanted, ""]  # an empty text has no span
    _, out, _ = edgeformer_command("run", path, text, "--json")
    assert json.loads(out)["spans"] == [asdict(span) for span in spans]


def test_run_says_what_was_cut(edgeformer_command: Edgeformer) -> None:
    code, _, err = edgeformer_command("run", bundle(), "-", stdin=b"good\n" + b"good " * 99)
    assert code == 0
    assert err.startswith("note: 1 of the texts")


@pytest.mark.parametrize(
    ("arguments", "stdin", "exit_code", "says"),
    [
        (["--engine", "onnx", "text"], b"", 2, "was not converted for 'onnx'"),
        (["-"], b"good\n\xff\n", 1, "line 2 of stdin is not UTF-8"),
    ],
)
def test_run_errors(
    edgeformer_command: Edgeformer, arguments: list[str], stdin: bytes, exit_code: int, says: str
) -> None:
    code, _, err = edgeformer_command("run", bundle(), *arguments, stdin=stdin)
    assert is_error(code, "", err, exit_code=exit_code, says=says)


def test_run_refuses_what_the_task_cannot_do(edgeformer_command: Edgeformer) -> None:
    result = edgeformer_command("run", TINY_BUNDLE, "text")
    assert is_error(*result, exit_code=2, says="takes arrays, not texts")
    result = edgeformer_command("run", bundle("embedding"), "text", "--pair", "other")
    assert is_error(*result, exit_code=2, says="task is embedding")


def test_a_reader_that_leaves_is_no_crash() -> None:
    process = start("run", bundle(), "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdin.write("good\n" * 200)
    process.stdin.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        process = start("profiles", "list", stdout=full)
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_inspect_shows_the_manifest(edgeformer_command: Edgeformer) -> None:
    with open_bundle(bundle()) as opened:
        manifest = opened.manifest
    code, out, err = edgeformer_command("inspect", bundle())
    assert (code, err) == (0, "")
    for fact in ("class 0, class 1, class 2", "numpy-int8", "x86", "24,", "at most 48 tokens"):
        assert fact in out
    _, out, _ = edgeformer_command("inspect", bundle(), "--json")
    assert json.loads(out)["manifest"] == json.loads(json.dumps(asdict(manifest)))


def test_inspect_verify_passes_a_whole_bundle(edgeformer_command: Edgeformer) -> None:
    code, out, err = edgeformer_command("inspect", bundle(), "--verify", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["verification"]
    assert found["passed"] is True
    assert {check["name"] for check in found["files"]} == {
        path.relative_to(bundle()).as_posix()
        for path in bundle().rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert [(a["variant"], a["state"]) for a in found["answers"]] == [("numpy-int8", "passed")]


@pytest.mark.parametrize("name", ["README.md", "golden.json", "numpy-int8/model.plan"])
def test_inspect_verify_names_every_altered_file(
    edgeformer_command: Edgeformer, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "copy.edge"
    shutil.copytree(bundle(), copy)
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    code, out, err = edgeformer_command("inspect", copy, "--verify")
    assert code == 1
    assert f"{name} was altered" in out
    assert is_error(code, "", err, exit_code=1, says=f"{name} was altered")


def test_an_unforeseen_error_is_two_lines_and_a_traceback_on_request(
    edgeformer_command: Edgeformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("something odd")

    monkeypatch.setattr(edgeformer.pipeline, "convert", broken)
    arguments = ("convert", "--profile", "rpi4", "-o", "x.edge")
    result = edgeformer_command(*arguments)
    assert is_error(*result, exit_code=1, says="RuntimeError: something odd")
    monkeypatch.setenv("EDGEFORMER_DEBUG", "1")
    with pytest.raises(RuntimeError, match="something odd"):
        main(list(arguments))


def test_the_help_page_is_current() -> None:
    from tools.make_help import PAGE, help_page

    assert PAGE.read_text(encoding="utf-8") == help_page(), "run: python -m tools.make_help"
