"""Judges deploy/callbacks.openapi.yaml, and requests by it. Reads {document, requests: [{webhook, headers, body}]}; prints the
document's examples, and what is wrong with each request. Ends in failure where the document itself is no good."""

import json
import sys

import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from documents import compact, references, resolved

# OpenAPI leaves these three to other parts of a document, the others belong to the connection.
ELSEWHERE = {"accept", "authorization", "content-type", "host", "content-length"}


def errors(document, schema, value):
    whole = {**schema, "components": document["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(whole).iter_errors(value)]


def parameters(document, webhook):
    operation = document["webhooks"][webhook]["post"]
    return {parameter["name"]: parameter for parameter in (resolved(document, one) for one in operation["parameters"])}


def media(document, webhook):
    return document["webhooks"][webhook]["post"]["requestBody"]["content"]["application/json"]


def header_faults(document, webhook, headers):
    known = parameters(document, webhook)
    for name, parameter in known.items():
        if name in headers:
            # Style "simple": a list has commas between its values.
            value = headers[name].split(",") if parameter["schema"]["type"] == "array" else headers[name]
            yield from (f"{name}: {error}" for error in errors(document, parameter["schema"], value))
        elif parameter["required"]:
            yield f"{name}: is missing"
    yield from (f"{name}: is not described" for name in headers if name not in known and name not in ELSEWHERE)


def request_faults(document, request):
    body = errors(document, media(document, request["webhook"])["schema"], json.loads(request["body"]))
    return [*header_faults(document, request["webhook"], request["headers"]), *(f"body: {error}" for error in body)]


def main():
    given = json.load(sys.stdin)
    with open(given["document"], encoding="utf-8") as file:
        document = yaml.safe_load(file)
    validate(document)
    for reference in references(document):
        resolved(document, reference)
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    webhooks = document["webhooks"]
    for webhook in webhooks:
        for parameter in parameters(document, webhook).values():
            assert not errors(document, parameter["schema"], parameter["example"]), parameter["name"]
    examples = {webhook: {name: compact(one["value"]) for name, one in media(document, webhook).get("examples", {}).items()} for webhook in webhooks}
    shown = {webhook: {name: one["example"] for name, one in parameters(document, webhook).items()} for webhook in webhooks}
    faults = [request_faults(document, request) for request in given["requests"]]
    print(json.dumps({"examples": examples, "headers": shown, "faults": faults}))


main()
