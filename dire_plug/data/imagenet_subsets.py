"""Imagenette, Imagewoof and ImageNet-100: classes of ImageNet-1K, from a folder of theirs or from ImageNet's own.

Classes are the sorted synset ids (WordNet ids), the names of the class folders. The lists:

- Imagenette and Imagewoof, ten classes each: https://github.com/fastai/imagenette. Its archives (`imagenette2`,
  `imagewoof2`) split the training images of ImageNet anew, 70 to 30; taken out of ImageNet-1K itself, as MTT's
  `utils.py` does, the same classes have ImageNet's own split. Their digests differ.
- ImageNet-100: several lists have that name, some of them drawn at random. This is the one of Tian, Krishnan and Isola,
  "Contrastive Multiview Coding" (arXiv 1906.05849), because its authors published it as a file: `imagenet100.txt` of
  https://github.com/HobbitLong/CMC.
"""

from functools import partial
from pathlib import Path

from dire_plug.data.dataset import Dataset, DatasetSpec
from dire_plug.data.imagenet import SIZES, TRAIN, VAL, read_classes

IMAGENETTE = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"
IMAGEWOOF = "n02086240 n02087394 n02088364 n02089973 n02093754 n02096294 n02099601 n02105641 n02111889 n02115641"
IMAGENET_100 = """
n01558993 n01692333 n01729322 n01735189 n01749939 n01773797 n01820546 n01855672 n01978455 n01980166
n01983481 n02009229 n02018207 n02085620 n02086240 n02086910 n02087046 n02089867 n02089973 n02090622
n02091831 n02093428 n02099849 n02100583 n02104029 n02105505 n02106550 n02107142 n02108089 n02109047
n02113799 n02113978 n02114855 n02116738 n02119022 n02123045 n02138441 n02172182 n02231487 n02259212
n02326432 n02396427 n02483362 n02488291 n02701002 n02788148 n02804414 n02859443 n02869837 n02877765
n02974003 n03017168 n03032252 n03062245 n03085013 n03259280 n03379051 n03424325 n03492542 n03494278
n03530642 n03584829 n03594734 n03637318 n03642806 n03764736 n03775546 n03777754 n03785016 n03787032
n03794056 n03837869 n03891251 n03903868 n03930630 n03947888 n04026417 n04067472 n04099969 n04111531
n04127249 n04136333 n04229816 n04238763 n04336792 n04418357 n04429376 n04435653 n04485082 n04493381
n04517823 n04589890 n04592741 n07714571 n07715103 n07753275 n07831146 n07836838 n13037406 n13040303
"""


def _read(folder: Path, *, size: int | None, limit: int | None, name: str, classes: tuple[str, ...]) -> Dataset:
    return read_classes(name, folder, classes, size=size, limit=limit)


def _places(root: Path, *, own: tuple[str, ...]) -> tuple[Path, ...]:
    # a folder of the subset alone comes first: whoever unpacked it means its split
    return tuple(root / name for name in (*own, "imagenet-1k", "imagenet"))


def _missing(folder: Path, *, classes: tuple[str, ...]) -> tuple[str, ...]:
    wanted = (f"{part}/{name}" for part in (TRAIN, VAL) for name in classes)
    return tuple(f"{name}/" for name in wanted if not (folder / name).is_dir())


def _spec(name: str, listed: str, *, own: tuple[str, ...], how: str) -> DatasetSpec:
    classes = tuple(sorted(listed.split()))
    return DatasetSpec(
        name=name,
        classes=len(classes),
        sizes=SIZES,
        layout=f"{{train,val}}/<class>/*.JPEG of its {len(classes)} classes",
        how=how,
        places=partial(_places, own=own),
        missing=partial(_missing, classes=classes),
        read=partial(_read, name=name, classes=classes),
    )


_HOW = "unpack https://s3.amazonaws.com/fast-ai-imageclas/{0}2.tgz in the data folder, or have ImageNet-1K there"
SPECS = (
    _spec("imagenette", IMAGENETTE, own=("imagenette2", "imagenette"), how=_HOW.format("imagenette")),
    _spec("imagewoof", IMAGEWOOF, own=("imagewoof2", "imagewoof"), how=_HOW.format("imagewoof")),
    _spec(
        "imagenet-100",
        IMAGENET_100,
        own=("imagenet-100", "imagenet100"),
        how="have ImageNet-1K in the data folder (https://image-net.org, both halves sorted into class folders), or "
        "the 100 classes of https://github.com/HobbitLong/CMC, imagenet100.txt, in a folder of their own",
    ),
)
