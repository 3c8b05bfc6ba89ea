"""Judges deploy/asyncapi.yaml, and messages by it. Reads {document, specification, messages: [{message, headers, properties,
payload}]}; prints the document's examples, and what is wrong with each message. Ends in failure where the document itself is no
good by the JSON Schema of AsyncAPI."""

import json
import sys

import yaml
from jsonschema import Draft7Validator

from documents import compact, references, resolved


def errors(document, schema, value):
    # A whole document around the schema, so that its references lead somewhere.
    whole = {"allOf": [schema], "components": document["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft7Validator(whole).iter_errors(value)]


def message_faults(document, message):
    described = document["components"]["messages"][message["message"]]
    parts = {"headers": described["headers"], "payload": described["payload"]}
    if "x-amqp-properties" in described:
        parts["properties"] = described["x-amqp-properties"]["schema"]
    given = {"headers": message["headers"], "properties": message["properties"], "payload": json.loads(message["payload"])}
    faults = [f"{part}: {error}" for part, schema in parts.items() for error in errors(document, schema, given[part])]
    if message.get("ours_only"):
        faults += [f"headers: {name} is not described" for name in message["headers"] if name not in names(document, described["headers"])]
    return faults


def names(document, schema):
    """The members that a schema and those within it describe."""
    schema = resolved(document, schema)
    found = set(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        found |= names(document, part)
    return found


def judge(document, specification):
    """Whether the document is what AsyncAPI 3.0 allows, and its references and operations fit together."""
    found = [f"{error.json_path}: {error.message[:300]}" for error in Draft7Validator(specification).iter_errors(document)]
    for reference in references(document):
        try:
            resolved(document, reference)
        except KeyError:
            found.append(f"{reference['$ref']}: leads nowhere")
    for name, operation in document["operations"].items():
        channel = operation["channel"]["$ref"]
        stray = [message["$ref"] for message in operation["messages"] if not message["$ref"].startswith(f"{channel}/messages/")]
        found += [f"{name}: {message} is of another channel" for message in stray]
    for schema in document["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)
    return found


def examples(document):
    for message, described in document["components"]["messages"].items():
        properties = described.get("x-amqp-properties", {}).get("examples", {})
        for example in described.get("examples", []):
            yield {
                "message": message,
                "name": example["name"],
                "headers": example.get("headers", {}),
                "properties": properties.get(example["name"], {}),
                "payload": compact(example["payload"]),
            }


def main():
    given = json.load(sys.stdin)
    with open(given["document"], encoding="utf-8") as file:
        document = yaml.safe_load(file)
    with open(given["specification"], encoding="utf-8") as file:
        specification = json.load(file)
    faults = judge(document, specification)
    if faults:
        sys.exit("\n".join(faults))
    exchanges = [channel["bindings"]["amqp"]["exchange"] for channel in document["channels"].values() if "exchange" in channel["bindings"]["amqp"]]
    queues = [channel["bindings"]["amqp"]["queue"] for channel in document["channels"].values() if "queue" in channel["bindings"]["amqp"]]
    print(
        json.dumps(
            {
                "examples": list(examples(document)),
                "exchanges": exchanges,
                "queues": queues,
                "faults": [message_faults(document, message) for message in given["messages"]],
            }
        )
    )


main()
