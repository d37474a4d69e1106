"""DeiT: ViT with a second token that learned the answers of a teacher.

Touvron et al., "Training data-efficient image transformers", arXiv 2012.12877, section 4.
"""

from dataclasses import replace

from edgeformer.models.build import HeadConfig
from edgeformer.models.config import EncoderConfig
from edgeformer.models.families import vit
from edgeformer.models.families.family import Family, Settings, epsilon, image_classes, size
from edgeformer.models.name_tables import NameTable

WITH_TEACHER = "DeiTForImageClassificationWithTeacher"
NAMES = NameTable(
    prefix="deit.",
    encoder=vit.EMBEDDINGS + vit.LAYERS,
    heads={"classification": (("classifier", "classifier"),)},
    copies={},
    leftovers=(vit.POOLER, vit.MASK_TOKEN, vit.OTHER_HEADS),
)
NAMES_WITH_TEACHER = replace(
    NAMES,
    heads={
        "classification": (
            ("cls_classifier", "classifier"),
            ("distillation_classifier", "teacher_classifier"),
        )
    },
)


def read(config: Settings) -> EncoderConfig:
    """ViT's settings and a distillation token."""
    width = size(config, "intermediate_size")
    return vit.read_image_encoder(
        config, width, layer_norm_eps=epsilon(config, 1e-12), distilled=True
    )


def head_with_teacher(config: Settings, task: str) -> HeadConfig:
    """The mean of a classifier on each of both tokens."""
    return HeadConfig(task, pooling="cls", image_reads="cls_and_teacher")


FAMILY = Family(NAMES, read, vit.write, vit.head, image_classes("DeiT"))
FAMILY_WITH_TEACHER = replace(
    FAMILY,
    names=NAMES_WITH_TEACHER,
    head=head_with_teacher,
    classes={"classification": WITH_TEACHER},
)
