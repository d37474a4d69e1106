"""A bundle with exits from checkpoint to answers: each text goes only as far as it needs."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgeformer.converters.exit_verification import verify_exits
from edgeformer.converters.verification import Reference
from edgeformer.device_profiles.profile import load_profile
from edgeformer.errors import BundleError, EngineError, InputError, ModelError, UsageError
from edgeformer.models.checkpoint import load_checkpoint
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from edgeformer.runtime.batch import RaggedBatch
from edgeformer.runtime.bundle import open_bundle
from edgeformer.runtime.engine import open_engine
from edgeformer.runtime.exit_times import RUNS, WARM_UPS, SegmentTimes
from edgeformer.runtime.exiting import entropy
from edgeformer.runtime.manifest import ExitPoint, ExitTable, Manifest
from edgeformer.runtime.manifest_json import dump_manifest, parse_manifest
from edgeformer.runtime.model import Model
from edgeformer.runtime.plan import parse_plan
from tests.command_line import Edgeformer
from tests.exit_models import LAYERS, exit_bundle, exit_checkpoint, exit_folder
from tests.tiny_bundles import bundle, texts_file
from tests.tiny_models import TEXTS

MIXED = [*TEXTS, "a", "a b c d e f g h i j k l m n o p", ""]
# The others are converted in slow tests.
QUICK = [("numpy", "fp32"), ("tflite", "int8"), ("onnx", "int8")]
SLOW = [("numpy", "int8"), ("tflite", "fp32"), ("onnx", "fp32")]
VARIANTS = [*QUICK, *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW)]
NEAR = {"fp32": 1e-5, "int8": 0.1}


def tokens(model: Model, texts: list[str]) -> RaggedBatch:
    found = [model.tokenizer.encoding(text) for text in texts]
    return RaggedBatch.from_lists([e.ids for e in found], [e.type_ids for e in found])


def torch_logits(folder: Path, batch: RaggedBatch) -> NDArray[np.float32]:
    """(layers, texts, classes) of PyTorch, each text alone."""
    loaded = load_checkpoint(folder)
    texts = []
    with torch.no_grad():
        for i in range(len(batch)):
            one = batch.select([i])
            arrays = one.padded(int(one.lengths[0]))
            inputs = {k: torch.from_numpy(v) for k, v in arrays.items() if k in loaded.input_names}
            texts.append([logits[0].numpy() for logits in loaded.module.all_logits(**inputs)])
    return np.array(texts).swapaxes(0, 1)


def all_logits(engine: Any, batch: RaggedBatch) -> NDArray[np.float32]:
    """(segments, texts, classes) of an engine."""
    rows: dict[tuple[int, int], NDArray[Any]] = {}

    def note(segment: int, texts: NDArray[np.intp], logits: NDArray[Any]) -> NDArray[np.bool_]:
        rows.update({(segment, int(t)): row for t, row in zip(texts, logits, strict=True)})
        return np.zeros(len(texts), np.bool_)

    last, segments = engine.encode_exits(batch, note)
    assert set(segments.tolist()) == {LAYERS}
    early = [[rows[k, i] for i in range(len(batch))] for k in range(1, LAYERS)]
    return np.array([*early, last])


def spreading(logits: NDArray[np.float32]) -> float:
    """A threshold at which some texts leave earlier than others: half of those that get to the
    surest exit leave there."""
    early = np.sort(entropy(logits)[:-1], axis=1)
    middle = early.shape[1] // 2
    surest = early[early[:, middle].argmin()]
    return float(surest[middle : middle + 2].mean())  # of two, so that rounding decides nothing


@pytest.mark.parametrize(("name", "precision"), VARIANTS)
def test_every_exit_answers_as_pytorch(name: str, precision: str) -> None:
    path = exit_bundle(name, precision)
    with load(path) as model:
        batch = tokens(model, MIXED)
    with open_bundle(path) as opened:
        engine = open_engine(opened, opened.manifest.variants[0], 1)
        found = all_logits(engine, batch)
        wanted = torch_logits(exit_checkpoint(), batch)
        assert np.abs(found - wanted).max() <= NEAR[precision]
        whole = engine.encode(batch)["logits"]
        assert np.abs(found[-1] - whole).max() <= 1e-6  # the chain is the model
        engine.close()


@pytest.mark.parametrize(("name", "precision"), VARIANTS)
def test_texts_leave_alone_and_in_any_batch(name: str, precision: str) -> None:
    """Each text is at another layer when it leaves; the rows of the others close up."""
    path = exit_bundle(name, precision)
    with load(path) as model:
        batch = tokens(model, MIXED)
    with open_bundle(path) as opened:
        engine = open_engine(opened, opened.manifest.variants[0], 1)
        every = all_logits(engine, batch)
        when = np.array([1, 3, 2, LAYERS, 2, 3, 1])

        def leave(segment: int, texts: NDArray[np.intp], logits: Any) -> NDArray[np.bool_]:
            assert len(texts) == len(logits) and (when[texts] >= segment).all()
            return when[texts] == segment

        logits, segments = engine.encode_exits(batch, leave)
        assert segments.tolist() == when.tolist()
        assert np.abs(logits - every[when - 1, np.arange(len(when))]).max() <= 1e-5
        logits, segments = engine.encode_exits(batch.select([]), leave)
        assert logits.shape == (0, 2) and segments.shape == (0,)
        engine.close()


@pytest.mark.parametrize(
    "family",
    [
        "albert",
        "mpnet",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("roberta", "mobilebert")),
    ],
)
def test_families_in_segments(family: str) -> None:
    """Tied layers, positions from 2, a bias by relative position, and norms that were folded."""
    path = exit_bundle("numpy", "fp32", family)
    with load(path) as model:
        batch = tokens(model, MIXED)
        layers = model.variant.exits.layers if model.variant.exits else ()
    with open_bundle(path) as opened:
        engine = open_engine(opened, opened.manifest.variants[0], 1)
        first: list[NDArray[Any]] = []

        def note(segment: int, texts: NDArray[np.intp], logits: Any) -> NDArray[np.bool_]:
            first.append(logits[np.argsort(texts)])
            return np.zeros(len(texts), np.bool_)

        last, _ = engine.encode_exits(batch, note)
        wanted = torch_logits(exit_checkpoint(family), batch)
        assert len(layers) == len(wanted) > 1
        assert np.abs(last - wanted[-1]).max() <= 1e-5 * max(1, np.abs(wanted).max())
        if len(first) == len(wanted) - 1:  # a packed plan runs all texts at once
            assert np.abs(np.array(first) - wanted[:-1]).max() <= 1e-5 * max(
                1, np.abs(wanted).max()
            )
        engine.close()


def test_exits_only_where_they_are_wanted(tmp_path: Path) -> None:
    """Each exit costs time; a text may leave after the layers that were named, and the last."""
    report = convert(
        exit_checkpoint(),
        profile="x86",
        output=tmp_path / "a.edge",
        engines=("numpy",),
        precisions=("fp32",),
        exit_layers=(3, 1),
    )
    with load(report.path) as model:
        assert model.variant.exits == ExitTable((1, 3, 4))
        found = model.exit_logits(MIXED)
        wanted = torch_logits(exit_checkpoint(), tokens(model, MIXED))[[0, 2, 3]]
        assert np.abs(found - wanted).max() <= 1e-5
        labels = model.classify(MIXED, exit="patience:1")
        assert {row[0].exit_layer for row in labels} <= {3, 4}


@pytest.mark.parametrize("layers", [(5,), (0, 2), (LAYERS,)])
def test_layers_that_are_no_exits_are_said(tmp_path: Path, layers: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="are after layers 1 to 3"):
        convert(exit_checkpoint(), profile="x86", output=tmp_path / "a.edge", exit_layers=layers)
    with pytest.raises(UsageError, match="this one has none"):
        convert(profile="x86", output=tmp_path / "a.edge", exit_layers=layers)


@pytest.mark.slow
def test_texts_that_are_padded_to_a_bucket_answer_the_same() -> None:
    """mpnet's bias by position has no form for any length: each text is padded, once."""
    path = exit_bundle("tflite", "fp32", "mpnet")
    with open_bundle(path) as opened, load(path) as model:
        variant = opened.manifest.variants[0]
        assert variant.layout == "buckets"
        batch = tokens(model, MIXED)
        engine = open_engine(opened, variant, 1)
        last, _ = engine.encode_exits(batch, lambda k, texts, logits: np.zeros(1, np.bool_))
        wanted = torch_logits(exit_checkpoint("mpnet"), batch)
        assert np.abs(last - wanted[-1]).max() <= 1e-4 * max(1, np.abs(wanted).max())
        with pytest.raises(InputError, match="longer than this file's largest length"):
            engine.encode_exits(tokens(model, ["a " * 600]), lambda k, texts, logits: texts >= 0)
        engine.close()


