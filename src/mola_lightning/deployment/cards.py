"""What a folder says to people: a README, with the lines that load it."""

from collections.abc import Mapping
from typing import Any

PAPER = "https://arxiv.org/abs/2406.09679"


def artefact_card(manifest: Mapping[str, Any]) -> str:
    """The README of an exported folder."""
    format, tasks = manifest["format"], manifest["tasks"]
    shape = " x ".join(map(str, manifest["input"]["shape"]))
    inside = manifest["input"]["normalized_inside"]
    parts = [
        f"# {manifest['method']}, exported as {format}",
        f"Input: {shape}, {manifest['input']['type']}; normalisation is "
        + ("inside." if inside else "not inside: feed `(image - mean) / std`."),
        _table(tasks),
        _code(format, tasks),
        "`manifest.json` has a checksum of each file; `mola_lightning.deployment.load` compares them first.",
        _license(manifest.get("license")),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def model_card(config: Mapping[str, Any]) -> str:
    """The model card of a whole model: the header that the Hub reads, and what it is."""
    spec, license = config["spec"], config["facts"].get("license")
    header = ["---", "library_name: mola-lightning", "tags:", "- mixture-of-low-rank-adapters", "- multi-task-learning"]
    header += [f"license: {str(license).lower()}"] if license else []
    tasks = {each["name"]: each for each in spec["tasks"]}
    shape = " x ".join(map(str, spec["image_shape"]))
    lines = [
        "from mola_lightning.deployment.hub import HubModel",
        "",
        'model = HubModel.from_pretrained("<this folder>")',
    ]
    lines.append(f'model.predict(images, task="{next(iter(tasks))}")  # uint8, or floats in [0, 1]; {shape}')
    parts = [
        "\n".join([*header, "---"]),
        f"# {spec['method']} on {'layers of ' if spec['backbone']['edits'] else ''}{spec['backbone']['model']}",
        f"One model for {len(tasks)} tasks, with a Mixture of Low-rank Adapters ([MoLA, ICML 2024]({PAPER})): "
        f"{spec['num_experts']} experts inside one backbone."
        if spec["adapters"]
        else f"One backbone for {len(tasks)} tasks (hard parameter sharing).",
        _table(tasks),
        "```python\n" + "\n".join(lines) + "\n```",
        _license(license),
    ]
    return "\n\n".join(parts) + "\n"


def _table(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ["| task | expert | outputs | classes | mean, std | metrics |", "|---|---|---|---|---|---|"]
    for name, entry in tasks.items():
        classes = ", ".join(entry["classes"][:10]) + (" ..." if len(entry["classes"]) > 10 else "")
        expert = "-" if entry["expert"] is None else str(entry["expert"])
        metrics = ", ".join(f"{metric} {value:.4f}" for metric, value in entry["metrics"].items()) or "-"
        prepared = entry["preprocessing"]
        scale = f"{_numbers(prepared['mean'])}, {_numbers(prepared['std'])}"
        outputs = f"{entry['num_outputs']} {entry['outputs']}"
        rows.append(f"| {name} | {expert} | {outputs} | {classes or '-'} | {scale} | {metrics} |")
    return "\n".join(rows)


def _numbers(values: list[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _code(format: str, tasks: Mapping[str, Mapping[str, Any]]) -> str:
    name, entry = next(iter(tasks.items()))
    file = entry["file"]
    if "load" in entry:
        return "```python\n" + "\n".join(entry["load"]) + "\n```"
    if format == "torch_export":
        lines = [
            "import torch",
            "",
            f'program = torch.export.load("{file}").module()',
            f'outputs = program(images)["{name}"]',
            "",
            "# Torch alone may run code of the file that it loads. Of somebody whom you do not know, instead:",
            "# from mola_lightning.deployment import load_program",
            f'# program = load_program("{file}").module()',
        ]
    elif format == "onnx":
        lines = ["import onnxruntime", "", f'session = onnxruntime.InferenceSession("{file}")']
        lines.append(f'(outputs,) = session.run(["{name}"], {{"images": images}})  # numpy, float32')
    else:
        files = ",".join(each["file"] for each in tasks.values())
        return f"```sh\nmola-compose base=base.safetensors experts=[{files}] output=<folder>\n```"
    return "```python\n" + "\n".join(lines) + "\n```"


def _license(license: str | None) -> str:
    return f"License: {license}" if license else "License: not stated."
