#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Write doc/inspect.schema.json from src/image/torpor.proto and src/kinds/kinds.def, to be run when these change.
With --check: exit 1 when it is out of date, and write nothing. With --validate FILE...: check the output of
`torpor inspect --json` against it (needs the package python3-jsonschema)."""

import json
import os
import re
import sys

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
SCHEMA = os.path.join(TOP, "doc", "inspect.schema.json")
WIDTH = 110
NATURAL = {"type": "integer", "minimum": 0}
SCALARS = {
    "uint32": NATURAL, "uint64": NATURAL, "fixed32": NATURAL, "fixed64": NATURAL,
    "int32": {"type": "integer"}, "int64": {"type": "integer"}, "bool": {"type": "boolean"},
    "string": {"type": "string"}, "bytes": {"type": "string", "pattern": "^([0-9a-f]{2})*$"},
}


def read(*path):
    with open(os.path.join(TOP, *path)) as f:
        return f.read()


def field(label, kind, about):
    """One field of a message."""
    schema = dict(SCALARS.get(kind) or {"$ref": "#/$defs/" + kind})
    if label == "repeated":
        schema = {"type": "array", "items": schema}
    return {"description": about, **schema} if about else schema


def parse(text):
    """The messages and enums of a .proto file, as far as this project uses its language."""
    found, name, comment = {}, None, []
    for line in map(str.strip, text.splitlines()):
        if begin := re.match(r"(message|enum) (\w+) {", line):
            name = begin[2]
            found[name] = {"type": "object", "required": [], "properties": {}} if begin[1] == "message" else []
            if comment and begin[1] == "message":
                found[name] = {"description": " ".join(comment), **found[name]}
            comment = []
        elif line == "}":
            name = None
        elif name and (m := re.match(r"(required|optional|repeated) (\w+) (\w+) = \d+.*?;\s*(?://\s*(.*))?$", line)):
            found[name]["properties"][m[3]] = field(m[1], m[2], m[4])
            if m[1] != "optional":
                found[name]["required"].append(m[3])
        elif name and (m := re.match(r"(\w+) = \d+;", line)):
            found[name].append(m[1].lower())
        elif not name:
            comment = comment + [line[2:].strip()] if line.startswith("//") and "----" not in line else []
    for name, value in found.items():
        if isinstance(value, list):
            found[name] = {"description": "A number where torpor has no name for it.",
                           "anyOf": [{"enum": value}, {"type": "integer"}]}
    return found


def kinds(messages):
    """(tag, message) of every kind that has a message of its own."""
    for name, tag in re.findall(r"^KIND\((\w+), (\d+)\)", read("src", "kinds", "kinds.def"), re.M):
        message = "".join(word.capitalize() for word in name.split("_"))
        if message in messages:
            yield int(tag), message


def add_extras(messages):
    """What inspect adds to the messages."""
    for name in ("Mapping", "AddressSpace", "Inode"):
        messages[name]["properties"]["stored_bytes"] = {"description": "Bytes of pages in the file.", **NATURAL}
        messages[name]["required"].append("stored_bytes")
    thing = messages["Object"]
    slot = {"type": "object", "required": ["task", "fd"],
            "properties": {"task": {"description": "Index into tasks.", **NATURAL}, "fd": NATURAL}}
    thing["properties"].update({
        "body": {"description": "The message of its kind; hexadecimal where it is damaged.", "type": ["object", "string"]},
        "kind_name": {"type": "string"},
        "description": {"description": "One line for people.", "type": "string"},
        "slots": {"description": "Who refers to it.", "type": "array", "items": slot},
    })
    thing["required"] += ["kind_name", "description", "slots"]
    thing["allOf"] = [{"if": {"properties": {"kind": {"const": tag}, "body": {"type": "object"}}},
                       "then": {"properties": {"body": {"$ref": "#/$defs/" + message}}}} for tag, message in kinds(messages)]


def schema():
    messages = parse(read("src", "image", "torpor.proto"))
    add_extras(messages)
    numbers = {"bytes": "Size of the file.", "metadata_bytes": None, "extents": "Stretches of pages in the file.",
               "runs": "Entries of its memory index."}
    phases = {"read_ns": "Reading and checking the image.", "files_ns": "Making files, pipes and sockets.",
              "tasks_ns": "Making the processes, and loading their memory.", "finish_ns": "The last touch, until all run."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "torpor inspect --json",
        "description": "What `torpor inspect FILE --json` prints. `image` has the fields of src/image/torpor.proto under "
                       "their names there. Optional fields that are not set are left out; bytes are in hexadecimal; "
                       "integers have up to 64 bits; what is not UTF-8 in a string shows as U+FFFD. New fields may come; "
                       "what is here keeps its meaning as long as `format` is the same.",
        "type": "object",
        "required": ["format", "file", "image"],
        "properties": {
            "format": {"const": 1},
            "damage": {"description": "What is wrong with the image, of which the rest is what could be read; else absent.",
                       "type": "string"},
            "file": {"type": "object", "required": ["path", *numbers], "properties": {
                "path": {"type": "string"}, **{name: field(None, "uint64", about) for name, about in numbers.items()}}},
            "last_restore": {
                "description": "How long each phase of the last restore took, where that is known: it is an attribute of the file.",
                "type": "object", "required": ["realtime_ns", *phases],
                "properties": {name: field(None, "uint64", about) for name, about in phases.items()} |
                              {"realtime_ns": field(None, "uint64", "When the processes ran again.")}},
            "image": {"$ref": "#/$defs/Image"},
        },
        "$defs": messages,
    }


def layout(value, indent=0):
    """As JSON; on one line what fits there."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent < WIDTH or not isinstance(value, (dict, list)):
        return line
    pad = " " * (indent + 2)
    inner = [json.dumps(k) + ": " + layout(v, indent + 2) for k, v in value.items()] if isinstance(value, dict) \
        else [layout(v, indent + 2) for v in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return first + "\n" + ",\n".join(pad + text for text in inner) + "\n" + " " * indent + last


def validate(paths):
    import jsonschema
    validator = jsonschema.Draft202012Validator(schema())
    for path in paths:
        with open(path) as f:
            validator.validate(json.load(f))
        print(f"{path}: valid")


def main():
    text = layout(schema()) + "\n"
    if sys.argv[1:2] == ["--validate"]:
        validate(sys.argv[2:])
    elif sys.argv[1:] == ["--check"]:
        if read("doc", "inspect.schema.json") != text:
            sys.exit("doc/inspect.schema.json is out of date: run doc/inspect.schema.py")
    else:
        with open(SCHEMA, "w") as f:
            f.write(text)


main()