@pytest.mark.parametrize(("name", "precision"), VARIANTS)
def test_a_file_holds_each_weight_once(name: str, precision: str) -> None:
    """Five programs, and no more bytes than the parameters have."""
    manifest = read(exit_bundle(name, precision))
    files = [record.size for file, record in manifest.files.items() if file.startswith(name)]
    values = sum(p.numel() for p in load_checkpoint(exit_checkpoint()).module.parameters())
    graphs = 250_000  # all layers once more would be 1.2 MB in fp32, 0.3 MB in int8
    assert sum(files) < {"fp32": 4.1, "int8": 1.2}[precision] * values + graphs


@pytest.mark.slow
def test_onnx_in_a_zip_one_text_at_a_time(tmp_path: Path) -> None:
    """x86-vnni takes int8 ranges of whole texts: no mask; and the weights lie inside the zip."""
    report = convert(
        exit_checkpoint(),
        profile="x86-vnni",
        output=tmp_path / "a.zip",
        engines=("onnx",),
        precisions=("int8", "fp16"),
        calibration=texts_file(),
        zip_file=True,
        force=True,
    )
    int8, half = report.manifest.variants
    assert int8.layout == "single" and half.exits is None and set(half.programs) == {"main"}
    with load(tmp_path / "a.zip", int8.id) as model, load(exit_bundle("onnx", "fp32")) as exact:
        found = model.classify(MIXED, exit="patience:1")
        assert {labels[0].exit_layer for labels in found} <= set(range(2, LAYERS + 1))
        wanted = exact.classify(MIXED, exit=0.0)
        near = [labels[0].score for labels in model.classify(MIXED, exit=0.0)]
        assert near == pytest.approx([labels[0].score for labels in wanted], abs=0.05)


