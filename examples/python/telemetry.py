"""Traces a call with OpenTelemetry: the server's spans are children of the client's, in one trace.

Needs the extra `otel` and an OpenTelemetry collector. Server and client export to it:

digits-serve --traces-endpoint http://127.0.0.1:4318
OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 python examples/python/telemetry.py [ADDRESS]
"""

import sys
from pathlib import Path

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from serving.client import CallFailed, Client

provider = TracerProvider(resource=Resource.create({"service.name": "digits-reader"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # in the background, and at exit
trace.set_tracer_provider(provider)
GrpcInstrumentorClient().instrument()  # every channel made from here on; each call carries a `traceparent`

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
paths = sorted(Path("serving/samples").glob("*.png"))

try:
    with trace.get_tracer("digits-reader").start_as_current_span("read digits") as span, Client(address) as client:
        answer = client.classify_files(paths, timeout_s=10)
except CallFailed as error:
    sys.exit(f"{address}: {error}")

for path, name, confidence in zip(paths, answer.names, answer.confidences, strict=True):
    print(f"{path}  {name}  {confidence:.2%}")
print(f"trace {span.get_span_context().trace_id:032x}")
