"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers, positions that start after the padding id.

Liu et al., "RoBERTa", arXiv 1907.11692; Conneau et al., arXiv 1911.02116; Martin et al.,
arXiv 1911.03894. They differ in training, vocabulary and tokenizer.
"""

from dataclasses import replace
from typing import Any

from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import bert
from edgeformer.models.families.family import Family, Settings, model_classes, tied, whole
from edgeformer.models.name_tables import Names, NameTable

HEADS: dict[str, Names] = {
    "classification": (("classifier.dense", "pooler"), ("classifier.out_proj", "classifier")),
    "token-classification": (("classifier", "classifier"),),
    "question-answering": (("qa_outputs", "classifier"),),
    "fill-mask": (
        ("lm_head.dense", "dense"),
        ("lm_head.layer_norm", "norm"),
        ("lm_head.bias", "bias"),
    ),
}
COPIES: dict[str, Names] = {
    "fill-mask": (
        ("lm_head.decoder.weight", "encoder.embeddings.tokens.weight"),
        ("lm_head.decoder.bias", "bias"),
    )
}
OTHER_HEADS = (r"(lm_head|classifier|qa_outputs)\.", "the head of another task")
NAMES = NameTable(
    prefix="roberta.",
    encoder=bert.EMBEDDINGS + bert.LAYERS,
    heads=HEADS,
    copies=COPIES,
    leftovers=(bert.BUFFERS, bert.POOLER, OTHER_HEADS),
    old_endings=bert.OLD_NORMS,
)


def padding_id(config: Settings) -> int:
    """Id of the padding token, 1 unless config.json says otherwise."""
    return whole(config, "pad_token_id", 1)


def read(config: Settings) -> EncoderConfig:
    """BERT's settings; positions count up from the one after the padding id."""
    return replace(bert.read(config), position_start=padding_id(config) + 1)


def write(config: EncoderConfig) -> dict[str, Any]:
    """config.json of an encoder whose layers are alike."""
    return {**bert.write(config), "pad_token_id": config.position_start - 1}


def head(config: Settings, task: str) -> HeadConfig:
    """tanh under the classifier; gelu in the masked language model whatever the encoder has."""
    if task != "fill-mask":
        return HeadConfig(task)
    tied(config)
    return HeadConfig(task, activation="gelu")


ROBERTA = Family(NAMES, read, write, head, model_classes("Roberta"))
XLM_ROBERTA = replace(ROBERTA, classes=model_classes("XLMRoberta"))
CAMEMBERT = replace(ROBERTA, classes=model_classes("Camembert"))
