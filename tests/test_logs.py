import pytest
import structlog

from syncer.events import Event
from syncer.logs import MOST_PER_KIND, FirstOfEach


def test_a_flood_of_bad_items_is_told_only_at_its_beginning() -> None:
    first = FirstOfEach()
    for _ in range(MOST_PER_KIND - 1):
        assert "note" not in first(None, "warning", {"event": Event.ITEM_INVALID})
    assert "sync_failure" in str(first(None, "warning", {"event": Event.ITEM_INVALID})["note"])
    with pytest.raises(structlog.DropEvent):
        first(None, "warning", {"event": Event.ITEM_INVALID})
    assert first(None, "warning", {"event": Event.ITEM_FAILED}) == {"event": Event.ITEM_FAILED}
    assert first(None, "info", {"event": Event.PROGRESS}) == {"event": Event.PROGRESS}
