"""The dashboard in a real Superset: imported, then every chart asked for its data. `check` runs it.

It starts a Superset of its own, with the metadata in a temporary folder, over the database that libpq's
variables name.
"""

import argparse
import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deploy.superset.import_dashboard import BUNDLE, MASK, Superset

USER = "admin"
SLUG = "partner-connections"
# Seconds for Superset to start, or for a browser to draw the dashboard.
PATIENCE = 180
# The picture: pixels, and few colours, because what the README shows should load quickly.
WIDTH = 1400
COLOURS = 128
MARGIN = 16


@contextmanager
def running(folder: Path, password: str) -> Iterator[str]:
    """A new Superset with one user, while the context lasts; yields its address."""
    log = folder / "log"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SUPERSET_")} | {
        "SUPERSET_HOME": str(folder),
        "SUPERSET_SECRET_KEY": secrets.token_urlsafe(42),
        "FLASK_APP": "superset",
    }
    program = str(Path(sys.executable).with_name("superset"))
    admin = ["--username", USER, "--password", password, "--email", "admin@example.com"]
    with log.open("ab") as output:
        for arguments in (
            ["db", "upgrade"],
            ["fab", "create-admin", *admin, "--firstname", "A", "--lastname", "B"],
            ["init"],
        ):
            done = subprocess.run(
                [program, *arguments], env=variables, stdout=output, stderr=output, check=False
            )
            if done.returncode:
                sys.exit(f"superset {arguments[0]} ended with {done.returncode}:\n{_end(log)}")
        port = _free_port()
        server = subprocess.Popen(
            [program, "run", "--port", str(port), "--with-threads"],
            env=variables,
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _answering(f"{url}/health", server, log)
        yield url
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url}: {error.code}: {error.read().decode(errors='replace')}\n{_end(log)}")
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port: int = any_port.getsockname()[1]
        return port


def _answering(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url):  # noqa: S310  (ours)
                return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"Superset does not start:\n{_end(log)}")


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])


def import_twice(url: str, password: str) -> None:
    """What a user does at first, and again after an update. Any password will do for this database."""
    user, host, name = (os.environ[variable] for variable in ("PGUSER", "PGHOST", "PGDATABASE"))
    database = f"postgresql://{user}@/{name}?host={quote(host, safe='/')}&port={os.environ['PGPORT']}"
    script = str(Path(__file__).with_name("import_dashboard.py"))
    for _ in range(2):
        subprocess.run(
            [sys.executable, script, "--superset", url, "--username", USER, "--database", database],
            env=os.environ | {"SUPERSET_PASSWORD": password, "PGPASSWORD": "any"},
            check=True,
        )


def wrong_charts(superset: Superset) -> list[str]:
    """Ask every chart of the dashboard for its data, and say so; those that have none."""
    charts = superset.get(f"dashboard/{SLUG}/charts")["result"]
    wrong = []
    for chart in sorted(charts, key=lambda chart: str(chart["slice_name"])):
        try:
            answers = superset.get(f"chart/{chart['id']}/data/")["result"]
        except urllib.error.HTTPError as error:
            wrong.append(f"{chart['slice_name']}: {error.read().decode(errors='replace')}")
            continue
        rows = [row for answer in answers for row in answer["data"]]
        # A number that is null is drawn as a blank.
        shown = [row for row in rows if any(value is not None for value in row.values())]
        print(f"{len(shown):6} rows  {chart['slice_name']}")
        if not shown:
            wrong.append(f"{chart['slice_name']}: no rows")
    expected = len(list((BUNDLE / "charts").glob("*.yaml")))
    if len(charts) != expected:
        wrong.append(f"{len(charts)} charts on the dashboard, not {expected}")
    return wrong


def masked(superset: Superset) -> bool:
    """Whether the database's password is only where Superset keeps it encrypted."""
    [database] = superset.get("database/")["result"]
    connection = superset.get(f"database/{database['id']}/connection")["result"]
    return f":{MASK}@" in connection["sqlalchemy_uri"]


def screenshot(url: str, password: str, file: Path) -> None:
    """The whole dashboard, drawn by a headless Chromium, as a PNG file."""
    from PIL import Image
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "hide-scrollbars", "disable-dev-shm-usage", f"window-size={WIDTH},1000"):
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        waiting = WebDriverWait(browser, PATIENCE)

        def there(selector: str) -> Any:
            return waiting.until(lambda browser: browser.find_elements(By.CSS_SELECTOR, selector))[0]

        browser.get(f"{url}/login/")
        there("input[type=password]").send_keys(password)
        there("input:not([type=password]):not([type=hidden])").send_keys(USER)
        there("button[type=submit]").click()
        waiting.until(lambda browser: "/login" not in browser.current_url)
        browser.get(f"{url}/superset/dashboard/{SLUG}/?standalone=1")
        there(".dashboard-component-chart-holder")
        height = browser.execute_script("return document.querySelector('.grid-container').scrollHeight")
        browser.set_window_size(WIDTH, height + 400)
        waiting.until(
            lambda browser: browser.execute_script("""
                const charts = document.querySelectorAll('.dashboard-component-chart-holder')
                return [...charts].every((chart) => chart.querySelector('.slice_container')
                                                    && !chart.querySelector('[data-test=loading-indicator]'))
            """)
        )
        # The lines are drawn from left to right.
        time.sleep(2)
        alerts = browser.execute_script(
            "return [...document.querySelectorAll('[role=alert]')].map((alert) => alert.innerText)"
        )
        if alerts:
            sys.exit(f"The dashboard complains: {alerts}")
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
        bottom = browser.execute_script("""
            const charts = document.querySelectorAll('.dashboard-component-chart-holder')
            return Math.max(...[...charts].map((chart) => chart.getBoundingClientRect().bottom))
        """)
    finally:
        browser.quit()
    picture.crop((0, 0, picture.width, min(picture.height, round(bottom) + MARGIN))).quantize(COLOURS).save(
        file, optimize=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--screenshot", type=Path, help="also draw it, with Chromium and its driver, to this PNG"
    )
    options = parser.parse_args()
    password = secrets.token_urlsafe(12)
    with (
        tempfile.TemporaryDirectory(prefix="syncer-superset-") as folder,
        running(Path(folder), password) as url,
    ):
        print("== The dashboard, imported twice", flush=True)
        import_twice(url, password)
        superset = Superset(url, USER, password)
        wrong = wrong_charts(superset)
        if not masked(superset):
            wrong.append("the database's password is not masked")
        if options.screenshot:
            print(f"== A picture, {options.screenshot}", flush=True)
            screenshot(url, password, options.screenshot)
    for each in wrong:
        print(each, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