def test_verification_finds_a_segment_that_is_wrong() -> None:
    """Exits that answer something else than PyTorch's do not become a bundle."""
    path = exit_bundle()
    tolerance = load_profile("x86").tolerance
    with load(path) as model, open_bundle(path) as opened:
        batch = tokens(model, MIXED)
        variant = opened.manifest.variants[0]
        engine = open_engine(opened, variant, 1)
        reference = Reference(batch, (), ())
        wanted = torch_logits(exit_checkpoint(), batch)
        parity = verify_exits(engine, variant, reference, wanted, tolerance)
        assert parity.passed and parity == variant.parity
        wanted[1, 3] += 0.01
        parity = verify_exits(engine, variant, reference, wanted, tolerance)
        assert not parity.passed
        assert [failure.split(":")[0] for failure in parity.failures] == ["segment_2"]
        engine.close()


def test_a_plan_holds_a_tied_layer_once() -> None:
    path = exit_bundle("numpy", "fp32", "albert")
    values = sum(p.numel() for p in load_checkpoint(exit_checkpoint("albert")).module.parameters())
    with open_bundle(path) as opened:
        plan = parse_plan(opened.map("numpy-fp32/model.plan"))
        held = sum(tensor.array.size for tensor in plan.tensors)
    assert held < 1.05 * values


