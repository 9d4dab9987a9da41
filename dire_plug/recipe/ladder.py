"""Cut the overrides of the arm `dire` into rungs, so that arms lead from baseline to control one change at a time.

An authors' release may change start, learning rate, r_bn and batches together with its term; compared arm by arm, each
change has its own difference. The first change is the start, then come the loop's flags, and the batches last; the arm
with all of them is `control`. What only a term reads (`term`, `real`) is part of the last step, from control to `dire`.
"""

from dire_plug.recipe.loading import Tree, flatten, merge, nest

RUNG = "rung-"
"""How the name of an arm between baseline and control begins: `rung-<number>-<change>`."""
START, BATCHES = "start", "batches"
FIRST = (START, "lr", "lr_img", "r-bn")
"""The order of changes; others follow as the recipe has them, and the batches come last."""
IN_BATCHES = ("recover.plan", "recover.bank", "recover.flags.batch-size")
"""What a change of batches consists of: one without the others may be no valid recipe."""


def cut_ladder(overrides: Tree) -> dict[str, Tree]:
    """Return arm → the part of the overrides that it has, for the arms between baseline and control, in order."""
    leaves = {key: value for key, value in flatten(overrides).items() if key.split(".")[0] not in ("term", "real")}
    changes: dict[str, Tree] = {}
    for key, value in leaves.items():
        if value != {}:  # an empty section changes nothing
            name = _change(key)
            changes[name] = merge(changes.get(name, {}), nest(key.split("."), value))
    *before_control, _ = sorted(changes, key=_rank) or [BATCHES]
    rungs: dict[str, Tree] = {}
    reached: Tree = {}
    for number, name in enumerate(before_control, start=1):
        reached = merge(reached, changes[name])
        rungs[f"{RUNG}{number}-{name}"] = reached
    return rungs


def rung_number(arm: str) -> int | None:
    """Return the number in the name of an arm between baseline and control; None for other arms."""
    number = arm.removeprefix(RUNG).partition("-")[0]
    return int(number) if arm.startswith(RUNG) and number.isdecimal() else None


def _change(key: str) -> str:
    """Return the name of the change that a dotted key is part of."""
    if key.startswith(IN_BATCHES):
        return BATCHES
    section, _, rest = key.partition(".")
    # of another section all keys are one change
    return rest.removeprefix("flags.").split(".")[0] if section == "recover" else section


def _rank(change: str) -> int:
    return FIRST.index(change) if change in FIRST else len(FIRST) + (change == BATCHES)
