"""The small-dataset transformer against its authors' own class: the same outputs and embeddings from the same weights.

Their class is imported in a child process, from a checkout of one commit that is made for the test.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.upstream_networks import CHILD
from torch import Tensor, nn

from dire_plug.models import embed
from dire_plug.models.vit import VIEWS, VitSmall, patch_of

pytestmark = [pytest.mark.slow, pytest.mark.upstream]
REPOSITORY = "https://github.com/aanna0701/SPT_LSA_ViT"
COMMIT = "54bd796acd28fa11deac21a97b14b154379b34e7"
CALL = (
    "ViT(img_size={size}, patch_size={patch}, num_classes=10, dim=512, mlp_dim_ratio=1, depth=6, heads=8, dim_head=64, "
    "is_LSA=True, is_SPT=True)"
)
KEYS = {
    r"^first": "cls_token",
    r"^positions": "pos_embedding",
    r"^patches\.norm": "to_patch_embedding.merging.1",
    r"^patches\.project": "to_patch_embedding.merging.2",
    r"^blocks\.(\d)\.attention\.0": r"transformer.layers.\1.0.norm",
    r"^blocks\.(\d)\.attention\.1\.scale": r"transformer.layers.\1.0.fn.scale",
    r"^blocks\.(\d)\.attention\.1\.read": r"transformer.layers.\1.0.fn.to_qkv",
    r"^blocks\.(\d)\.attention\.1\.project": r"transformer.layers.\1.0.fn.to_out.0",
    r"^blocks\.(\d)\.mlp\.0": r"transformer.layers.\1.1.norm",
    r"^blocks\.(\d)\.mlp\.1": r"transformer.layers.\1.1.fn.net.0",
    r"^blocks\.(\d)\.mlp\.4": r"transformer.layers.\1.1.fn.net.3",
    r"^norm": "mlp_head.0",
    r"^fc": "mlp_head.1",
}
"""From our keys of weights to theirs."""


def make(size: int) -> VitSmall:
    """Build our network; norms and scales are far from those of a fresh one, so that a swapped pair shows."""
    torch.manual_seed(0)
    model = VitSmall(10, size=size).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=0.2 if name.endswith("scale") else 1.0, std=0.1)
    return model


def for_them(model: VitSmall, patch: int) -> dict[str, Tensor]:
    """Return our weights with their keys; they read a patch's pixels one after the other, we its channels."""
    state = {}
    for ours, value in model.state_dict().items():
        if ours.startswith("patches.") and value.shape[-1] == VIEWS * 3 * patch**2:
            value = value.unflatten(-1, (VIEWS * 3, patch**2)).transpose(-1, -2).flatten(-2)
        (rule,) = (rule for rule in KEYS if re.search(rule, ours))
        state[re.sub(rule, KEYS[rule], ours)] = value
    return state


def check_out(folder: Path) -> Path:
    """Return a checkout; skip where the repository cannot be reached."""
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    clone = ["git", "clone", "--quiet", "--no-checkout", REPOSITORY, str(folder)]
    cloned = subprocess.run(clone, capture_output=True, text=True, env=environment, timeout=300, check=False)
    if cloned.returncode:
        pytest.skip(f"{REPOSITORY}: {cloned.stderr.strip().splitlines()[-1]}")
    paths = ["models/__init__.py", "models/vit.py", "models/SPT.py", "utils/__init__.py", "utils/drop_path.py"]
    subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", COMMIT, "--", *paths], check=True)
    return folder


def test_the_authors_class_with_our_weights_answers_as_ours_does(tmp_path: Path) -> None:
    pytest.importorskip("einops")
    tree, cases = check_out(tmp_path / "tree"), []
    images = {size: torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)) for size in (32, 64)}
    for size in images:
        paths = {name: str(tmp_path / f"{name}-{size}") for name in ("weights", "images", "result")}
        torch.save(for_them(make(size), patch_of(size)), paths["weights"])
        torch.save(images[size], paths["images"])
        call = CALL.format(size=size, patch=patch_of(size))
        cases.append({"tree": str(tree), "folder": str(tree), "module": "models.vit", "call": call, **paths})
    command = [sys.executable, "-B", "-c", CHILD]
    child = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, cwd=tmp_path, check=False)
    assert child.returncode == 0, child.stderr
    for size in images:
        model, theirs = make(size).double(), torch.load(tmp_path / f"result-{size}", weights_only=True)
        shown = images[size].double()
        torch.testing.assert_close(embed(model, shown), theirs["embeddings"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(model(shown).detach(), theirs["outputs"], rtol=1e-9, atol=1e-9)
        assert theirs["outputs"].std() > 1e-3
