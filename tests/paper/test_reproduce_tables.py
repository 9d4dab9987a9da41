"""The paper's tables as data: they agree with the recipes, name what exists, and are chosen from by row and column."""

from pathlib import Path

import pytest

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.home import resource
from dire_plug.models import architectures
from dire_plug.paper.ablate.components import COMBINATIONS, PAPER
from dire_plug.paper.reproduce import load_target, select, target_names
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED, Cell, Target
from dire_plug.paper.reproduce.request import column_names, row_names
from dire_plug.paper.reproduce.scales import SMOKE_IPCS, ipcs_of, request_of
from dire_plug.pipeline import Request, plan_run
from dire_plug.recipe import arm_names, read_yaml, recipe_path

TABLES = [load_target(f"table-{number}") for number in range(2, 18)]
FIGURES = [load_target(f"figure-{number}") for number in range(1, 4)]
TARGETS = (*TABLES, *FIGURES)
RECIPES = sorted(resource("recipes").glob("*/*.yaml"))


def name_of(cell: Cell) -> tuple[str, str, str]:
    return cell.method, cell.recipe, cell.arm


def printed_figures(target: Target) -> dict[tuple[str, str, str, object], str]:
    """Return (method, recipe, arm, IPC or what is read) → figure, of those that are printed."""
    what = "ipc" if target.cells[0].read == "accuracy" else "read"
    return {(*name_of(cell), getattr(cell, what)): cell.figure for cell in target.cells if cell.figure != NOT_PRINTED}


def figures_in_recipes(number: int) -> dict[tuple[str, str, str, object], str]:
    """Return the same as the recipes have it."""
    found: dict[tuple[str, str, str, object], str] = {}
    for path in RECIPES:
        paper, place = read_yaml(path).get("paper", {}), (path.parent.name, path.stem)
        if paper.get("table") == number:
            found |= {
                (*place, arm, int(ipc)): figure
                for ipc, arms in paper["figures"].items()
                for arm, figure in arms.items()
            }
        if paper.get("diversity_table") == number:
            found |= {
                (*place, arm, read): figure
                for arm, reads in paper["diversity"].items()
                for read, figure in reads.items()
            }
    return found


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 7, 8, 9, 13])
def test_a_table_and_the_recipes_print_the_same_figures(number: int) -> None:
    assert printed_figures(load_target(f"table-{number}")) == figures_in_recipes(number) != {}


def test_table_14_is_printed_as_in_the_ablation() -> None:
    for cell in load_target("table-14").cells:
        name = next(name for name, parts in COMBINATIONS.items() if parts == cell.components)
        figure = PAPER[name][cell.column]
        assert cell.figure == (figure if isinstance(figure, str) else f"{figure:.2f}")


def test_every_table_and_figure_of_the_paper_is_there_in_its_order() -> None:
    assert target_names() == [*(f"table-{n}" for n in range(2, 18)), *(f"figure-{n}" for n in range(1, 4))]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_cells_name_recipes_arms_ipcs_and_students_that_exist(target: Target) -> None:
    known = {
        (method, recipe): read_yaml(recipe_path(plugins.load_adapter(method).recipes(), recipe))
        for method, recipe in {(cell.method, cell.recipe) for cell in target.cells if not cell.set}
    }
    for cell in (cell for cell in target.cells if not cell.set):
        raw = known[cell.method, cell.recipe]
        assert cell.arm in arm_names(raw)
        assert cell.figure == NOT_PRINTED or cell.ipc in (None, raw["ipc"], *map(int, raw["by_ipc"]))
        assert cell.student in (None, *architectures())


def test_figures_that_the_paper_prints_oddly_are_kept_and_noted() -> None:
    table = load_target("table-2")
    assert "DELTA + DiRe" in table.rows
    assert any("DELTA" in note for note in table.notes)
    assert {cell.method for cell in select(table, row="delt")} == {"delt"}


def test_a_table_that_the_paper_lacks_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        DirePlugError, match=r"'table-1' isn't a table .* \(did you mean 'table-1\d'\?\); there are table-2"
    ):
        load_target("table-1")


# Rows and columns.


def test_a_row_is_a_method_with_both_arms_and_a_column_an_ipc() -> None:
    cells = select(load_target("table-4"), row="infer", column="50")
    assert [(cell.recipe, cell.arm, cell.ipc) for cell in cells] == [
        ("cifar-100", "baseline", 50),
        ("cifar-100", "dire", 50),
    ]


