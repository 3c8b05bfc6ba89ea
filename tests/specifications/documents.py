"""What the judges of both documents share."""

import json


def compact(value):
    """As the contract's examples are written."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def resolved(document, node):
    """What a node refers to, in the end. Raises KeyError where that is nowhere."""
    while isinstance(node, dict) and "$ref" in node:
        target = document
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def references(node):
    """Every node that refers to another one."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)
