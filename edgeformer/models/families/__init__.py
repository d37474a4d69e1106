"""One file for each family of checkpoints that load into the Encoder; ``FAMILIES`` has them all.

A family is data and two small functions (``family.Family``): a name table, and how its config.json
becomes an ``EncoderConfig`` and back.
"""

from edgeformer.models.families import (
    albert,
    bert,
    deit,
    dinov2,
    distilbert,
    electra,
    ernie,
    mobilebert,
    mpnet,
    roberta,
    vit,
)
from edgeformer.models.families.family import Family, Settings

FAMILIES: dict[str, Family] = {
    "albert": albert.FAMILY,
    "bert": bert.FAMILY,
    "camembert": roberta.CAMEMBERT,
    "deit": deit.FAMILY,
    "dinov2": dinov2.FAMILY,
    "distilbert": distilbert.FAMILY,
    "electra": electra.FAMILY,
    "ernie": ernie.FAMILY,
    "mobilebert": mobilebert.FAMILY,
    "mpnet": mpnet.FAMILY,
    "roberta": roberta.ROBERTA,
    "vit": vit.FAMILY,
    "xlm-roberta": roberta.XLM_ROBERTA,
}
"""By model_type of config.json. TinyBERT and MiniLM say ``bert``."""


def families_of(model_type: str) -> tuple[Family, ...]:
    """All families that say ``model_type``: one, none, or DeiT with and without its teacher."""
    if model_type == "deit":
        return (deit.FAMILY, deit.FAMILY_WITH_TEACHER)
    return (FAMILIES[model_type],) if model_type in FAMILIES else ()


def find_family(config: Settings) -> Family | None:
    """The family of a config.json, None if it is none of ours."""
    found = families_of(str(config.get("model_type")))
    named = config.get("architectures") or ()
    return next((f for f in found if set(f.classes.values()) & set(named)), (*found, None)[0])
