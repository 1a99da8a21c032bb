"""A pass that ends while a delete is being committed leaves no question open."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from poller.store.deletes import Settled
from tests.acceptance.parts import wait_until

if TYPE_CHECKING:
    from tests.integration.conftest import Practice


def test_what_was_deleted_meanwhile_is_not_asked_for_again_and_again(practice: Practice) -> None:
    practice.whole(practice.observation("o1"))
    practice.whole()
    [absence] = practice.deletes.due(practice.code)
    second = threading.Thread(
        target=practice.whole
    )  # it sees the resource still there, and waits for the absence's row

    def meanwhile(_connection: Any) -> None:
        second.start()
        wait_until("the pass waits for the delete", practice.someone_waits, 10, 0.01)

    with practice.at_next_commit(meanwhile):
        assert practice.confirm(absence) is Settled.DELETED
    second.join(10)
    [again] = practice.deletes.due(practice.code)
    assert practice.confirm(again) is Settled.MOOT
    assert practice.deletes.due(practice.code) == []
    assert [action for action, _, _ in practice.actions()] == ["created", "deleted"]
