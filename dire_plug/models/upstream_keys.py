"""Translate between our keys of weights and those of the methods' code: facts about its state dicts.

| method | architectures whose keys differ from ours |
|---|---|
| infer, dwa | mobilenet-v2-ufc, efficientnet-b0-ufc, shufflenet-g2-ufc, vgg-16-bn-dwa, convnet-3-bn, convnet-4-bn |
| g-vbsm, edc | resnet-18, mobilenet-v2-gvbsm, wrn-16-2, shufflenet-v2-x0.5 (all with the small stem) |
| g-vbsm, edc | convnet-1 to convnet-4, convnet-3-w32 |
| mtt, dm | convnet-3, convnet-4, and both with -bn |
| delt | convnet-3-bn, convnet-4-bn |
| cv-dd | resnet-18, -50, mobilenet-v2-ufc, shufflenet-v2-x0.5-cvdd, densenet-121-cvdd (all with the small stem) |

Where the order of parameters counts (MTT's experts are lists without names), that of our ConvNets is theirs: block by
block weight and bias of the convolution, then of the normalisation, and the head last.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from dire_plug.models.small_networks import MOBILENET_STAGES, SHUFFLENET_STAGES, WRN_BLOCKS, WRN_STAGES

Rename = Callable[[str], str]
Rules = Mapping[str, str | Callable[[re.Match[str]], str]]
"""Patterns of beginnings of our keys, and what stands there in upstream's; the first that matches is taken."""
_LAYER = ("conv", "bn")
"""Upstream's names of the two that a Conv2dNormActivation of ours holds as 0 and 1."""


def upstream_keys(architecture: str, method: str) -> Rename:
    """Return the function from our key of a weight to its key in a method's code; it changes nothing where they agree.

    Args:
        architecture: one of `architectures()`.
        method: its name, as on the command line.
    """
    return _renaming(_RULES.get(method, {}).get(architecture, {}))


