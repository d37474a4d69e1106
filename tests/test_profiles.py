"""Device profiles: the built-in ones load, a user's own inherits, and mistakes are named."""

from dataclasses import asdict
from pathlib import Path

import pytest

from edgeformer.device_profiles.profile import DeviceProfile, load_profile, profile_names
from edgeformer.errors import UsageError

BUILT_IN = ["cuda", "jetson-orin", "rpi-zero-2w", "rpi3", "rpi4", "rpi5", "x86", "x86-vnni"]


def test_the_promised_profiles_exist() -> None:
    assert profile_names() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_profile_is_named_after_its_file(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.runtime.threads <= profile.cpu.cores
    assert all(b <= profile.length.max_tokens for b in profile.length.bucket_tokens)


def test_cpus_without_vnni_get_reduced_range() -> None:
    for name in BUILT_IN:
        cpu = load_profile(name).cpu
        saturates = cpu.architecture == "x86_64" and "vnni" not in cpu.isa
        int8 = load_profile(name).quantization.onnx == "int8"
        assert load_profile(name).quantization.reduce_range == (saturates and int8)


def _write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_own_profile_overrides_only_what_it_says(tmp_path: Path) -> None:
    own = _write(
        tmp_path / "gateway.toml",
        'extends = "rpi4"\n[runtime]\nthreads = 2\n[length]\nbucket_tokens = [24]\n',
    )
    base, profile = asdict(load_profile("rpi4")), asdict(load_profile(own))
    assert profile["name"] == "gateway"
    assert profile["runtime"] == base["runtime"] | {"threads": 2}
    assert profile["length"]["bucket_tokens"] == (24,)
    assert profile["tolerance"] == base["tolerance"]


def test_profiles_extend_profiles_by_relative_path(tmp_path: Path) -> None:
    _write(tmp_path / "base.toml", 'extends = "rpi5"\n[runtime]\nthreads = 3\n')
    (tmp_path / "sub").mkdir()
    own = _write(tmp_path / "sub" / "own.toml", 'extends = "../base.toml"\n')
    assert load_profile(own).runtime.threads == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "rpi4"\n[runtime]\nthread = 2\n', "runtime.thread"),
        ('extends = "rpi4"\n[runtime]\nthreads = "two"\n', "threads must be int"),
        ('extends = "rpi4"\n[runtime]\nthreads = true\n', "threads must be int"),
        ('extends = "rpi4"\n[runtime]\nthreads = 0\n', "at least 1"),
        ('extends = "rpi4"\n[runtime]\nengines = ["tensorrt"]\n', "engines"),
        ('extends = "rpi4"\n[length]\nbucket_tokens = [64, 32]\n', "ascend"),
        ('extends = "rpi4"\n[quantization]\ntflite = "fp16"\n', "fp32 or int8"),
        ('extends = "rpi4"\nruntime = 3\n', "must be a table"),
        ('description = "alone"\n', "is missing"),
        ("threads = \n", "cannot be read"),
        ('extends = "own.toml"\n', "cannot be read|no profile"),
        ('extends = "./own.toml"\n', "extends itself"),
        ("extends = 3\n", "must be a name"),
    ],
)
def test_a_wrong_profile_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    own = _write(tmp_path / "own.toml", text)
    if 'extends = "own.toml"' in text:
        message = "extends itself"
    with pytest.raises(UsageError, match=message):
        load_profile(own)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="rpi4") as caught:
        load_profile("rpi44")
    assert caught.value.exit_code == 2


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml"):
        load_profile(str(tmp_path / "nowhere.toml"))


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "device_profiles.md").read_text()

    def keys(data: dict[str, object], where: str) -> list[str]:
        found = []
        for key, value in data.items():
            below = isinstance(value, dict)
            found += keys(value, f"{where}{key}.") if below else [f"`{where}{key}`"]  # type: ignore[arg-type]
        return found

    profile: DeviceProfile = load_profile("rpi4")
    assert [k for k in keys(asdict(profile), "") if k not in page] == []
    assert [name for name in BUILT_IN if f"| `{name}` |" not in page] == []
