"""The process that builds a method's own network beside ours."""

CHILD = """
import contextlib, importlib, json, sys
import torch

for case in json.load(sys.stdin):
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(case["tree"]):
            del sys.modules[name]
    sys.path.insert(0, case["folder"])
    with contextlib.redirect_stdout(sys.stderr):
        network = eval(case["call"], vars(importlib.import_module(case["module"])))
    sys.path.pop(0)
    network.load_state_dict(torch.load(case["weights"], weights_only=True), strict=True)
    head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen = []
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        outputs = network.eval().double()(torch.load(case["images"], weights_only=True).double())
    order = [name for name, _ in network.named_parameters()]
    torch.save({"outputs": outputs, "embeddings": seen[0], "order": order}, case["result"])
"""
