"""What the Open Inference Protocol says about the server and its models: metadata, configuration, statistics."""

from __future__ import annotations

from collections.abc import Sequence

import serving
from protos.inference import inference_pb2, model_config_pb2
from serving.inference.statistics import Counts, DurationStatistic
from serving.rollout.deployment import Deployment
from serving.rollout.deployments import Deployments
from serving.server.services.oip_inference import INPUT, OUTPUTS

_NAME = "digits-serving"
# Those of Triton's that are wholly there.
_EXTENSIONS = ("classification", "model_configuration", "statistics")
# As Triton calls a model in ONNX on ONNX Runtime.
_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"

_Tensor = inference_pb2.ModelMetadataResponse.TensorMetadata
_Group = model_config_pb2.ModelInstanceGroup


def server() -> inference_pb2.ServerMetadataResponse:
    """Name, release and extensions of this server."""
    return inference_pb2.ServerMetadataResponse(name=_NAME, version=serving.__version__, extensions=_EXTENSIONS)


def model(deployment: Deployment, versions: Sequence[int]) -> inference_pb2.ModelMetadataResponse:
    """A model's tensors, and the versions of it that are served."""
    return inference_pb2.ModelMetadataResponse(
        name=deployment.name,
        versions=[str(version) for version in versions],
        platform=_PLATFORM,
        inputs=[_Tensor(name=INPUT, datatype="UINT8", shape=(-1, *deployment.manifest.input.shape))],
        outputs=[_Tensor(name=name, datatype="FP32", shape=(-1, len(deployment.manifest.labels))) for name in OUTPUTS],
    )


def index(deployments: Deployments, *, ready: bool) -> inference_pb2.RepositoryIndexResponse:
    """What is served, and, unless only that is asked for, what is in the repository and can't be."""
    entry = inference_pb2.RepositoryIndexResponse.ModelIndex
    served = {
        (deployment.name, deployment.version): entry(
            name=deployment.name, version=str(deployment.version), state="READY"
        )
        for deployment in deployments
    }
    if not ready:
        for stored in deployments.loading:
            which = stored.name, stored.version
            served.setdefault(which, entry(name=stored.name, version=str(stored.version), state="LOADING"))
    for refusal in deployments.rollout.refusals if deployments.ready else ():
        known = served.get((refusal.name, refusal.version))
        if known is not None:
            known.reason = refusal.reason
        elif not ready:
            version = str(refusal.version) if refusal.version else ""
            served[refusal.name, refusal.version] = entry(
                name=refusal.name, version=version, state="UNAVAILABLE", reason=refusal.reason
            )
    return inference_pb2.RepositoryIndexResponse(models=[served[key] for key in sorted(served)])


def config(deployment: Deployment) -> model_config_pb2.ModelConfig:
    """How a model is run."""
    manifest = deployment.manifest
    on_gpu = deployment.provider.startswith("CUDA")
    return model_config_pb2.ModelConfig(
        name=deployment.name,
        platform=_PLATFORM,
        backend=_BACKEND,
        default_model_filename="model.onnx",
        version_policy=model_config_pb2.ModelVersionPolicy(
            specific=model_config_pb2.ModelVersionPolicy.Specific(versions=[deployment.version])
        ),
        max_batch_size=deployment.max_request_images,
        input=[
            model_config_pb2.ModelInput(
                name=INPUT,
                data_type=model_config_pb2.TYPE_UINT8,
                format=model_config_pb2.ModelInput.FORMAT_NHWC,
                dims=manifest.input.shape,
            )
        ],
        output=[
            model_config_pb2.ModelOutput(name=name, data_type=model_config_pb2.TYPE_FP32, dims=[len(manifest.labels)])
            for name in OUTPUTS
        ],
        instance_group=[
            _Group(name=deployment.name, count=1, kind=_Group.KIND_GPU if on_gpu else _Group.KIND_CPU),
        ],
        dynamic_batching=model_config_pb2.ModelDynamicBatching(
            max_queue_delay_microseconds=round(deployment.max_wait_ms * 1000)
        ),
        parameters={
            "sha256": model_config_pb2.ModelParameter(string_value=manifest.sha256),
            "execution_provider": model_config_pb2.ModelParameter(string_value=deployment.provider),
        },
    )


def statistics(name: str, version: int, found: Counts) -> inference_pb2.ModelStatistics:
    """What a version has done."""
    return inference_pb2.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=int(found.last_inference_s * 1000),
        inference_count=found.images,
        execution_count=sum(batches.count for batches in found.batches.values()),
        inference_stats=inference_pb2.InferStatistics(
            success=_duration(found.succeeded),
            fail=_duration(found.failed),
            queue=_duration(found.queued),
            compute_input=_duration(found.decoded),
            compute_infer=_duration(found.inferred),
            compute_output=_duration(found.encoded),
        ),
        batch_stats=[
            inference_pb2.InferBatchStatistics(batch_size=rows, compute_infer=_duration(batches))
            for rows, batches in sorted(found.batches.items())
        ],
    )


def _duration(tally: DurationStatistic) -> inference_pb2.StatisticDuration:
    return inference_pb2.StatisticDuration(count=tally.count, ns=int(tally.total_s * 1e9))
