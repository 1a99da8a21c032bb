"""What was really published fits the schemas that consumers are given; changed by a word, it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from poller.core import jsontext
from poller.core.schema import event_schema

if TYPE_CHECKING:
    from tests.acceptance.story import Story


def test_every_event_of_the_story_fits(story: Story) -> None:
    validator = jsonschema.Draft7Validator(event_schema("full-resource"), format_checker=jsonschema.FormatChecker())
    events: list[Any] = [*story.full, *story.labs]
    assert {event["type"].split(".")[-2] for event in events} >= {"created", "updated", "deleted"}
    for event in events:
        validator.validate(jsontext.loads(jsontext.dumps(event)))
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({name: value for name, value in event.items() if name != "sequence"})