def test_classify_says_at_which_layer_a_text_left() -> None:
    with load(exit_bundle()) as model:
        wanted = torch_logits(exit_checkpoint(), tokens(model, MIXED))
        threshold = spreading(wanted)
        sure = entropy(wanted) < threshold
        sure[-1] = True
        layers = sure.argmax(axis=0) + 1
        assert len(set(layers.tolist())) > 1, "the test needs texts that leave at several layers"
        found = model.classify(MIXED, exit=threshold, top_k=None)
        assert [labels[0].exit_layer for labels in found] == layers.tolist()
        for i, labels in enumerate(found):
            logits = wanted[layers[i] - 1, i].astype(np.float64)
            scores = np.exp(logits) / np.exp(logits).sum()
            assert [label.score for label in labels] == pytest.approx(
                sorted(scores)[::-1], abs=1e-5
            )
            alone = model.classify(MIXED[i], exit=threshold)
            assert (alone[0].name, alone[0].exit_layer) == (labels[0].name, layers[i])
        model.classify(MIXED, exit=threshold)
        counts = {n: layers.tolist().count(n) for n in sorted(set(layers.tolist()))}
        assert model.last_call.exit_layers == counts


def test_without_exit_a_text_goes_through_all_layers() -> None:
    with load(exit_bundle()) as model:
        plain = model.classify(MIXED)
        assert [labels[0].exit_layer for labels in plain] == [None] * len(MIXED)
        assert model.last_call.exit_layers == {}
        never = model.classify(MIXED, exit=0.0)
        assert [labels[0].exit_layer for labels in never] == [LAYERS] * len(MIXED)
        assert [x[0].name for x in never] == [x[0].name for x in plain]
        assert model.classify([], exit=0.2) == []
        at_once = model.classify(MIXED, exit="patience:1")
        assert all(2 <= (labels[0].exit_layer or 0) <= LAYERS for labels in at_once)


def test_a_long_text_in_windows_leaves_with_its_last_window() -> None:
    long = " ".join("abcdefghijklmnopqrstuvwxyz" * 4)
    with load(exit_bundle()) as model:
        found = model.classify(long, exit=0.5, on_long="window")
        assert model.last_call.windows > 1
        assert found[0].exit_layer == max(model.last_call.exit_layers)
        with pytest.raises(InputError, match="not in windows"):
            model.classify(long, latency_ms=50, on_long="window")


class _Clock:
    """Segment times that are given, not measured."""

    rest = 0.0

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds

    def at(self, length: int, longest: int) -> tuple[float, ...]:
        return tuple(self.seconds)

    def least(self, length: int, longest: int) -> float:
        return self.seconds[0]

    def note(
        self, length: int, longest: int, before: float, taken: list[float], rest: float
    ) -> None:
        assert len(taken) <= len(self.seconds) and min(before, rest, *taken) > 0


def test_a_latency_limit_leaves_before_the_segment_that_would_be_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with load(exit_bundle()) as model:
        clock = _Clock([0.001, 0.001, 1000.0, 0.001])
        monkeypatch.setattr("edgeformer.runtime.exit_times.SegmentTimes", lambda run, known: clock)
        found = model.classify(MIXED, latency_ms=100_000)
        assert [labels[0].exit_layer for labels in found] == [2] * len(MIXED)
        sure = model.classify(MIXED, exit=0.69, latency_ms=100_000)
        assert all((labels[0].exit_layer or 9) <= 2 for labels in sure)
        clock.seconds, clock.rest = [0.001] * LAYERS, 100.0  # what follows the model counts too
        assert model.classify("a", latency_ms=100_000)[0].exit_layer == 1
        clock.seconds = [0.5, 0.1, 0.1, 0.1]
        with pytest.raises(InputError, match="after the first of 4 segments takes 500 ms"):
            model.classify("a", latency_ms=499)


def test_a_generous_limit_changes_nothing() -> None:
    with load(exit_bundle()) as model:
        assert model.classify("a", latency_ms=60_000)[0].exit_layer == LAYERS


