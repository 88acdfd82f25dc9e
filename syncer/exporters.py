"""Where telemetry goes: OpenTelemetry's own SDK, set up by its own standard variables and by nothing else.

Without one of these variables nothing of the SDK is imported. Whatever is wrong with telemetry is told in one
line, and stops no run: the copy is worth more than its curves.
"""

import atexit
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import structlog

from syncer import __version__
from syncer.events import Event

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

# What is not exported so long (seconds) after the end is lost: a drain has 25 s, and its own parts need 22.
FLUSH = 3.0
INSTALL = "pip install 'partnercentral-syncer[otel]'"
# The specification's own default; the SDK's would be gRPC, whose library is larger than all the rest.
PROTOCOL = "http/protobuf"
PORTS = {"http": 80, "https": 443}
# Seconds for a receiver to be found.
FINDING = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Signals:
    """What is wanted."""

    traces: bool
    metrics: bool


NOTHING = Signals(traces=False, metrics=False)


def wanted(variables: Mapping[str, str]) -> Signals:
    """What the `OTEL_` variables ask for. Unlike the specification, silence means no: nobody asked for it."""
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return NOTHING
    if variables.get("OTEL_CONFIG_FILE"):
        return Signals(traces=True, metrics=True)
    return Signals(
        traces=_exporter(variables, "TRACES") != "none", metrics=_exporter(variables, "METRICS") != "none"
    )


def _exporter(variables: Mapping[str, str], signal: str) -> str:
    chosen = variables.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return chosen or ("otlp" if any(variables.get(name) for name in endpoints) else "none")


def missing(variables: Mapping[str, str]) -> str | None:
    """What is to be installed for what is configured; None if nothing is."""
    if wanted(variables) == NOTHING:
        return None
    try:
        import opentelemetry.sdk  # noqa: F401, PLC0415  (only who wants telemetry waits for it)
    except ImportError:
        named = [name for name in sorted(variables) if name.startswith("OTEL_") and variables[name]]
        return f"{', '.join(named)}: telemetry is configured, but not installed: {INSTALL}"
    return None


def start(variables: MutableMapping[str, str]) -> Callable[[], None]:
    """Set up the SDK as `variables` say; what returns is to be called at the end, to send what is left.

    Never raises: what is wrong is a log event.
    """
    if wanted(variables) == NOTHING:
        return _nothing
    lacking = missing(variables)
    if lacking:
        log.warning(Event.TELEMETRY_OFF, why=lacking)
        return _nothing
    try:
        _set_up(variables)
    except Exception as error:  # noqa: BLE001  (whatever it is, the run is worth more)
        log.warning(Event.TELEMETRY_OFF, why=_reason(error))
        return _nothing
    return _flush


def wrong(variables: MutableMapping[str, str]) -> str | None:
    """What keeps telemetry from its receiver; None where nothing does, or none is wanted.

    It is set up to find out, and ended again.
    """
    if wanted(variables) == NOTHING:
        return None
    found = missing(variables) or _unreachable(variables)
    if found:
        return found
    try:
        _set_up(variables)
    except Exception as error:  # noqa: BLE001  (as above)
        # A worker beside us has the port, and is to have it.
        return None if getattr(error, "errno", None) == errno.EADDRINUSE else _reason(error)
    _flush()
    return None


def _unreachable(variables: Mapping[str, str]) -> str | None:
    """What is wrong with where OTLP is to go: no URL, or nobody there. No more than host and port is told."""
    if variables.get("OTEL_CONFIG_FILE"):
        return None
    for signal in ("TRACES", "METRICS"):
        names = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        name = next((name for name in names if variables.get(name)), None)
        if "otlp" not in _exporter(variables, signal).split(",") or name is None:
            continue
        try:
            url = urlsplit(variables[name])
            host, port = url.hostname, url.port or PORTS.get(url.scheme)
        except ValueError:
            host, port = None, None
        if not host or not port:
            return f"{name} is no URL such as http://collector.example:4318"
        if getproxies().get(url.scheme) and not proxy_bypass(host):
            continue
        try:
            socket.create_connection((host, port), FINDING).close()
        except OSError as error:
            why = error.strerror or type(error).__name__
            return (
                f"{name}: nobody answers at {host}:{port} ({why}): is the collector there, and a way to it?"
            )
    return None


