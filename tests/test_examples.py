"""Training data: every format reads, a bad row is named, and batches come in an order that a seed
decides, that an interrupted run can take up again, and that several processes share."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgeformer.compression.batches import Batch
from edgeformer.compression.batching import (
    BatchSettings,
    Tokenized,
    batch_rows,
    batch_settings,
    batches,
    every_example,
    num_steps,
    tokenize,
)
from edgeformer.compression.examples import (
    Columns,
    Example,
    Examples,
    read_examples,
    split,
    without_labels,
)
from edgeformer.errors import DataError, UsageError
from edgeformer.models.checkpoint import load_checkpoint
from tests.tiny_models import TEXTS, tiny_bert_folder, tiny_family_folder, tiny_tokenizer_json


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- reading


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.jsonl",
            '{"text": "fine, \\"so\\"", "label": "good"}\n\n{"text": "", "label": "bad"}\n',
        ),
        ("a.csv", 'label,text\ngood,"fine, ""so"""\nbad,\n'),
        ("a.tsv", 'sentence\tlabel\nfine, "so"\tgood\n\tbad\n'),
        ("a.tsv", '\ufeffidx\ttext\tcategory\n0\tfine, "so"\tgood\n1\t\tbad\n'),
    ],
)
def test_every_format_reads_the_same_examples(tmp_path: Path, name: str, text: str) -> None:
    examples = read_examples(_write(tmp_path / name, text))
    assert examples.rows == (Example('fine, "so"', None, "good"), Example("", None, "bad"))
    assert examples.labels == ("bad", "good")
    assert examples.targets == (1, 0)


def test_a_glue_file_with_unbalanced_quotes_reads_whole(tmp_path: Path) -> None:
    """As the csv module without quoting reads it: else rows would run into each other."""
    path = _write(tmp_path / "a.tsv", 'label\tsentence\n1\t"open\n0\t"shut" , then more\n1\tb"\n')
    with path.open(encoding="utf-8") as file:
        expected = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = read_examples(path).rows
    assert [(row.text, row.label) for row in rows] == [
        (row["sentence"], row["label"]) for row in expected
    ]


def test_named_columns_and_pairs(tmp_path: Path) -> None:
    text = '{"q": "who", "a": "me", "text": "other", "ok": true}\n'
    text += '{"q": "how", "a": "so", "text": "other", "ok": false}\n'
    path = _write(tmp_path / "a.jsonl", text)
    examples = read_examples(path, Columns(text="q", pair="a", label="ok"))
    assert examples.rows[0] == Example("who", "me", "true")
    assert examples.labels == ("false", "true")
    assert list(examples.texts) == ["who", "me", "how", "so"]


def test_a_pair_column_can_be_left_out() -> None:
    rows = [{"premise": "p", "hypothesis": "h", "label": str(i)} for i in range(2)]
    assert read_examples(rows).rows[0].pair == "h"
    assert read_examples(rows, Columns(pair="")).rows[0].pair is None


def test_labels_of_a_model_keep_its_order_and_may_be_numbers() -> None:
    def targets(labels: list[Any], names: list[str]) -> tuple[float, ...]:
        return read_examples([{"text": "x", "label": v} for v in labels], labels=names).targets

    assert targets(["b", "a"], ["b", "a", "c"]) == (0, 1)
    assert targets([1, 0, 2.0], ["positive", "negative", "none"]) == (1, 0, 2)
    assert targets(["1", "0"], ["1", "0"]) == (0, 1)  # a name before a number


