"""Small starts for tests, made by importing a file with torchvision's names."""

from radnet_jax.main import load_config
from radnet_jax.weights import cards, importing
from tests.tiny import ROOT
from tests.weights import files, miniatures

PHOTO = dict(
    modality="photo", channels=3, size=(32, 32), windows=(), value_range=(0.0, 255.0),
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
CT = dict(
    modality="CT", channels=3, size=(24, 24), windows=((40.0, 400.0),), value_range=None,
    mean=(0.4,) * 3, std=(0.3,) * 3,
)  # fmt: skip


def start(folder, section, model_input=None, *, source="torchvision_file", seed=0):
    """Imports random weights of a backbone section; returns (workdir, arrays)."""
    card = cards.load(source)
    arrays = miniatures.ours(section, seed)
    state = miniatures.theirs(card, section, arrays)
    folder.mkdir(parents=True, exist_ok=True)
    path = files.write("safetensors", folder / "weights.safetensors", state)
    config = load_config(ROOT / "configs/import.py").copy_and_resolve_references()
    config.unlock()
    arguments = {k: v for k, v in section.items() if k != "name"}
    config.update(
        source=source, file=str(path), backbone=section["name"], arguments=arguments, input=dict(model_input or PHOTO)
    )
    return importing.run(config.lock(), folder / "start"), arrays
