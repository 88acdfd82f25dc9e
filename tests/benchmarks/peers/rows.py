"""From GetConnection's answers to rows, for the peers that take dictionaries."""

from collections.abc import Iterable, Iterator
from typing import Any

ACCOUNT, CATALOG = "111122223333", "AWS"
KEYS = {
    "connection": ["account_id", "catalog", "id"],
    "connection_type": ["account_id", "catalog", "connection_id", "type"],
    "participant": ["account_id", "catalog", "kind", "id"],
}
COLUMNS = {
    "connection": [*KEYS["connection"], "arn", "other_participant_account_id", "updated_at"],
    "connection_type": [
        *KEYS["connection_type"],
        "status",
        "created_at",
        "inviter_email",
        "inviter_name",
        "canceled_at",
        "canceled_by",
        "participant_kind",
        "participant_id",
    ],
    "participant": [*KEYS["participant"], "name", "connection_id", "updated_at"],
}


def connection(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "account_id": ACCOUNT,
        "catalog": CATALOG,
        "id": answer["Id"],
        "arn": answer["Arn"],
        "other_participant_account_id": answer["OtherParticipantAccountId"],
        "updated_at": answer["UpdatedAt"],
    }


def types(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, detail in answer["ConnectionTypes"].items():
        [(kind, participant)] = detail["OtherParticipant"].items()
        yield {
            "account_id": ACCOUNT,
            "catalog": CATALOG,
            "connection_id": answer["Id"],
            "type": name,
            "status": detail["Status"],
            "created_at": detail["CreatedAt"],
            "inviter_email": detail["InviterEmail"],
            "inviter_name": detail["InviterName"],
            "canceled_at": detail.get("CanceledAt"),
            "canceled_by": detail.get("CanceledBy"),
            "participant_kind": kind,
            "participant_id": participant.get("Id", answer["OtherParticipantAccountId"]),
        }


class Latest:
    """Participants by the connection that decides: the latest, of its types the last by name."""

    def __init__(self, answers: Iterable[dict[str, Any]]) -> None:
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        for answer in answers:
            self.see(answer)

    def see(self, answer: dict[str, Any]) -> None:
        version = answer["UpdatedAt"], answer["Id"]
        for _, detail in sorted(answer["ConnectionTypes"].items()):
            [(kind, participant)] = detail["OtherParticipant"].items()
            key = kind, participant.get("Id", answer["OtherParticipantAccountId"])
            seen = self._rows.get(key)
            if seen is None or (seen["updated_at"], seen["connection_id"]) <= version:
                self._rows[key] = {
                    "account_id": ACCOUNT,
                    "catalog": CATALOG,
                    "kind": kind,
                    "id": key[1],
                    "name": participant["Name"],
                    "connection_id": answer["Id"],
                    "updated_at": answer["UpdatedAt"],
                }

    def rows(self) -> list[dict[str, Any]]:
        return list(self._rows.values())