def test_regression_reads_numbers(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "sentence1,sentence2,score\na,b,2.5\nc,d,-1e1\ne,f,3\n")
    examples = read_examples(path, regression=True)
    assert examples.labels == ()
    assert examples.targets == (2.5, -10.0, 3.0)


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y"}\n', {}, "line 2: no label column"),
        ("a.csv", "text,label\nx,1\ny,\n", {}, "line 3: label missing"),
        ("a.csv", "text,label\nx,1\ny\n", {}, "line 3: label missing"),
        ("a.jsonl", '{"text": "x", "label": null}\n', {}, "line 1: label missing"),
        ("a.csv", "text,label\nx,a\ny,d\n", {"labels": ["a", "b"]}, "line 3: unknown label 'd'"),
        ("a.csv", "text,label\nx,0\ny,2\n", {"labels": ["a", "b"]}, "line 3: unknown label '2'"),
        ("a.csv", "text,label\nx,0\ny,1\n", {"labels": ["0", "b"]}, "line 3: unknown label '1'"),
        ("a.csv", "text,label\nx,a\ny,a\n", {}, "all 2 texts have the label 'a'"),
        ("a.csv", "text,label\n", {}, "has no text"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', {}, "line 1: the label 0.5"),
        ("a.jsonl", '{"text": "x", "label": ["a"]}\n', {}, "line 1: the label"),
        ("a.csv", "text,label\nx,high\n", {"regression": True}, "line 2: the label 'high' is not"),
        ("a.csv", "text,label\nx,nan\n", {"regression": True}, "line 2: the label 'nan' is not"),
        ("a.jsonl", '{"text": "x", "label": true}\n', {"regression": True}, "line 1: the label"),
        (
            "a.csv",
            "sentence,label\nx,a\n",
            {"columns": Columns(text="sentense")},
            "(?s)line 2: no column 'sentense'.*did you mean 'sentence'",
        ),
        ("a.csv", "text,lab\nx,a\n", {"columns": Columns(label="zzz")}, "no column 'zzz'"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', {}, "line 1: text is not a text"),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, name: str, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_examples(_write(tmp_path / name, text), **options)


def test_rows_of_a_program_are_counted() -> None:
    with pytest.raises(DataError, match="row 2: label missing"):
        read_examples([{"text": "x", "label": "a"}, {"text": "x", "label": ""}])
    with pytest.raises(DataError, match="has no text"):
        read_examples([])


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        read_examples(tmp_path / "none.csv")
    with pytest.raises(UsageError, match=r"use one of: \.jsonl"):
        read_examples(_write(tmp_path / "a.txt", "x\n"))
    (tmp_path / "a.csv").write_bytes("text,label\ncaf\u00e9,1\n".encode("latin1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_examples(tmp_path / "a.csv")


# ---- splitting


@given(
    texts=st.lists(st.sampled_from("abcdefghijklm"), min_size=2, max_size=60),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 5),
)
def test_a_split_keeps_every_row_and_shares_no_text(
    texts: list[str], share: float, seed: int
) -> None:
    """What was trained on must not be measured on, duplicates included."""
    examples = Examples(tuple(Example(t, None, str(i)) for i, t in enumerate(texts)), ("0", "1"))
    if len(set(texts)) == 1:
        with pytest.raises(UsageError, match="too few"):
            split(examples, share, seed)
        return
    rest, held = split(examples, share, seed)
    assert rest.rows
    assert held.rows
    assert {row.text for row in rest.rows}.isdisjoint({row.text for row in held.rows})
    assert sorted((*rest.rows, *held.rows), key=lambda row: int(str(row.label))) == list(
        examples.rows
    )
    most = max(map(texts.count, texts))
    assert abs(len(held.rows) - max(1, round(share * len(texts)))) < most
    assert split(examples, share, seed) == (rest, held)


def test_a_split_follows_its_seed() -> None:
    examples = Examples(tuple(Example(str(i), None, "a") for i in range(100)), ("a", "b"))
    chosen = [split(examples, 0.1, seed)[1].rows for seed in range(5)]
    assert len(set(chosen)) == 5
    assert {len(rows) for rows in chosen} == {10}
    with pytest.raises(UsageError, match="cannot be held out"):
        split(examples, 1.0, 0)


# ---- batches


def _tokenized(lengths: list[int]) -> Tokenized:
    """Examples of these lengths, whose tokens are their own number."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(torch.tensor(lengths))
    return Tokenized(ids, torch.zeros(len(ids), dtype=torch.int8), starts, None, 0)


def _rows(tokenized: Tokenized, options: BatchSettings, epoch: int, start: int = 0) -> list[Any]:
    return [rows.tolist() for rows in batch_rows(tokenized, options, epoch, start)]


many_lengths = st.lists(st.integers(1, 9), min_size=1, max_size=200)


@given(
    lengths=many_lengths, half=st.integers(1, 6), seed=st.integers(0, 3), epoch=st.integers(0, 3)
)
@settings(deadline=None)
def test_every_example_comes_in_every_epoch_whoever_shares_it(
    lengths: list[int], half: int, seed: int, epoch: int
) -> None:
    """Two processes see the batches of one, half each; a run resumed at step k sees the rest."""
    tokenized = _tokenized(lengths)
    whole = BatchSettings(2 * half, seed)
    all_rows = _rows(tokenized, whole, epoch)
    assert len(all_rows) == num_steps(tokenized, whole) == -(-len(lengths) // (2 * half))
    assert {len(rows) for rows in all_rows} == {2 * half}
    flat = [row for rows in all_rows for row in rows]
    assert set(flat) == set(range(len(lengths)))
    first, second = (
        _rows(tokenized, BatchSettings(2 * half, seed, rank=rank, world=2), epoch)
        for rank in range(2)
    )
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [
        sorted(rows) for rows in all_rows
    ]
    assert {len(rows) for rows in first} == {half}
    start = len(all_rows) // 2
    assert _rows(tokenized, whole, epoch, start) == all_rows[start:]


def test_orders_differ_by_epoch_and_seed() -> None:
    tokenized = _tokenized([1] * 64)
    orders = [str(_rows(tokenized, BatchSettings(8, s), e)) for s in range(3) for e in range(3)]
    assert len(set(orders)) == 9


def test_texts_of_like_length_come_together_but_meet_others() -> None:
    """Padding is what a batch costs beyond its tokens; mates that never change teach less."""
    lengths = [random.Random(0).randint(5, 60) for _ in range(6000)]
    tokenized, options = _tokenized(lengths), BatchSettings(32, 0)
    epochs = [_rows(tokenized, options, epoch) for epoch in range(2)]
    padded = [sum(max(lengths[r] for r in rows) * 32 for rows in epoch) for epoch in epochs]
    assert max(padded) < 1.1 * sum(lengths)
    mates = [{r: set(rows) for rows in epoch for r in rows} for epoch in epochs]
    shared = sum(len(mates[0][r] & mates[1][r]) - 1 for r in range(6000)) / 6000
    assert shared < 4


@pytest.mark.parametrize(("size", "rank", "world"), [(3, 0, 2), (0, 0, 1), (4, 2, 2), (4, -1, 1)])
def test_batches_that_processes_cannot_share(size: int, rank: int, world: int) -> None:
    with pytest.raises(UsageError):
        BatchSettings(size, 0, rank=rank, world=world)


def _examples() -> Examples:
    rows = [{"text": text, "label": str(i % 2)} for i, text in enumerate(TEXTS)]
    rows += [{"text": text, "pair": "not a film", "label": "1"} for text in TEXTS]
    return read_examples(rows)


def test_a_batch_is_what_tokenizers_pads(tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_bert_folder(tmp_path / "bert"))
    assert loaded.tokenizer_json is not None
    examples = _examples()
    tokenized = tokenize(examples, loaded.tokenizer_json, max_length=12)
    oracle = Tokenizer.from_str(loaded.tokenizer_json.decode())
    oracle.enable_truncation(12)
    oracle.enable_padding(pad_id=0, pad_token="[PAD]")
    seen: list[int] = []
    cut = 0
    for rows, batch in every_example(tokenized, batch_settings(loaded, size=3, seed=0)):
        chosen = [examples.rows[i] for i in rows.tolist()]
        expected = oracle.encode_batch(
            [row.text if row.pair is None else (row.text, row.pair) for row in chosen]
        )
        assert batch["input_ids"].tolist() == [e.ids for e in expected]
        assert batch["attention_mask"].tolist() == [e.attention_mask for e in expected]
        assert batch["token_type_ids"].tolist() == [e.type_ids for e in expected]
        assert batch["labels"].tolist() == [examples.targets[i] for i in rows.tolist()]
        seen += rows.tolist()
        cut += sum(bool(e.overflowing) for e in expected)
    assert sorted(seen) == list(range(len(examples.rows)))
    assert tokenized.num_truncated == cut > 0


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "mpnet"])
def test_a_batch_fits_its_model(tmp_path: Path, family: str) -> None:
    """Names of inputs, the padding id and the first position are the family's: the answer to a
    text in a batch is that to the text alone."""
    loaded = load_checkpoint(tiny_family_folder(tmp_path / family, family, "classification"))
    assert loaded.tokenizer_json is not None
    tokenized = tokenize(without_labels((t, None) for t in TEXTS), loaded.tokenizer_json, 40)
    options = batch_settings(loaded, size=4, seed=1)
    (batch,) = batches(tokenized, options, epoch=0)
    assert tuple(batch) == loaded.input_names
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert set(batch["input_ids"][padding].tolist()) == {options.pad_id}
    assert options.pad_id == (1 if family in ("roberta", "mpnet") else 0)
    (rows,) = batch_rows(tokenized, options, epoch=0)
    with torch.inference_mode():
        together = loaded.module(**batch)["logits"]
        for place, row in enumerate(rows.tolist()):
            ids = Tokenizer.from_str(loaded.tokenizer_json.decode()).encode(TEXTS[row]).ids
            alone = loaded.module(torch.tensor([ids]), torch.ones(1, len(ids)))["logits"]
            torch.testing.assert_close(together[place], alone[0], atol=1e-5, rtol=1e-5)


def _same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_resumed_batches_are_equal_in_every_tensor() -> None:
    tokenized = tokenize(_examples(), tiny_tokenizer_json(), 16)
    options = BatchSettings(2, seed=7)
    whole = list(batches(tokenized, options, epoch=3))
    rest = list(batches(tokenized, options, epoch=3, start=2))
    assert len(rest) == 2
    assert all(_same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_regression_targets_and_odd_texts() -> None:
    rows = [{"text": text, "label": 0.5} for text in ("", "a\ud800b", "x")]
    tokenized = tokenize(read_examples(rows, regression=True), tiny_tokenizer_json(), 8)
    assert tokenized.targets is not None
    assert tokenized.targets.dtype == torch.float32
    assert tokenized.lengths[0] == 2
    empty = tokenize(Examples(()), tiny_tokenizer_json(), 8)
    assert list(batches(empty, BatchSettings(4, 0), epoch=0)) == []
    assert list(every_example(empty, BatchSettings(4, 0))) == []


def test_no_room_for_special_tokens() -> None:
    with pytest.raises(UsageError, match="3 special"):
        tokenize(_examples(), tiny_tokenizer_json(), 2)


def test_json_of_huge_rows_reads(tmp_path: Path) -> None:
    rows = [{"text": "word " * 50_000, "label": i} for i in range(2)]
    path = _write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert len(read_examples(path).rows[1].text) == 250_000
