"""Judges configuration files by the JSON Schema of their kind. Reads {schema, files: {name: TOML text}}; prints what is wrong with each."""

import json
import sys
import tomllib

from jsonschema import Draft7Validator


def main():
    given = json.load(sys.stdin)
    with open(given["schema"], encoding="utf-8") as file:
        schema = json.load(file)
    Draft7Validator.check_schema(schema)
    judge = Draft7Validator(schema)
    faults = {name: [f"{error.json_path}: {error.message}" for error in judge.iter_errors(tomllib.loads(text))] for name, text in given["files"].items()}
    print(json.dumps(faults))


main()