def _set_up(variables: MutableMapping[str, str]) -> None:
    _quieten()
    for signal in ("TRACES", "METRICS"):
        variables.setdefault(f"OTEL_{signal}_EXPORTER", _exporter(variables, signal))
    variables.setdefault("OTEL_EXPORTER_OTLP_PROTOCOL", PROTOCOL)
    # An exemplar would name the run's own span, and cost a quarter of a measurement.
    variables.setdefault("OTEL_METRICS_EXEMPLAR_FILTER", "always_off")
    _configure(_resource(variables))


def _configure(resource: dict[str, str]) -> None:
    # The SDK's way to be set up by variables; it is there to be subclassed by whoever ships the SDK.
    from opentelemetry.sdk._configuration import _OTelSDKConfigurator  # noqa: PLC0415

    class Configurator(_OTelSDKConfigurator):
        """The SDK's own, with nothing changed."""

    if os.environ.get("OTEL_CONFIG_FILE"):
        Configurator().configure()  # type: ignore[no-untyped-call]  # the SDK has no types here
    else:
        Configurator().configure(resource_attributes=resource)  # type: ignore[no-untyped-call]  # likewise


def _resource(variables: Mapping[str, str]) -> dict[str, str]:
    """Who is telling, where the variables do not say."""
    own = {"service.name": "syncer", "service.version": __version__}
    given = {
        each.partition("=")[0].strip() for each in variables.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    }
    if variables.get("OTEL_SERVICE_NAME"):
        given.add("service.name")
    return {name: value for name, value in own.items() if name not in given}


def _reason(error: Exception) -> str:
    match error:
        case OSError():  # the Prometheus exporter's port is taken
            return f"{error.strerror or type(error).__name__}: OTEL_EXPORTER_PROMETHEUS_HOST and _PORT"
        case RuntimeError():  # the SDK's words for an exporter or a protocol that it does not know
            return f"{error}: is it spelt so, and installed? {INSTALL}"
    return f"the OTEL_ variables cannot be used: {type(error).__name__}"


def _flush() -> None:
    """Send what is left, for as long as `FLUSH`: a collector that hangs does not hold up the end."""
    from opentelemetry import metrics, trace  # noqa: PLC0415

    providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
    threads = [threading.Thread(target=_shut, args=[provider], daemon=True) for provider in providers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FLUSH)


def _shut(provider: "TracerProvider | MeterProvider | object") -> None:
    shutdown = getattr(provider, "shutdown", None)
    if shutdown is None:
        return
    # It would be waited for without a limit.
    atexit.unregister(shutdown)
    try:
        shutdown()
    except Exception as error:  # noqa: BLE001  (the program ends anyway)
        log.warning(Event.TELEMETRY_FAILING, why=type(error).__name__)


def _nothing() -> None:
    """Nothing was started."""


class _Told(logging.Handler):
    """The SDK's complaints as events of ours: one line each, without tracebacks, headers and answers."""

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        shown = tuple(map(_harmless, arguments))
        try:
            why = str(record.msg) % shown if shown else str(record.msg)
        except (TypeError, ValueError):
            why = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        named = {"error": type(error).__name__} if error else {}
        log.warning(Event.TELEMETRY_FAILING, why=why, **named)


def _harmless(argument: object) -> object:
    """A collector's answer or a header can hold anything, a key for one: what surely is none, or dots."""
    if isinstance(argument, int | float) or argument in ("metrics", "span", "spans", "traces"):
        return argument
    return type(argument).__name__ if isinstance(argument, BaseException) else "…"


def _quieten() -> None:
    library = logging.getLogger("opentelemetry")
    library.propagate = False
    library.setLevel(logging.WARNING)
    library.addHandler(_Told())