def test_segments_are_measured_once_for_each_length() -> None:
    runs: list[int] = []

    def run(batch: RaggedBatch, leave: Callable[..., Any]) -> None:
        runs.append(len(batch.ids))
        for segment in (1, 2):
            leave(segment, np.array([0]), np.zeros((1, 2)))

    times = SegmentTimes(run)
    assert len(times.at(20, 512)) == 3
    assert set(runs) == {16, 32} and len(runs) == 2 * (RUNS + WARM_UPS)
    times.at(17, 512)
    assert len(runs) == 2 * (RUNS + WARM_UPS)
    times.at(500, 511)
    assert set(runs) == {16, 32, 256, 511}, "never longer than the model takes"
    low, high = times.at(16, 512), times.at(32, 512)
    between = times.at(24, 512)
    assert between == pytest.approx([(a + b) / 2 for a, b in zip(low, high, strict=True)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"exit": "auto"}, "not calibrated"),
        ({"exit": 0.8}, "from 0 to ln(2)"),
        ({"exit": -1}, "from 0 to ln(2)"),
        ({"exit": "probability:0.2"}, "from 0.5 to 1"),
        ({"exit": f"patience:{LAYERS}"}, "whole number from 1 to 3"),
        ({"exit": "now"}, "exit is 'now'"),
        ({"exit": True}, "exit is 'True'"),
        ({"latency_ms": 0}, "not a number above 0"),
        ({"latency_ms": float("nan")}, "not a number above 0"),
        ({"latency_ms": "soon"}, "not a number above 0"),
        ({"latency_ms": 1e-9}, "after the first of 4 segments takes"),
        ({"exit": 0.1, "candidates": ["a"]}, "neither with candidates"),
    ],
)
def test_bad_arguments_are_one_clear_error(arguments: dict[str, Any], said: str) -> None:
    with load(exit_bundle()) as model, pytest.raises(InputError) as error:
        model.classify("a", **arguments)
    assert said in error.value.message and error.value.hint


def test_a_model_without_exits_says_so() -> None:
    with load(bundle()) as model, pytest.raises(InputError, match="has no exits"):
        model.classify("a", exit=0.1)


def test_auto_takes_the_calibrated_threshold(tmp_path: Path) -> None:
    with load(exit_bundle()) as model:
        threshold = spreading(torch_logits(exit_checkpoint(), tokens(model, MIXED)))
        wanted = [x[0].exit_layer for x in model.classify(MIXED, exit=threshold)]
        table = model.variant.exits
    assert table is not None and len(set(wanted)) > 1
    calibrated = dataclasses.replace(
        table, threshold=threshold, curve=(ExitPoint(threshold, 2.0, 0.1, 0.4),)
    )
    path = with_exits_table(exit_bundle(), tmp_path / "a.edge", calibrated)
    with load(path) as model:
        assert model.variant.exits == calibrated  # as written
        assert [x[0].exit_layer for x in model.classify(MIXED, exit="auto")] == wanted
    none = dataclasses.replace(calibrated, threshold=None, max_drop=0.5, texts=7)
    path = with_exits_table(exit_bundle(), tmp_path / "b.edge", none)
    with load(path) as model, pytest.raises(InputError, match="kept the budget of"):
        model.classify("a", exit="auto")


def with_exits_table(source: Path, target: Path, table: ExitTable) -> Path:
    return changed(source, target, lambda v: dataclasses.replace(v, exits=table))


