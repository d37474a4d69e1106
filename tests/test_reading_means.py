"""Classifiers that read the mean of the tokens' states, from a recipe's word to every engine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from edgeformer.compression.losses import Side
from edgeformer.compression.making import make_student
from edgeformer.compression.recipe import Student
from edgeformer.compression.recipe_file import load_recipe
from edgeformer.compression.traces import Trace
from edgeformer.errors import UsageError
from edgeformer.models.checkpoint import LoadedModel, load_checkpoint
from edgeformer.models.exits import with_exits
from edgeformer.models.heads import SequenceClassifier
from edgeformer.models.saving import save_checkpoint
from edgeformer.pipeline import convert
from edgeformer.runtime import load
from tests.compressible import CONFIGS, HEADS, batch_for, tiny
from tests.test_exits import assert_close, chained
from tests.test_saving import assert_same
from tests.tiny_models import TEXTS, tiny_bert_folder


def reading_means(folder: Path) -> LoadedModel:
    """A tiny classifier of transformers whose student of all layers reads means."""
    loaded = load_checkpoint(tiny_bert_folder(folder, "classification"))
    module, head = make_student(Student(reads="mean"), loaded.module, loaded.head, seed=0)
    assert (head.text_reads, loaded.head.text_reads) == ("mean", "cls"), "the teacher's stays"
    return replace(loaded, module=module, head=head)


def test_it_answers_by_the_mean_of_the_last_states(tmp_path: Path) -> None:
    """The oracle is transformers' encoder, one text at a time, without padding."""
    loaded = reading_means(tmp_path / "model")
    module: Any = loaded.module
    theirs = transformers.BertModel.from_pretrained(tmp_path / "model", add_pooling_layer=False)
    texts = [torch.tensor([2, 9, 7, 12, 3]), torch.tensor([2, 8, 3])]
    batch = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    mask = torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])
    with torch.no_grad():
        found = module(batch, mask, torch.zeros_like(batch))["logits"]
        for row, text in zip(found, texts, strict=True):
            mean = theirs.eval()(text[None]).last_hidden_state[0].mean(0)
            assert_close(row, module.classifier(torch.tanh(module.pooler(mean))))


def test_it_is_saved_in_our_own_form_and_comes_back(tmp_path: Path) -> None:
    """transformers would read the folder of a family and answer by the first token."""
    loaded = reading_means(tmp_path / "model")
    saved = save_checkpoint(loaded, tmp_path / "saved")
    assert_same(loaded, load_checkpoint(saved))
    assert load_checkpoint(saved).module.pooling == "mean"
    with pytest.raises(ValueError, match="edgeformer"):
        transformers.AutoModelForSequenceClassification.from_pretrained(saved)


@pytest.mark.parametrize("name", ["bert", "albert", "mpnet"])
def test_its_last_layer_reads_means_behind_exits_too(name: str) -> None:
    plain: Any = tiny(name, "classification")
    by_first = plain(**batch_for(name))["logits"]
    plain.pooling = "mean"
    model, batch = with_exits(plain, torch.Generator().manual_seed(1), "cls"), batch_for(name)
    with torch.no_grad():
        wanted = plain(**batch)["logits"]
        assert float((wanted - by_first).abs().max()) > 1e-3
        assert torch.equal(model(**batch)["logits"], wanted)
        assert_close(model.all_logits(**batch)[-1], wanted)
        assert_close(chained(model, (1, 1, 1), batch)[-1], wanted)


@pytest.mark.parametrize("engine", ["onnx", "tflite", "numpy"])
def test_it_converts(engine: str, tmp_path: Path) -> None:
    loaded = reading_means(tmp_path / "model")
    profile = tmp_path / "short.toml"
    profile.write_text('extends = "x86"\n[length]\nmax_tokens = 16\nbucket_tokens = [16]\n')
    report = convert(
        save_checkpoint(loaded, tmp_path / "saved"),
        profile=str(profile),
        output=tmp_path / "means.edge",
        engines=(engine,),
        precisions=("fp32",),
    )
    model = load(report.path, engine=f"{engine}-fp32")
    for text in TEXTS:
        ids = torch.tensor([model.tokenizer.encode(text)])
        with torch.no_grad():
            logits = loaded.module(ids, torch.ones_like(ids), torch.zeros_like(ids))["logits"]
        found = {label.name: label.score for label in model.classify(text, top_k=3)}
        scores = [found[name] for name in loaded.labels]
        np.testing.assert_allclose(scores, logits[0].softmax(-1).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["layers", "sizes"])
def test_a_recipe_says_what_a_student_reads(kind: str) -> None:
    teacher: Any = tiny("bert", "classification")
    teacher.pooling = "mean"
    head = replace(HEADS["classification"], text_reads="mean")
    sizes = Student(kind=kind, layers=2)
    assert make_student(sizes, teacher, head, 0)[0].pooling == "mean", "as the teacher does"
    made, of_made = make_student(replace(sizes, reads="cls"), teacher, head, 0)
    assert (made.pooling, of_made.text_reads) == ("cls", "cls")
    assert teacher.pooling == "mean"


def test_what_reads_no_text_has_no_such_word(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classifiers of texts"):
        make_student(Student(reads="mean"), tiny("bert", "embedding"), HEADS["classification"], 0)
    recipe = tmp_path / "r.toml"
    recipe.write_text('extends = "tang_bilstm"\n[student]\nreads = "mean"\n')
    with pytest.raises(UsageError, match="has no reads"):
        load_recipe(str(recipe))
    with pytest.raises(UsageError, match="pooling"):
        SequenceClassifier(CONFIGS["bert"], 2, pooling="last")


def test_losses_on_a_text_see_what_its_classifier_reads() -> None:
    states, mask = torch.randn(2, 4, 8), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    trace = Trace(final=states)
    assert torch.equal(Side({}, trace).text(mask), states[:, 0])
    mean = torch.stack([states[0].mean(0), states[1, :2].mean(0)])
    assert_close(Side({}, trace, "mean").text(mask), mean)
