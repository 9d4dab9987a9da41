"""`dire-plug doctor`: show what is installed, and the command that gets each missing part."""

from __future__ import annotations

from pathlib import Path

import click

from dire_plug import home, plugins, ui
from dire_plug.commands.options import DATA_ROOT
from dire_plug.errors import DirePlugError
from dire_plug.store.provenance import code, hardware, versions
from dire_plug.tables import Table


@click.command()
@DATA_ROOT
@click.option("--measure-rate", is_flag=True, help="Measure anew how fast this machine trains, for --dry-run.")
def doctor(data_root: Path | None, measure_rate: bool) -> None:
    """Print versions, the device, the data and upstreams found, and how to get each missing one."""
    from dire_plug.data import default_root, find_all
    from dire_plug.pipeline import rates
    from dire_plug.store.runs import choose_device

    table = Table("what")
    table.add_prose("value")
    for name, value in versions().items():
        table.add_row(name, value)
    table.add_row("code", str(code()))
    for name, value in hardware(choose_device("auto")).items():
        table.add_row("GPU" if name == "card" else name, str(value))  # `card` is its key in provenance.json
    rate = rates.measure_rate() if measure_rate else rates.find_kept()
    table.add_row("rate", "not measured yet: --measure-rate" if rate is None else rate.describe())
    places = {"home": home.home(), "store": home.store(), "runs": home.runs(), "data": data_root or default_root()}
    for name, path in places.items():
        table.add_row(name, str(path))
    ui.show(table)

    data = Table("dataset")
    data.add_prose("here", "where, or how to get it")
    for spec, folder in find_all(data_root):
        data.add_row(spec.name, "yes" if folder else "no", str(folder) if folder else spec.how)
    ui.show(data)

    upstreams = Table("method")
    upstreams.add_prose("its own code", "where, or how to get it")
    for name in plugins.known("methods"):
        upstreams.add_row(name, *_upstream(name))
    ui.show(upstreams)


def _upstream(name: str) -> tuple[str, str]:
    from dire_plug.upstream.source.vendor import find_vendored

    try:
        found = find_vendored(plugins.load_adapter(name))
    except DirePlugError as error:
        return "damaged", str(error)
    return ("yes", str(found)) if found else ("no", f"dire-plug vendor {name}")