def changed(source: Path, target: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a bundle whose variant was changed, and its digest with it."""
    shutil.copytree(source, target)
    manifest = parse_manifest((source / "manifest.json").read_bytes())
    variants = tuple(change(v) for v in manifest.variants)
    made = dataclasses.replace(manifest, variants=variants)
    (target / "manifest.json").write_bytes(dump_manifest(made))
    return target


def programs(**entries: Any) -> Callable[[Any], Any]:
    return lambda v: dataclasses.replace(
        v, programs={k: p for k, p in {**v.programs, **entries}.items() if p is not None}
    )


def read(path: Path) -> Manifest:
    return parse_manifest((path / "manifest.json").read_bytes())


def test_missing_or_reordered_segments_are_found(tmp_path: Path) -> None:
    source = exit_bundle()
    variant = read(source).variants[0]
    second, third, last = (variant.programs[f"segment_{k}"] for k in (2, 3, 4))
    bad = {
        "segment_1 to segment_4": programs(segment_3=None),
        "segment_5": programs(segment_5=last),
        "in another order": programs(segment_2=third, segment_3=second),
        "does not fit": programs(segment_1=dataclasses.replace(second, entry="segment_1")),
        "no table of exits": lambda v: dataclasses.replace(v, exits=None),
        "not in order": lambda v: dataclasses.replace(v, exits=ExitTable((1, 3, 2, 4))),
    }
    for number, (said, change) in enumerate(bad.items()):
        with pytest.raises(BundleError, match=said):
            load(changed(source, tmp_path / f"{number}.edge", change))


def test_segments_of_another_order_fail_the_self_test(tmp_path: Path) -> None:
    """A manifest cannot tell one layer's weights from another's: the golden text can."""
    source = exit_bundle()
    path = tmp_path / "swapped.edge"
    shutil.copytree(source, path)
    swap_segments(path)
    with load(path) as model:
        model.classify("a")  # main is as it was
        with pytest.raises(EngineError, match="self-test: segments"):
            model.classify("a", exit=0.1)


def swap_segments(path: Path) -> None:
    """Exchange the programs of segments 2 and 3 in a NumPy plan, and write its new hash."""
    from edgeformer.converters.bundle_writer import file_records

    file = path / "numpy-fp32" / "model.plan"
    data = file.read_bytes()
    length = int.from_bytes(data[8:16], "little")
    header = json.loads(data[16 : 16 + length])
    two, three = header["programs"]["segment_2"], header["programs"]["segment_3"]
    header["programs"] |= {"segment_2": three, "segment_3": two}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    assert len(text) == length
    file.write_bytes(data[:16] + text + data[16 + length :])
    manifest = dataclasses.replace(read(path), files=file_records(path))
    (path / "manifest.json").write_bytes(dump_manifest(manifest))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (ExitTable((1, 2, 3, 4), "luck"), "criterion"),
        (ExitTable((1, 2, 3, 4), threshold=5.0), "threshold"),
        (ExitTable((1, 2, 3, 4), lookup_step=0.01, lookup=((0.1,),)), "predictor"),
        (ExitTable((1, 2, 3, 4), lookup=((0.1, 0.1),)), "steps have no size"),
    ],
)
def test_a_table_that_cannot_be_is_refused(table: ExitTable, said: str, tmp_path: Path) -> None:
    path = with_exits_table(exit_bundle(), tmp_path / "bad.edge", table)
    with pytest.raises(BundleError, match=said):
        load(path)


def test_exits_of_several_labels_do_not_convert(tmp_path: Path) -> None:
    folder = exit_folder(tmp_path / "several", problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="one label"):
        convert(folder, profile="x86", output=tmp_path / "x.edge", engines=("numpy",))
    assert not (tmp_path / "x.edge").exists()


def test_the_command_line_says_the_layer(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edgeformer, path = Edgeformer(capfd, monkeypatch), exit_bundle()
    code, out, _ = edgeformer("run", path, "a", "--exit", "0.69")
    assert code == 0 and out.rstrip().split("\t")[-1].startswith("layer ")
    _, out, _ = edgeformer("run", path, "a", "--exit", "0", "--json")
    assert json.loads(out)["labels"][0]["exit_layer"] == LAYERS
    _, out, _ = edgeformer("run", path, "a", "--json")
    assert "exit_layer" not in json.loads(out)["labels"][0]
    code, out, err = edgeformer("run", path, "a", "--exit", "auto")
    assert code == 1 and "not calibrated" in err and "--exits DATA" in err and not out
    assert edgeformer("run", path, "a", "--latency-ms", "60000")[0] == 0