def test_a_column_is_an_ipc_even_where_the_rows_are_grouped_by_it() -> None:
    cells = select(load_target("table-10"), row="vit", column="100")
    assert {(cell.student, cell.ipc) for cell in cells} == {("vit-small", 100)}
    assert [cell.figure for cell in cells] == ["23.3 ± 0.4", "46.6 ± 0.9"]


def test_a_method_that_names_no_row_takes_all_of_its_rows() -> None:
    table = load_target("table-13")
    assert select(table, row="mtt") == table.cells


def test_an_unknown_row_and_column_are_refused_with_what_there_is() -> None:
    table = load_target("table-3")
    with pytest.raises(DirePlugError, match=r"no row 'sre2'.*'sre2l'.*there is sre2l, dwa, infer, infer-d"):
        select(table, row="sre2")
    with pytest.raises(DirePlugError, match=r"no column '50'; there is coverage, similarity, vendi"):
        select(table, column="50")


@pytest.mark.parametrize("target", TABLES, ids=lambda target: target.name)
def test_each_row_and_column_that_is_named_can_be_chosen(target: Target) -> None:
    assert {cell for name in row_names(target) for cell in select(target, row=name)} == set(target.cells)
    assert {cell for name in column_names(target) for cell in select(target, column=name)} == set(target.cells)


# The smoke scale.


@pytest.mark.parametrize("name", ["table-2", "table-8", "table-11", "table-13", "table-14"])
def test_the_smoke_scale_asks_demonstrations_that_resolve(name: str, tmp_path: Path) -> None:
    target = load_target(name)
    ipcs, base = ipcs_of(target.cells), Request("", out=tmp_path)
    cells = [cell for cell in target.cells if not cell.set and cell.ipc not in ipcs[2:]]
    requests = {request_of(cell, "smoke", base=base, ipcs=ipcs) for cell in cells}
    for request in requests:
        assert plan_run(request, dry=True).resolved.recipe.demonstration
        assert request.ipc in SMOKE_IPCS[request.method]
        assert request.out == tmp_path
    assert {(one.method, one.arm) for one in requests} == {(cell.method, cell.arm) for cell in cells}


def test_the_smoke_scale_has_two_ipcs_and_says_so_of_a_third() -> None:
    (cell,) = (cell for cell in select(load_target("table-8"), row="cda", column="100") if cell.arm == "dire")
    with pytest.raises(DirePlugError, match="two IPCs, which stand for 10 and 50"):
        request_of(cell, "smoke", base=Request(""), ipcs=[10, 50, 100])


def test_students_that_need_32_pixels_get_them_at_the_smoke_scale() -> None:
    vgg, vit, *_ = load_target("table-11").cells
    assert (vgg.student, vit.student) == ("vgg-16", "vit-small")
    requests = [request_of(cell, "smoke", base=Request(""), ipcs=[50, 100]) for cell in (vgg, vit)]
    assert [plan_run(one, dry=True).resolved.recipe.dataset.size for one in requests] == [32, None]


def test_other_students_of_the_smoke_scale_take_dozens_of_steps() -> None:
    for cell in load_target("table-12").cells:
        if cell.ipc == 10:
            request = request_of(cell, "smoke", base=Request(""), ipcs=[10, 50])
            evaluate = plan_run(request, dry=True).resolved.recipe.evaluate
            images = 10 * SMOKE_IPCS[cell.method][0]
            # fewer leave BatchNorm's running statistics near their start, and the student at chance
            assert evaluate.epochs * images / evaluate.batch_size >= 80


def test_infers_dynamic_labels_stay_dynamic_at_the_smoke_scale() -> None:
    (cell, *_) = select(load_target("table-2"), row="infer-d")
    request = request_of(cell, "smoke", base=Request(""), ipcs=[10, 50, 100])
    assert plan_run(request, dry=True).resolved.recipe.evaluate.protocol == "dynamic-labels"


def test_the_paper_scale_asks_the_papers_recipe() -> None:
    (cell, *_) = select(load_target("table-2"), row="infer-d", column="10")
    request = request_of(cell, "paper", base=Request("", seed=3), ipcs=[10, 50, 100])
    assert (request.recipe, request.ipc, request.settings, request.seed) == ("cifar-10-dynamic", 10, (), 3)
