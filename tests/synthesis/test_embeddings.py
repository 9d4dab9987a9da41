"""What embeds where the loop holds no trained network: an expert's last snapshot (MTT), or the loop's own (DM)."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.matching_family import DM_TINY, MTT_TINY, generated, inputs_of, problems_of, recover, write_experts
from support.upstreams import vendor_or_skip

from dire_plug.data.augmentation import zca
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.dm import DM
from dire_plug.methods.mtt import MTT
from dire_plug.methods.sre2l import SRe2L
from dire_plug.models import build, embed
from dire_plug.models.checkpoint import Network, Whitened, load, save
from dire_plug.pipeline import Request, Run, plan_run, run_arm
from dire_plug.stages.artefacts import (
    Networks,
    embedding_networks,
    name_inputs,
    name_network,
    name_networks,
    name_recovered,
    roles_in_loop,
)
from dire_plug.stages.prepare import fill, prepare
from dire_plug.stages.squeeze import FILE, network_file
from dire_plug.store.artefacts import Store
from dire_plug.synthesis.embeddings import FrozenNetwork, ShownEmbeddings
from dire_plug.types.artefact import Artefact

CPU = torch.device("cpu")
NO_SHIFT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def whitened(folder: Path) -> tuple[Path, Whitened]:
    """Write a network that whitens, and its transform; return its file and itself."""
    torch.manual_seed(0)
    transform = zca.fit(torch.rand(40, 3, 8, 8))
    zca.save(folder / "whitening.safetensors", transform)
    inner = build("convnet-small", outputs=3).eval()
    model = Whitened(inner, mean=transform.mean, matrix=transform.matrix).eval()
    save(folder / "network.safetensors", Network(model, "convnet-small", 3, "small", *NO_SHIFT))
    return folder / "network.safetensors", model


def test_a_network_that_whitens_comes_back_whole(tmp_path: Path) -> None:
    file, model = whitened(tmp_path)
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(load(file, CPU).model(pixels), model(pixels))


def test_a_network_that_whitens_embeds_pixels_as_its_inner_one_whitened(tmp_path: Path) -> None:
    _, model = whitened(tmp_path)
    pixels, transform = torch.rand(4, 3, 8, 8), zca.load(tmp_path / "whitening.safetensors", CPU)
    assert torch.equal(embed(model, pixels), embed(model.network, transform.apply(pixels)))


def test_a_network_of_the_loops_own_space_gets_its_images_as_they_are(tmp_path: Path) -> None:
    file, model = whitened(tmp_path)
    given = {"network": str(file), "classes_per_step": None, "whitening": str(tmp_path / "whitening.safetensors")}
    white = torch.randn(4, 3, 8, 8, requires_grad=True)
    embeddings, _, _ = FrozenNetwork(given, "cpu")(white, torch.zeros(4), generator=torch.Generator())
    assert torch.equal(embeddings.detach(), embed(model.network, white.detach()))


def test_an_experts_parameters_fill_a_network_in_its_own_order() -> None:
    source, target = build("convnet-3-w32", outputs=10, size=32), build("convnet-3-w32", outputs=10, size=32)
    fill(target, [one.detach() for one in source.parameters()])
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(source(images), target(images))


def test_an_expert_of_other_shapes_is_refused() -> None:
    with pytest.raises(DirePlugError, match=r"the expert has 1 parameters of other shapes than the 14 of the network"):
        fill(build("convnet-3-w32", outputs=10, size=32), [torch.zeros(3)])


def test_the_last_snapshot_of_a_given_expert_embeds(tmp_path: Path) -> None:
    folder = write_experts(tmp_path / "given")
    inputs = inputs_of(recover(flags={"model": "ConvNetW32"}), tmp_path, prepare={"buffers": str(folder)})
    architecture, parameters = MTT().expert(inputs)
    assert (architecture, len(parameters)) == ("convnet-3-w32", 14)


def embedding_in(experts: Path, *settings: str) -> Run:
    """Return a run whose terms work in the first of given experts."""
    request = Request("mtt", arm="dire", settings=("recover.embedder.network=expert", *settings))
    planned = plan_run(request, dry=True)
    recipe = planned.recipe.model_copy(update={"ipc": 1, "prepare": {"buffers": str(experts)}})
    return replace(planned, resolved=replace(planned.resolved, recipe=recipe), data=generated())


def names_of(run: Run) -> list[str]:
    """Return the names of the expert and of the passes without real embeddings, which depend on the expert too."""
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    assert inputs.expert is not None
    alone = replace(inputs, expert=None)
    return [inputs.expert.name, *(one.name for one in name_recovered(run, networks, alone, {})[1])]


def test_given_experts_are_told_by_their_content_wherever_they_lie(bare_home: Path, tmp_path: Path) -> None:
    folder = write_experts(tmp_path / "given")
    first = names_of(embedding_in(folder))
    shutil.copytree(folder, tmp_path / "moved")
    assert names_of(embedding_in(tmp_path / "moved")) == first
    found = [first, names_of(embedding_in(folder, "recover.flags.model=ConvNetD3"))]
    for name, content in {
        "replay_buffer_0.pt": torch.tensor(0),
        "replay_buffer_1.pt": torch.tensor(1),
        "experts.json": torch.tensor(2),
    }.items():
        torch.save(content, folder / name)
        found.append(names_of(embedding_in(folder)))
    for names in zip(*found, strict=True):
        assert len(set(names)) == 5


def test_given_experts_are_another_network_on_other_images(bare_home: Path, tmp_path: Path) -> None:
    run = embedding_in(write_experts(tmp_path / "given"))
    other = replace(run, data=replace(run.dataset, digest="of other images"))
    assert names_of(run)[0] != names_of(other)[0]


def test_an_expert_is_made_a_network_without_loading_what_the_loop_gets(bare_home: Path, tmp_path: Path) -> None:
    folder = write_experts(tmp_path / "given", dataset="cifar-10")
    run = replace(embedding_in(folder), own_store=Store(tmp_path / "store"))
    teacher = name_network(run, roles_in_loop(run)[0])

    def write(work: Path) -> None:
        (work / FILE).write_bytes(b"unread")

    run.store.ensure(teacher, write)
    networks = Networks(teacher, Artefact("network", {}))
    inputs = prepare(run, networks)
    assert inputs.expert is not None
    assert embedding_networks(run, networks, inputs) == {"expert": inputs.expert}
    found = load(network_file(run, inputs.expert), CPU)
    assert found.architecture == "convnet-3-w32"
    assert not any(parameter.any() for parameter in found.model.parameters())


def test_a_method_without_experts_says_so(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match="sre2l trains no experts; take teacher"):
        SRe2L().expert(inputs_of(recover(), tmp_path))


def test_the_loops_own_embeddings_come_class_by_class_or_all_at_once() -> None:
    parts, whole = ShownEmbeddings(), ShownEmbeddings()
    made, real = torch.rand(4, 2, 3, requires_grad=True), torch.rand(6, 2, 3)
    for label in range(2):
        parts.add(made[2 * label : 2 * label + 2], real[3 * label : 3 * label + 3])
    whole.add(made, real)
    labels = torch.tensor([0, 0, 1, 1])
    for one in (parts, whole):
        embeddings, used, scale = one(torch.zeros(4), labels, generator=torch.Generator())
        assert torch.equal(embeddings, made.flatten(1))
        assert (used is labels, scale, embeddings.requires_grad) == (True, 1.0, True)
        assert torch.equal(one.real.values, real.flatten(1))
        assert one.real.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_real_embeddings_of_a_step_are_another_object_in_each() -> None:
    embedder, labels = ShownEmbeddings(), torch.tensor([0])
    seen = []
    for _ in range(2):
        embedder.add(torch.rand(1, 3), torch.rand(2, 3))
        embedder(torch.zeros(1), labels, generator=torch.Generator())
        seen.append(embedder.real)
    assert seen[0] is not seen[1]


def test_a_loop_that_shows_no_embedding_is_an_error() -> None:
    with pytest.raises(DirePlugError, match=r"the patch never handed embeddings to bridge\.embedded"):
        ShownEmbeddings()(torch.zeros(1), torch.zeros(1), generator=torch.Generator())


def test_real_embeddings_before_the_first_step_are_an_error() -> None:
    with pytest.raises(DirePlugError, match="hasn't embedded any real image"):
        _ = ShownEmbeddings().real


@pytest.mark.parametrize(
    ("adapter", "changes", "line"),
    [
        (MTT(), {"network": "loop"}, "recover.embedder.network: MTT has no such network; take teacher or expert"),
        (DM(), {"network": "expert"}, "recover.embedder.network: DM has no such network; take teacher or loop"),
        (
            DM(),
            {"network": "loop", "classes_per_step": 2},
            "recover.embedder.classes_per_step: the loop embeds all classes in every step anyway",
        ),
    ],
)
def test_an_embedder_that_a_method_lacks_is_refused(adapter: MTT | DM, changes: dict[str, Any], line: str) -> None:
    (found,) = problems_of(adapter, recover__embedder=changes)
    assert found.startswith(line)


def test_a_choice_of_real_images_is_refused_where_the_loop_draws_its_own() -> None:
    (found,) = problems_of(DM(), recover__embedder={"network": "loop"}, real={"per_class": 5})
    assert found.startswith("real: the term sees the real images that the loop itself draws and embeds")


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        (DM(), {**DM_TINY, "recover.embedder.network": "loop"}),
        (MTT(), {**MTT_TINY, "recover.embedder.network": "expert"}),
    ],
    ids=["dm", "mtt"],
)
def test_a_term_in_the_methods_own_network_ends_with_other_images(
    adapter: MTT | DM, settings: dict[str, Any], bare_home: Path
) -> None:
    vendor_or_skip(adapter)
    given = tuple(f"{key}={value}" for key, value in settings.items())
    images = []
    for arm in ("baseline", "dire"):
        run = run_arm(Request(adapter.name, arm=arm, settings=given)).folder.path
        assert read_json(run / "metrics.json")["accuracy"]["protocol"] == "hard-labels"
        images.append((run / "images.safetensors").read_bytes())
    assert images[0] != images[1]
