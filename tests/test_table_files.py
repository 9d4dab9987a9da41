"""Tables as LaTeX, CSV and Markdown."""

from pathlib import Path

import pytest
from rich.console import Group

from dire_plug.errors import DirePlugError
from dire_plug.table_files import collect, to_csv, to_latex, to_markdown, write_tables
from dire_plug.tables import Table, with_notes


def _table() -> Table:
    table = Table("arm", title="accuracy & more")
    table.add_numbers("last %", "similarity")
    table.add_prose("note")
    table.add_row("base_line", "8.1 ± 1.0", "0.743", "a|b", best=(1,))
    table.add_row("dire", "9.7 ± 0.1", "–", best=(0,))
    table.add_section()
    table.add_row("dire − base", "-0.9 ± 1.2", "")
    return table


def test_latex_has_rules_bold_and_the_minus_of_mathematics() -> None:
    text = to_latex(collect(with_notes(_table(), notes=["n = 2"], title="sre2l · quick")))
    assert text == (
        r"% needs \usepackage{booktabs}"
        "\n\n"
        r"\begin{table}[t]"
        "\n"
        r"  \centering"
        "\n"
        r"  \caption{sre2l $\cdot$ quick: accuracy \& more}"
        "\n"
        r"  \begin{tabular}{lrrl}"
        "\n"
        r"    \toprule"
        "\n"
        r"    arm & last \% & similarity & note \\"
        "\n"
        r"    \midrule"
        "\n"
        r"    base\_line & $8.1 \pm 1.0$ & $\mathbf{0.743}$ & a\textbar{}b \\"
        "\n"
        r"    dire & $\mathbf{9.7 \pm 0.1}$ & -- &  \\"
        "\n"
        r"    \midrule"
        "\n"
        r"    dire $-$ base & $-0.9 \pm 1.2$ &  &  \\"
        "\n"
        r"    \bottomrule"
        "\n"
        r"  \end{tabular}"
        "\n"
        r"\end{table}"
        "\n\n% n = 2\n"
    )


def test_markdown_marks_the_best_and_escapes_bars() -> None:
    lines = to_markdown(collect(with_notes(_table(), notes=["n = 2"]))).splitlines()
    assert lines == [
        "**accuracy & more**",
        "",
        "| arm | last % | similarity | note |",
        "| --- | ---: | ---: | --- |",
        r"| base\_line | 8.1 ± 1.0 | **0.743** | a\|b |",
        "| dire | **9.7 ± 0.1** | – |  |",
        "| dire − base | −0.9 ± 1.2 |  |  |",
        "",
        "- n = 2",
    ]


def test_csv_has_spreads_in_columns_of_their_own_and_numbers_that_parse() -> None:
    assert to_csv(collect(_table())).splitlines() == [
        "arm,last %,last % ±,similarity,note",
        "base_line,8.1,1.0,0.743,a|b",
        "dire,9.7,0.1,,",
        "dire − base,-0.9,1.2,,",
    ]


def test_several_tables_are_one_csv_with_the_union_of_columns() -> None:
    other = Table("arm", title="time")
    other.add_numbers("s")
    other.add_row("dire", "3")
    assert to_csv(collect(Group(_table(), other))).splitlines()[::4] == [
        "table,arm,last %,last % ±,similarity,note,s",
        "time,dire,,,,,3",
    ]


def test_headings_and_notes_of_nested_tables_are_kept() -> None:
    shown = collect("took 3 s", with_notes(_table(), with_notes(_table(), notes=["b"]), notes=["a", "b"], title="top"))
    assert [caption for caption, _ in shown.tables] == ["top: accuracy & more"] * 2
    assert shown.notes == ("b", "a")


def test_a_file_of_another_kind_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"table\.pdf: tables are written to \.tex, \.csv, \.md files"):
        write_tables(collect(_table()), tmp_path / "table.pdf")
    with pytest.raises(DirePlugError, match="no table"):
        write_tables(collect("text"), tmp_path / "table.md")
