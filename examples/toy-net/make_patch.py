"""Write the patch: `python make_patch.py CLONE`, a clone of upstream at the commit that the patch is for."""

import subprocess
import sys
from pathlib import Path

from dire_plug.api.method import make_patch

FILE = "src/synth.py"
LINES = {
    7: ["from dire_plug import bridge"],
    21: ["bridge.watch(network)"],
    22: ["labels = bridge.labels(labels)"],
    23: ["images = bridge.start(images, labels)"],
    27: ["    cost = bridge.loss(cost, images=images, labels=labels, step=step)"],
    31: ["    bridge.step_done(cost, images=images, labels=labels, step=step)"],
    32: ["    number = bridge.image_index(number, place)"],
}

clone = Path(sys.argv[1])
commit = subprocess.check_output(["git", "-C", str(clone), "rev-parse", "HEAD"], text=True).strip()
target = Path(__file__).parent / "toy_net_plugin" / "patches" / "bridge.patch"
target.parent.mkdir(parents=True, exist_ok=True)
text = make_patch({FILE: (clone / FILE).read_bytes()}, {FILE: LINES}, commit=commit)
target.write_bytes(text.encode())
