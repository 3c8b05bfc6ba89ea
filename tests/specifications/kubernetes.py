"""Judges objects of Kubernetes by the schemas of one version of it. Reads {version, text}; prints the objects, what is wrong with them,
and the kinds that Kubernetes itself does not know."""

import json
import sys

import kubernetes_validate
import yaml


def main():
    given = json.load(sys.stdin)
    objects = [one for one in yaml.safe_load_all(given["text"]) if one]
    faults, unknown = [], []
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        try:
            kubernetes_validate.validate(one, given["version"], strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unknown.append(one["kind"])
        except kubernetes_validate.ValidationError as error:
            faults.append(f"{name}: {error.message}")
    print(json.dumps({"objects": objects, "faults": faults, "unknown": unknown}))


main()
