"""The house of the design: what lies where, what may import what, what is packaged."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "edgeformer": "edgeformer",
    "converters": "edgeformer.converters",
    "runtime": "edgeformer.runtime",
    "device_profiles": "edgeformer.device_profiles",
}


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _packages_on_disk() -> dict[str, str]:
    found = {}
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(ROOT / folder).parts
            if folder == "edgeformer" and below and below[0] in FOLDERS:
                continue  # the symlinks
            found[".".join((package, *below))] = init.parent.relative_to(ROOT).as_posix()
    return found


def test_every_package_on_disk_is_listed_in_setup_cfg() -> None:
    options = _setup()["options"]
    listed = dict(
        line.split(" = ") for line in options["package_dir"].splitlines() if " = " in line
    )
    assert listed == _packages_on_disk()
    assert sorted(options["packages"].split()) == sorted(listed)


@pytest.mark.parametrize("folder", ["converters", "runtime", "device_profiles"])
def test_symlinks_are_relative_and_point_to_the_root_folder(folder: str) -> None:
    link = ROOT / "edgeformer" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder


def test_every_data_file_is_packaged() -> None:
    data = _setup()["options.package_data"]
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            below = path.relative_to(ROOT / folder)
            linked = folder == "edgeformer" and below.parts[0] in FOLDERS
            if not path.is_file() or path.suffix in (".py", ".pyc") or linked:
                continue
            patterns = [p.strip() for p in data.get(package, "").split(",")]
            assert any(below.match(p) for p in patterns), f"{path} would not be in the wheel"


def _modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in done.stdout.split()}


HEAVY = {"torch", "onnx", "onnxruntime", "transformers", "tokenizers", "ai_edge_litert", "jax"}


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import edgeformer", HEAVY | {"numpy", "click"}),
        ("import edgeformer.runtime", HEAVY | {"click", "scipy", "tomllib", "zlib_ng"}),
        ("import edgeformer.device_profiles.profile", HEAVY | {"numpy", "click"}),
        ("import edgeformer.runtime.engines.numpy_engine", HEAVY | {"click", "scipy"}),
        ("import edgeformer.cli.main", HEAVY | {"scipy"}),
        (
            "import edgeformer.benchmarking.benchmark, edgeformer.doctor, edgeformer.tuning.tune",
            HEAVY | {"click", "scipy"},
        ),
        (
            "import edgeformer.report.html, edgeformer.report.markdown, edgeformer.report.files,"
            " edgeformer.profiling.profiles, edgeformer.profiling.roofline",
            HEAVY | {"click", "scipy"},
        ),
        (
            "import edgeformer.evaluation.scores, edgeformer.comparison.race",
            HEAVY | {"click", "scipy"},
        ),
        (
            "import edgeformer.evaluation.evaluate, edgeformer.comparison.compare",
            HEAVY | {"click", "numpy"},
        ),
    ],
)
def test_the_device_side_imports_numpy_at_most(statement: str, forbidden: set[str]) -> None:
    assert not _modules_after(statement) & forbidden


def test_engines_without_exits_do_not_load_what_exits_need() -> None:
    """Every module is paid for by each cold start on a small board."""
    code = """
import sys
import edgeformer.runtime.loading, edgeformer.runtime.model, edgeformer.runtime.engines.numpy_engine
assert not [n for n in sys.modules if n.startswith("edgeformer.runtime.exit")]
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_imports_touch_neither_network_nor_disk(tmp_path: Path) -> None:
    """Every open for writing and every socket is an audit event; none may happen on import."""
    code = """
import sys
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "os.mkdir", "os.remove"):
        raise SystemExit(f"import does {event} {args}")
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise SystemExit(f"import writes {args[0]}")
sys.dont_write_bytecode = True
sys.addaudithook(hook)
import edgeformer, edgeformer.cli.main, edgeformer.runtime, edgeformer.pipeline
import edgeformer.benchmarking.benchmark, edgeformer.doctor, edgeformer.tuning.tune
import edgeformer.report.files
import edgeformer.evaluation.scores, edgeformer.comparison.race, edgeformer.checkpoint_model
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def _first_party_imports(folder: str) -> set[str]:
    import ast

    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        if folder == "edgeformer" and path.relative_to(ROOT / folder).parts[0] in FOLDERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
    return {n for n in names if n.split(".")[0] == "edgeformer"}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("runtime", ("edgeformer.runtime", "edgeformer.errors")),
        ("device_profiles", ("edgeformer.device_profiles", "edgeformer.errors")),
        (
            "converters",
            (
                "edgeformer.converters",
                "edgeformer.device_profiles",
                "edgeformer.runtime",
                "edgeformer.errors",
            ),
        ),
        ("edgeformer/models", ("edgeformer.models", "edgeformer.errors")),
        (
            "edgeformer/compression",
            (
                "edgeformer.compression",
                "edgeformer.models",
                "edgeformer.errors",
                "edgeformer.data",
                "edgeformer.runtime.tokenizer_json",
                "edgeformer.runtime.wordpiece",
            ),
        ),
    ],
)
def test_imports_flow_one_way(folder: str, allowed: tuple[str, ...]) -> None:
    wrong = {n for n in _first_party_imports(folder) if not n.startswith(allowed)}
    assert not wrong


def test_click_appears_only_in_the_command_line() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "import click" in path.read_text()
    ]
    assert users and all(user.startswith("edgeformer/cli/") for user in users)
