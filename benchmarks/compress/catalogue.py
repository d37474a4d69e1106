"""Which recipes the benchmark runs, and in which order."""

from pathlib import Path

OWN = Path(__file__).parent / "recipes"
"""Variants of our recipes for this benchmark's teacher."""

# Cheapest first, so that an hour gives a table. The recipes of the paper's pre-training, which make
# no classifier (tinybert_general, distilbert_general), are not here.
ORDER = (
    "sixteen_heads",
    "poor_mans_bert",
    "poor_mans_bert_bottom",
    "poor_mans_bert_alternate",
    "poor_mans_bert_symmetric",
    "poor_mans_bert_contribution",
    "unlabelled_transfer",
    "distilbert",
    "pkd_skip",
    "pkd_last",
    "fastformers",
    "layerdrop",
    "magnitude_pruning",
    "movement_pruning",
    "albert",
    "minilm_v1",
    "minilm_v2",
    "tang_bilstm",
    "tinybert",
    "mobilebert",
    "mobilebert_24",
    "edge_small",
)


def recipe_source(name: str) -> str:
    """What ``load_recipe`` takes: the benchmark's own file of that name, else the name itself."""
    own = OWN / f"{name}.toml"
    return str(own) if own.exists() else name
