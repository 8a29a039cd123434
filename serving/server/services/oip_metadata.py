"""Metadata of the Open Inference Protocol: the server, its models, their configuration and statistics."""

from __future__ import annotations

from collections.abc import Sequence

import serving
from protos.inference import inference_pb2, model_config_pb2
from serving.inference.statistics import Counts, DurationStatistic
from serving.rollout.deployment import Deployment
from serving.rollout.deployments import Deployments
from serving.server.services.oip_codec import INPUT, output_columns

_NAME = "digits-serving"
# Triton's names of the extensions that are fully supported, and of the one that a server may offer.
_EXTENSIONS = ("classification", "model_configuration", "statistics")
_MODEL_CONTROL = "model_repository"
# Triton's names for an ONNX model on ONNX Runtime.
_PLATFORM, _BACKEND = "onnxruntime_onnx", "onnxruntime"

_Tensor = inference_pb2.ModelMetadataResponse.TensorMetadata
_Group = model_config_pb2.ModelInstanceGroup


def server(*, model_control: bool) -> inference_pb2.ServerMetadataResponse:
    """Returns the name, version and extensions of this server.

    Args:
        model_control: Whether clients may load and unload models.
    """
    extensions = (*_EXTENSIONS, _MODEL_CONTROL) if model_control else _EXTENSIONS
    return inference_pb2.ServerMetadataResponse(name=_NAME, version=serving.__version__, extensions=extensions)


def model(deployment: Deployment, versions: Sequence[int]) -> inference_pb2.ModelMetadataResponse:
    """Describes a model's tensors, and the versions of it that are served."""
    return inference_pb2.ModelMetadataResponse(
        name=deployment.name,
        versions=[str(version) for version in versions],
        platform=_PLATFORM,
        inputs=[_Tensor(name=INPUT, datatype="UINT8", shape=(-1, *deployment.manifest.input.shape))],
        outputs=[
            _Tensor(name=name, datatype="FP32", shape=(-1, columns))
            for name, columns in output_columns(deployment).items()
        ],
    )


def index(deployments: Deployments, *, only_ready: bool) -> inference_pb2.RepositoryIndexResponse:
    """Lists what is served and, unless `only_ready`, what is being loaded and what was refused."""
    entry = inference_pb2.RepositoryIndexResponse.ModelIndex
    served = {
        (deployment.name, deployment.version): entry(
            name=deployment.name, version=str(deployment.version), state="READY"
        )
        for deployment in deployments
    }
    if not only_ready:
        for stored in deployments.loading:
            which = stored.name, stored.version
            served.setdefault(which, entry(name=stored.name, version=str(stored.version), state="LOADING"))
    for refusal in deployments.rollout.refusals if deployments.ready else ():
        known = served.get((refusal.name, refusal.version))
        if known is not None:
            known.reason = refusal.reason
        elif not only_ready:
            version = str(refusal.version) if refusal.version else ""
            served[refusal.name, refusal.version] = entry(
                name=refusal.name, version=version, state="UNAVAILABLE", reason=refusal.reason
            )
    return inference_pb2.RepositoryIndexResponse(models=[served[key] for key in sorted(served)])


def config(deployment: Deployment) -> model_config_pb2.ModelConfig:
    """Describes how a model is run."""
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
            model_config_pb2.ModelOutput(name=name, data_type=model_config_pb2.TYPE_FP32, dims=[columns])
            for name, columns in output_columns(deployment).items()
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
            "precision": model_config_pb2.ModelParameter(string_value=deployment.precision),
        },
    )


def statistics(name: str, version: int, counts: Counts) -> inference_pb2.ModelStatistics:
    """Returns the statistics of one version."""
    return inference_pb2.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=int(counts.last_inference_s * 1000),
        inference_count=counts.images,
        execution_count=sum(batches.count for batches in counts.batches.values()),
        inference_stats=inference_pb2.InferStatistics(
            success=_duration(counts.succeeded),
            fail=_duration(counts.failed),
            queue=_duration(counts.queued),
            compute_input=_duration(counts.decoded),
            compute_infer=_duration(counts.inferred),
            compute_output=_duration(counts.encoded),
        ),
        batch_stats=[
            inference_pb2.InferBatchStatistics(batch_size=rows, compute_infer=_duration(batches))
            for rows, batches in sorted(counts.batches.items())
        ],
    )


def _duration(tally: DurationStatistic) -> inference_pb2.StatisticDuration:
    return inference_pb2.StatisticDuration(count=tally.count, ns=int(tally.total_s * 1e9))
