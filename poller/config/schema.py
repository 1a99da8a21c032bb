"""The configuration file as a JSON Schema (draft-07), for editors: keys, words, shapes, ranges.

It accepts every file that :func:`poller.config.load` accepts. What needs more than one place to judge (a key that neither a practice nor
``defaults`` has, a secret that is not there) only ``poller check`` tells.
"""

from __future__ import annotations

import copy
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from poller.config.defaults import EVERY_FEED
from poller.config.feed import FeedConfig
from poller.config.model import Config, PracticeConfig
from poller.config.values import RESOURCE_TYPES
from poller.core.schema import DRAFT

CONFIG = "urn:ehr-poller:schema:config:1"

_DURATION = {"type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h|d)$"}


def config_schema() -> dict[str, Any]:
    """The schema of a configuration file, ``defaults`` and ``every_feed`` among its keys."""
    models: list[type[BaseModel]] = [Config, PracticeConfig, FeedConfig]
    template = "#/definitions/{model}"
    _, generated = models_json_schema([(model, "validation") for model in models], ref_template=template)
    sections = {name: _section(section) for name, section in sorted(generated["$defs"].items())}
    practice, top = sections["PracticeConfig"], sections.pop("Config")
    practice["properties"].pop("code")
    practice["properties"][EVERY_FEED] = _or_empty({"$ref": "#/definitions/FeedConfig"})
    for partial in ("PracticeConfig", "ActiveHours"):  # what a practice leaves out of these may stand in defaults
        sections[partial].pop("required", None)
    feeds = {"type": "object", "propertyNames": {"enum": list(RESOURCE_TYPES)}}
    practice["properties"]["feeds"] = _or_empty(
        feeds | {"additionalProperties": _or_empty({"$ref": "#/definitions/FeedConfig"})}
    )
    top["properties"]["defaults"] = _or_empty({"$ref": "#/definitions/PracticeConfig"})
    top["properties"]["practices"] = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": _or_empty({"$ref": "#/definitions/PracticeConfig"}),
    }
    return {"$schema": DRAFT, "$id": CONFIG, "title": "Configuration of the poller"} | top | {"definitions": sections}


def _section(section: dict[str, Any]) -> dict[str, Any]:
    """A mapping of keys, each of which may be left empty."""
    kept = {name: value for name, value in section.items() if name != "title"}
    if "properties" in kept:
        required = set(kept.get("required", ()))
        kept["properties"] = {
            name: _plain(value) if name in required else _or_empty(_plain(value))
            for name, value in kept["properties"].items()
        }
    return kept


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """A value's schema without pydantic's own words; examples and defaults as YAML has them."""
    kept = copy.deepcopy({name: part for name, part in value.items() if name not in {"title", "default"}})
    if kept.get("format") == "duration":
        kept = {name: part for name, part in kept.items() if name not in {"type", "format"}} | _DURATION
    kept.pop("format", None)
    if "examples" in kept:
        kept["examples"] = [yaml.safe_load(example) for example in kept["examples"]]
    for name in ("anyOf", "allOf"):
        if name in kept:
            kept[name] = [_plain(part) for part in kept[name]]
    for name in ("items", "additionalProperties"):
        if isinstance(kept.get(name), dict):
            kept[name] = _plain(kept[name])
    if "$ref" in kept and len(kept) > 1:  # draft-07 looks at nothing beside a reference
        kept = {"allOf": [{"$ref": kept.pop("$ref")}]} | kept
    return kept


def _or_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or nothing: a key left empty has its default."""
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    examples = {"examples": schema.pop("examples")} if "examples" in schema else {}
    return {"anyOf": [schema, {"type": "null"}]} | examples
