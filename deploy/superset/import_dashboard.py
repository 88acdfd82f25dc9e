"""Puts the dashboard of this folder into a Superset, or into a ZIP file for Superset's own import.

    python import_dashboard.py --zip partner_connections.zip
    SUPERSET_PASSWORD=… PGPASSWORD=… python import_dashboard.py --superset https://superset.example \
        --username admin --database postgresql://bi_reader@db.example/partners

Imported again, it replaces what it put there before: database connection, datasets, charts and dashboard are
recognized by their UUIDs. Nothing but Python is needed.
"""

import argparse
import io
import json
import os
import re
import secrets
import sys
import urllib.error
import urllib.request
import zipfile
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BUNDLE = Path(__file__).parent / "dashboard"
DATABASE = "databases/partner_connections.yaml"
# What Superset writes in place of a password; on import it asks for one, or takes it from `passwords`.
MASK = "X" * 10


def bundle(database: str | None = None) -> tuple[bytes, str | None]:
    """The ZIP file, and the password for its database, which is not in it.

    database: where it is, as postgresql://…; None leaves the example that is in the folder.
    """
    password = None
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(BUNDLE.rglob("*.yaml")):
            name = path.relative_to(BUNDLE).as_posix()
            text = path.read_text(encoding="utf-8")
            if name == DATABASE and database:
                text, password = _connected(text, database)
            archive.writestr(f"{BUNDLE.name}/{name}", text)
    return content.getvalue(), password


def _connected(text: str, database: str) -> tuple[str, str | None]:
    """The database's YAML with `database` in place of the example; the password, which stays out."""
    parts = urlsplit(database)
    password = parts.password or os.environ.get("PGPASSWORD")
    user = f"{parts.username or ''}{f':{MASK}' if password else ''}"
    where = parts.netloc.rpartition("@")[2]
    uri = parts._replace(scheme="postgresql+psycopg2", netloc=f"{user}@{where}").geturl()
    line = f"sqlalchemy_uri: {json.dumps(uri)}"
    return re.sub(r"(?m)^sqlalchemy_uri: .*$", lambda _: line, text), password


class Superset:
    """A Superset's API, logged in. Raises `urllib.error.URLError`."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url.rstrip("/")
        self._headers: dict[str, str] = {"Referer": self.url}
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        login = {"username": username, "password": password, "provider": "db"}
        self._headers["Authorization"] = f"Bearer {self.post('security/login', login)['access_token']}"
        self._headers["X-CSRFToken"] = self.get("security/csrf_token/")["result"]

    def get(self, path: str) -> dict[str, Any]:
        return self._answer(path, None, {})

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._answer(path, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def import_bundle(self, content: bytes, password: str | None) -> None:
        """Import the ZIP file `content`, over whatever of it is there."""
        fields = {"passwords": json.dumps({DATABASE: password})} if password else {}
        boundary = secrets.token_hex(16)
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="bundle"; filename="bundle.zip"\r\n'
            "Content-Type: application/zip\r\n\r\n"
        )
        body = b"".join([*parts, head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
        self._answer("assets/import/", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def _answer(self, path: str, body: bytes | None, headers: dict[str, str]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  (the user's own address)
            f"{self.url}/api/v1/{path}", body, self._headers | headers
        )
        with self._opener.open(request) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--zip", type=Path, help="write the ZIP file here")
    parser.add_argument("--superset", help="the address of the Superset to import into")
    parser.add_argument("--username", default="admin", help="its password is taken from SUPERSET_PASSWORD")
    parser.add_argument(
        "--database", help="postgresql://…, as Superset reaches it; the password from PGPASSWORD"
    )
    options = parser.parse_args()
    if not options.zip and not options.superset:
        parser.error("give --zip or --superset")
    content, password = bundle(options.database)
    if options.zip:
        options.zip.write_bytes(content)
    if options.superset:
        try:
            superset = Superset(options.superset, options.username, os.environ.get("SUPERSET_PASSWORD", ""))
            superset.import_bundle(content, password)
        except urllib.error.HTTPError as error:
            print(f"{error.url}: {error.code}: {error.read().decode(errors='replace')}", file=sys.stderr)
            return 1
        except urllib.error.URLError as error:
            print(f"{options.superset}: {error.reason}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
