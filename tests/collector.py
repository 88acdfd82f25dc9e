"""A receiver of OpenTelemetry's protocol on loopback: what collectors do with what arrives, and no more."""

import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from google.protobuf.text_format import MessageToString
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
    """What has been received. status: what it answers."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.traces: list[Any] = []
        self.metrics: list[Any] = []
        self.headers: list[dict[str, str]] = []

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[str]:
        """Receive while the context lasts; the endpoint."""
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/v1/traces", self._traces)
        application.router.add_post("/v1/metrics", self._metrics)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield site.name
        finally:
            await runner.cleanup()

    async def _traces(self, http: web.Request) -> web.Response:
        return await self._take(http, ExportTraceServiceRequest(), self.traces, ExportTraceServiceResponse())

    async def _metrics(self, http: web.Request) -> web.Response:
        return await self._take(
            http, ExportMetricsServiceRequest(), self.metrics, ExportMetricsServiceResponse()
        )

    async def _take(self, http: web.Request, request: Any, taken: list[Any], answer: Any) -> web.Response:
        assert http.content_type == "application/x-protobuf"
        data = await http.read()
        request.ParseFromString(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        self.headers.append({name.lower(): value for name, value in http.headers.items()})
        taken.append(request)
        return web.Response(
            body=answer.SerializeToString(), content_type="application/x-protobuf", status=self.status
        )

    @property
    def text(self) -> str:
        """Everything that was received, as text in which all strings stand as they are."""
        return "\n".join(MessageToString(each, as_utf8=True) for each in [*self.traces, *self.metrics])

    def resources(self) -> Iterator[dict[str, Any]]:
        for request in self.traces:
            for each in request.resource_spans:
                yield attributes(each.resource)
        for request in self.metrics:
            for each in request.resource_metrics:
                yield attributes(each.resource)

    def spans(self, name: str) -> list[Any]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.name == name
        ]

    def latest(self) -> dict[str, Any]:
        """The metrics by name, as they were told last."""
        return {
            metric.name: metric
            for request in self.metrics
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The points of one metric, each with its attributes."""
        metric = self.latest()[name]
        kind = metric.WhichOneof("data")
        return [(attributes(point), point) for point in getattr(metric, kind).data_points]


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}
