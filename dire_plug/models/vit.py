"""Vision transformers: one for small images (Lee et al., 2021, 2112.13492), and timm's ViT-Tiny.

The first differs from the plain one (Dosovitskiy et al., 2021) in two places, as in the authors' code (models/SPT.py
and models/vit.py of aanna0701/SPT_LSA_ViT):
- shifted patch tokenization: a patch is read with the same place in four copies of the image, each shifted by half a
  patch along a diagonal, so 5·3 channels of patch² pixels;
- locality self-attention: the weight of token j for token i is the softmax over j ≠ i of s·(q_i · k_j), where s, the
  inverse of a temperature, is learned, one for each head; it begins at 1 / √d.

The DiRe paper doesn't publish its settings. Those here are a guess: the numbers that DC-Bench has for its plain ViT
(evaluator/network_utils.py), and kentaroy47/vision-transformers-cifar10 for this one. Lee et al. took width 192, depth
9, 12 heads, an MLP of 384, and stochastic depth. Patches of 8 pixels above 32 px are our choice, as they were theirs:
so a 64 px image has as many tokens as a 32 px one.

vit-pytorch has this network too, but shifts by one pixel along the axes, and learns one s for all heads of a layer.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dire_plug.errors import DirePlugError

WIDTH = 512
"""The width of a token, and of the embedding."""
DEPTH = 6
HEADS = 8
HEAD_WIDTH = 64
HIDDEN = 512
"""Width of the MLP's hidden layer."""
DROPOUT = 0.1
"""The dropped share of the first tokens, and of the outputs of attention and MLP."""
VIEWS = 5
"""The image and its four shifted copies."""
VIT_SMALL_SIZE = 32


class VitSmall(nn.Module):
    """Images [N, 3, size, size] to outputs [N, `outputs`]; the embedding is the normalised class token, [N, 512].

    Args:
        outputs: the width of the head.
        size: height and width of the images, a multiple of `patch_of(size)`.
    """

    def __init__(self, outputs: int, *, size: int = VIT_SMALL_SIZE) -> None:
        super().__init__()
        patch = patch_of(size)
        self.size = size
        self.patches = ShiftedPatches(patch)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, WIDTH))  # and one for the class token
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)
        self.fc = nn.Linear(WIDTH, outputs)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, [N, `outputs`].

        Raises:
            DirePlugError: the images have another size.
        """
        if images.shape[-2:] != (self.size, self.size):
            found = " × ".join(map(str, images.shape[-2:]))
            raise DirePlugError(f"vit-small: made for images of {self.size} × {self.size} pixels, not {found}")
        tokens = torch.cat([self.first.expand(len(images), -1, -1), self.patches(images)], dim=1)
        tokens = self.blocks(self.dropout(tokens + self.positions))
        outputs: Tensor = self.fc(self.norm(tokens[:, 0]))
        return outputs


class ShiftedPatches(nn.Module):
    """Images [N, 3, H, W] to tokens [N, H·W / patch², 512], row by row."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(VIEWS * 3 * patch**2)
        self.project = nn.Linear(VIEWS * 3 * patch**2, WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens."""
        patches = F.pixel_unshuffle(_with_shifted(images, self.patch // 2), self.patch)
        tokens: Tensor = self.project(self.norm(patches.flatten(2).transpose(1, 2)))
        return tokens


class Block(nn.Module):
    """Attention and an MLP, each of the normalised tokens, added to them: [N, T, 512] → same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(WIDTH), LocalityAttention())
        self.mlp = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, HIDDEN),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, WIDTH),
            nn.Dropout(DROPOUT),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens."""
        tokens = tokens + self.attention(tokens)
        result: Tensor = tokens + self.mlp(tokens)
        return result


class LocalityAttention(nn.Module):
    """Attention of each token to all others but itself, [N, T, 512] → same shape, T from 2 up."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((HEADS,), HEAD_WIDTH**-0.5))
        self.read = nn.Linear(WIDTH, 3 * HEADS * HEAD_WIDTH, bias=False)
        self.project = nn.Linear(HEADS * HEAD_WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens."""
        images, count, _ = tokens.shape
        parts = self.read(tokens).view(images, count, 3, HEADS, HEAD_WIDTH)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        # locality self-attention: a token never attends to itself
        others = ~torch.eye(count, dtype=torch.bool, device=tokens.device)
        query = query * self.scale[:, None, None]
        # the learned scale is in the query; torch's default would divide by √d once more
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=others, scale=1.0)
        result: Tensor = self.dropout(self.project(found.transpose(1, 2).flatten(2)))
        return result


def patch_of(size: int) -> int:
    """Return the height and width of a patch, in pixels."""
    return 4 if size <= 32 else 8


def vit_small_size(state: Mapping[str, Tensor]) -> int:
    """Return the size that the weights `state` were built for; the default where they are of another network."""
    positions, project = state.get("positions"), state.get("patches.project.weight")
    if positions is None or project is None:
        return VIT_SMALL_SIZE
    # patches along a side × pixels along a side of one
    return isqrt(positions.shape[1] - 1) * isqrt(project.shape[1] // (VIEWS * 3))


def _with_shifted(images: Tensor, shift: int) -> Tensor:
    """Return images [N, 3, H, W] beside copies shifted along the diagonals, zeros moving in: [N, 15, H, W]."""
    # shifts by cropping a padded copy: `roll` would wrap the other border in
    padded = F.pad(images, (shift, shift, shift, shift))
    height, width = images.shape[-2:]
    places = [(0, 0), (0, 2 * shift), (2 * shift, 0), (2 * shift, 2 * shift)]
    moved = [padded[:, :, top : top + height, left : left + width] for top, left in places]
    return torch.cat([images, *moved], dim=1)


def _initialise(module: nn.Module) -> None:
    """Draw weights as the authors do: Xavier's normal distribution, and no bias."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_VIT_TINY_NAME = "vit_tiny_patch16_224"
VIT_TINY_PATCH = 16
VIT_TINY_SIZE = 224


def build_vit_tiny(outputs: int, *, size: int = VIT_TINY_SIZE) -> nn.Module:
    """Build timm's ViT-Tiny, untrained, a student of DWA's (validation/validation_imgnet.py).

    Images [N, 3, size, size] to outputs [N, `outputs`]; the embedding has 192 dimensions.

    Raises:
        DirePlugError: timm isn't installed.
    """
    check_timm()
    import timm

    model: nn.Module = timm.create_model(_VIT_TINY_NAME, pretrained=False, num_classes=outputs, img_size=size)
    return model


def has_timm() -> bool:
    """Return whether timm is installed, without importing it."""
    return find_spec("timm") is not None


def check_timm() -> None:
    """Raise a DirePlugError where timm is missing."""
    if not has_timm():
        raise DirePlugError("vit-tiny: needs the package timm; install it with: pip install 'dire-plug[students]'")


def vit_tiny_size(state: Mapping[str, Tensor]) -> int:
    """Return the size that the weights `state` were built for; the default where they are of another network."""
    positions = state.get("pos_embed")
    return VIT_TINY_SIZE if positions is None else isqrt(positions.shape[1] - 1) * VIT_TINY_PATCH