def our_keys(architecture: str, state: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Return `state` with our keys where it has those of some method's code, else as it is.

    Args:
        architecture: what the weights should be of.
        state: weights, their keys without prefix; counters of batch normalisation may be missing.
        wanted: our keys of that architecture.
    """
    if not state.keys() <= set(wanted):  # a subset: counters of batch normalisation may be missing
        for rules in (of_method[architecture] for of_method in _RULES.values() if architecture in of_method):
            ours = {_renaming(rules)(key): key for key in wanted}
            if state.keys() <= ours.keys():
                return {ours[key]: value for key, value in state.items()}
    return dict(state)


def _renaming(rules: Rules) -> Rename:
    def rename(key: str) -> str:
        for pattern, replacement in rules.items():
            if re.match(pattern, key):
                return re.sub(pattern, replacement, key, count=1)
        return key

    return rename


def _place(index: int, counts: Sequence[int]) -> tuple[int, int]:
    """Return the stage of a block, and its number there, from its number in the whole network."""
    for stage, count in enumerate(counts):
        if index < count:
            return stage, index
        index -= count
    raise IndexError(index)


def _flat_convnet(match: re.Match[str]) -> str:
    block, part = map(int, match.groups())
    return f"features.{4 * block + part}."  # upstream's features are one flat Sequential, of four layers a block


def _block_of_half_mobilenet(match: re.Match[str]) -> str:
    index, layer, part = map(int, match.groups())
    stage, number = _place(index - 1, [count for _, _, count, _ in MOBILENET_STAGES])
    return f"blocks.{stage}.{number}.conv.{3 * layer + part}."  # ReLUs are counted too


def _block_of_mobilenet(match: re.Match[str]) -> str:
    index, layer, part = map(int, match.groups())
    return f"layers.{index - 1}.{_LAYER[part]}{layer + 1}."  # features.0 is the stem


def _layer_of_efficientnet(match: re.Match[str]) -> str:
    index, layer, part = map(int, match.groups())
    number = layer + (2 if index == 1 else 1)  # the first block has no expansion
    # between the second and the last stands squeeze-and-excitation, which has names of its own
    return f"layers.{index - 1}.{_LAYER[part]}{3 if number == 4 else number}."


def _unit_of_shufflenet(match: re.Match[str]) -> str:
    index, layer, part = map(int, match.groups())
    stage, number = _place(index - 1, [count for _, count in SHUFFLENET_STAGES])
    return f"layer{stage + 1}.{number}.{_LAYER[part]}{max(layer, 1)}."  # our layer 1 is the shuffle, without weights


def _unit_of_shufflenet_v2(match: re.Match[str]) -> str:
    """Number convolutions through, the shortcut's first; behind a 1×1 one stands a ReLU, behind a 3×3 one none."""
    stage, number, branch, place = map(int, match.groups())
    places = [(0, 1), (2, 3)] if branch == 1 else [(0, 1), (3, 4), (5, 6)]
    layer = next(count for count, pair in enumerate(places, start=1) if place in pair)
    before = 2 if branch == 2 and number == 0 else 0
    return f"layer{stage - 1}.{number}.{_LAYER[place not in [first for first, _ in places]]}{before + layer}."


def _block_of_wrn(match: re.Match[str]) -> str:
    stage, number = _place(int(match[1]) - 1, [WRN_BLOCKS] * len(WRN_STAGES))
    return f"block{stage + 1}.layer.{number}.{'convShortcut' if match[2] == 'beside' else match[2]}."


def _layer_of_densenet(match: re.Match[str]) -> str:
    part, layer, place = map(int, match.groups())
    # normalisation, ReLU and convolution, twice
    return f"dense{(part + 1) // 2}.{layer}.{'conv' if place % 3 else 'bn'}{place // 3 + 1}."


def _transition_of_densenet(match: re.Match[str]) -> str:
    part, place = map(int, match.groups())
    return f"trans{part // 2}.{'conv' if place else 'bn'}."


_CONVNET: Rules = {r"features\.(\d)\.(\d)\.": _flat_convnet, r"fc\.": "classifier."}
_INFER: Mapping[str, Rules] = {
    "mobilenet-v2-ufc": {
        r"features\.0\.0\.": "conv1.",
        r"features\.0\.1\.": "bn1.",
        r"features\.18\.0\.": "conv2.",
        r"features\.18\.1\.": "bn2.",
        r"features\.(\d+)\.branch\.(\d)\.(\d)\.": _block_of_mobilenet,
        r"features\.(\d+)\.beside\.": lambda match: f"layers.{int(match[1]) - 1}.shortcut.",
        r"fc\.": "linear.",
    },
    "efficientnet-b0-ufc": {
        r"features\.0\.0\.": "conv1.",
        r"features\.0\.1\.": "bn1.",
        r"features\.1\.unread\.0\.": "layers.0.conv1.",
        r"features\.1\.unread\.1\.": "layers.0.bn1.",
        r"features\.(\d+)\.block\.\d\.fc(\d)\.": lambda match: f"layers.{int(match[1]) - 1}.se.se{match[2]}.",
        r"features\.(\d+)\.block\.(\d)\.(\d)\.": _layer_of_efficientnet,
        r"fc\.": "linear.",
    },
    "shufflenet-g2-ufc": {
        r"features\.0\.0\.": "conv1.",
        r"features\.0\.1\.": "bn1.",
        r"features\.(\d+)\.branch\.(\d)\.(\d)\.": _unit_of_shufflenet,
        r"fc\.": "linear.",
    },
    "vgg-16-bn-dwa": {r"fc\.": "classifier."},
    "convnet-3-bn": _CONVNET,
    "convnet-4-bn": _CONVNET,
}
_G_VBSM: Mapping[str, Rules] = {
    "resnet-18": {r"(layer\d\.\d)\.downsample\.": r"\1.shortcut.", r"fc\.": "linear."},
    **dict.fromkeys(("convnet-1", "convnet-2", "convnet-3", "convnet-4", "convnet-3-w32"), _CONVNET),
    "mobilenet-v2-gvbsm": {
        r"features\.0\.": "conv1.",
        r"features\.18\.": "conv2.",
        r"features\.(\d+)\.branch\.(\d)\.(\d)\.": _block_of_half_mobilenet,
        r"fc\.": "classifier.0.",
    },
    "wrn-16-2": {
        r"features\.0\.": "conv1.",
        r"features\.7\.": "bn1.",
        r"features\.(\d)\.(\w+)\.": _block_of_wrn,
    },
    "shufflenet-v2-x0.5": {
        r"conv1\.0\.": "conv1.",
        r"conv1\.1\.": "bn1.",
        r"conv5\.0\.": "conv2.",
        r"conv5\.1\.": "bn2.",
        r"stage(\d)\.(\d)\.branch(\d)\.(\d)\.": _unit_of_shufflenet_v2,
        r"fc\.": "linear.",
    },
}
_MTT: Mapping[str, Rules] = dict.fromkeys(("convnet-3", "convnet-4", "convnet-3-bn", "convnet-4-bn"), _CONVNET)
_DELT_CONVNET: Rules = {
    r"features\.(\d)\.0\.": r"layers.conv.\1.",
    r"features\.(\d)\.1\.": r"layers.norm.\1.",
    r"fc\.": "classifier.",
}
_DELT: Mapping[str, Rules] = dict.fromkeys(("convnet-3-bn", "convnet-4-bn"), _DELT_CONVNET)
_CV_DD: Mapping[str, Rules] = {
    "resnet-18": _G_VBSM["resnet-18"],
    "resnet-50": _G_VBSM["resnet-18"],
    "mobilenet-v2-ufc": _INFER["mobilenet-v2-ufc"],
    "shufflenet-v2-x0.5-cvdd": {r"conv1\.0\.0\.": "conv1.", **_G_VBSM["shufflenet-v2-x0.5"]},
    "densenet-121-cvdd": {
        r"features\.0\.": "conv1.",
        r"features\.([1357])\.(\d+)\.branch\.(\d)\.": _layer_of_densenet,
        r"features\.([246])\.(\d)\.": _transition_of_densenet,
        r"features\.8\.": "bn.",
        r"fc\.": "linear.",
    },
}
_RULES: Mapping[str, Mapping[str, Rules]] = {
    "infer": _INFER,
    "dwa": _INFER,  # its models/ has the same files
    "g-vbsm": _G_VBSM,
    "mtt": _MTT,
    "dm": _MTT,
    "delt": _DELT,
    "cv-dd": _CV_DD,
}
