"""The wheel, installed without a checkout: the migrations and the service model are in it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from syncer.partner_central.population import Population
from tests.conftest import Program, ids_file, served

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel's packages are, without a checkout in sight."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(CHECKOUT)], check=True
    )
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


async def test_the_main_job_runs_from_the_wheel(
    installed: Path, tmp_path: Path, empty_database_url: str
) -> None:
    program = Program(tmp_path, DATABASE_URL=empty_database_url, PYTHONPATH=str(installed))
    where = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import syncer; print(syncer.__file__)",
        env=program.environment, cwd=tmp_path, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert str(installed) in (await where.communicate())[0].decode()
    assert (await program("migrate", "--check")).exit == 78
    assert (await program("migrate")).exit == 0
    assert (await program("migrate", "--check")).exit == 0
    population = Population(20, seed=80)
    async with served(program, population):
        done = await program("sync", ids_file(tmp_path, population), "--json")
    assert (done.exit, done.result["written"]) == (0, 20), done.stderr


async def test_the_service_is_in_us_east_1_whatever_the_environment_says(program: Program) -> None:
    authorization: list[str] = []
    population = Population(1, seed=81)

    async def handle(request: web.BaseRequest) -> web.Response:
        authorization.append(request.headers["Authorization"])
        return web.json_response(population.connection(0))

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    program.environment |= {
        "AWS_ENDPOINT_URL_PARTNERCENTRAL_ACCOUNT": site.name,
        "AWS_REGION": "eu-west-1",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "SYNCER_ACCOUNT_ID": "111122223333",
    }
    done = await program("sync", ids_file(program.folder, population), "--json")
    await runner.cleanup()
    assert (done.exit, done.result["written"]) == (0, 1), done.stderr
    assert "/us-east-1/partnercentral-account/aws4_request" in authorization[0]


HELP = """
import sys
from syncer.cli import main
try:
    main(["--help"])
except SystemExit:
    print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def test_help_waits_for_neither_the_sdk_nor_the_database_library() -> None:
    loaded = subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True, text=True).stderr
    assert "'typer'" in loaded
    for heavy in ("aioboto3", "botocore", "psycopg", "sqlalchemy", "sqlmodel", "alembic"):
        assert f"'{heavy}'" not in loaded
