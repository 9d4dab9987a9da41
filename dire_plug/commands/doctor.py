"""`dire-plug doctor`: show what is installed, and the command that gets each missing part."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import click

from dire_plug import home, plugins, ui
from dire_plug.commands.options import DATA_ROOT, JSON
from dire_plug.errors import DirePlugError
from dire_plug.store.provenance import code, hardware, versions
from dire_plug.tables import Table

PROJECT = "dire-plug"
OF_DEVELOPERS = ("test", "docs", "dev")
"""Extras that no command needs."""


@click.command()
@DATA_ROOT
@JSON
@click.option("--measure-rate", is_flag=True, help="Measure anew how fast this machine trains, for --dry-run.")
def doctor(data_root: Path | None, measure_rate: bool) -> None:
    """Show versions, device, extras, data, upstreams; how to get each."""
    from dire_plug.acceleration import OF_MACHINES, find_able
    from dire_plug.data import default_root, find_all
    from dire_plug.pipeline import rates
    from dire_plug.store.runs import choose_device

    device = choose_device("auto")
    able = [name for name in find_able(device) if name in OF_MACHINES]
    machine, rate = hardware(device), rates.measure_rate() if measure_rate else rates.find_kept()
    folders = {"home": home.home(), "store": home.store(), "runs": home.runs(), "data": data_root or default_root()}
    datasets = [
        {"dataset": spec.name, "here": folder is not None, "where": str(folder or spec.how)}
        for spec, folder in find_all(data_root)
    ]
    extras = _extras()
    upstreams = [{"method": name} | _upstream(name) for name in plugins.known("methods")]
    data = {
        "versions": versions(),
        "code": str(code()),
        "hardware": machine,
        "able": able,
        "rate": None if rate is None else vars(rate),
        "folders": folders,
        "extras": extras,
        "datasets": datasets,
        "upstreams": upstreams,
    }

    table = Table("what")
    table.add_prose("value")
    for name, value in versions().items():
        table.add_row(name, value)
    table.add_row("code", str(code()))
    for name, value in machine.items():
        # `card` is its key in provenance.json
        table.add_row("GPU" if name == "card" else name, "none" if value is None else str(value))
    table.add_row("able", ", ".join(able) or "nothing that --accelerate fast needs a machine for")
    table.add_row("rate", "not measured yet: --measure-rate" if rate is None else rate.describe())
    for name, path in folders.items():
        table.add_row(name, str(path))
    of_data = Table("dataset")
    of_data.add_prose("here", "where, or how to get it")
    for one in datasets:
        of_data.add_row(str(one["dataset"]), "yes" if one["here"] else "no", str(one["where"]))
    of_methods = Table("method")
    of_methods.add_prose("its own code", "where, or how to get it")
    for upstream in upstreams:
        of_methods.add_row(upstream["method"], upstream["vendored"], upstream["where"])
    of_extras = Table("extra")
    of_extras.add_prose("here", "how to get it")
    for name, absent in extras.items():
        get = f"lacks {', '.join(absent)}: pip install '{PROJECT}[{name}]'"
        of_extras.add_row(name, "no" if absent else "yes", get if absent else "")
    ui.result(table, of_extras, of_data, of_methods, data=lambda: data)


def _extras() -> dict[str, list[str]]:
    """Return extra → its packages that aren't installed; without those for developers. Empty from a mere folder."""
    found: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return found
    for one in requirements:
        package, extra = re.match(r"[\w.-]+", one), re.search(r"extra == ['\"]([\w-]+)['\"]", one)
        if package is None or extra is None or extra[1] in OF_DEVELOPERS:
            continue
        absent = found.setdefault(extra[1], [])
        try:
            metadata.version(package[0])
        except metadata.PackageNotFoundError:
            absent.append(package[0])
    return dict(sorted(found.items()))


def _upstream(name: str) -> dict[str, str]:
    from dire_plug.upstream.source.vendor import find_vendored

    try:
        found = find_vendored(plugins.load_adapter(name))
    except DirePlugError as error:
        return {"vendored": "damaged", "where": str(error)}
    where = str(found) if found else f"dire-plug vendor {name}"
    return {"vendored": "yes" if found else "no", "where": where}
