"""The manifests: built by kustomize where kubectl is installed, and checked strictly against Kubernetes' schemas.

No cluster runs here. Kinds that are not Kubernetes' own have no schemas in the package; of them only names are checked.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

import serving.__main__
from serving.config import ServerConfig
from serving.images.names import is_image_name

SAMPLES = Path(serving.__file__).parent / "samples"
FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
# What each folder adds to the base, or takes away; kserve, score and score-merge stand for themselves.
CORE = {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"}
CORE |= {"PersistentVolumeClaim"}
KINDS = {
    "base": CORE,
    "gpu": CORE,
    "keda": CORE - {"HorizontalPodAutoscaler"} | {"ScaledObject"},
    "gateway": CORE | {"GRPCRoute"},
    "monitoring": CORE | {"ServiceMonitor"},
    "kserve": {"ServingRuntime", "InferenceService"},
    "score": {"Job", "PersistentVolumeClaim"},
    "score-merge": {"Job"},
}
OTHERS = {"ScaledObject", "GRPCRoute", "ServiceMonitor", "ServingRuntime", "InferenceService"}


@functools.cache
def _built(name: str) -> dict[str, dict]:
    """What kustomize makes of a folder, by kind."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl, whose kustomize builds the manifests")
    done = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True, check=False)
    if "unknown field" in done.stderr or "unknown command" in done.stderr:
        pytest.skip("this kubectl's kustomize is too old")
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))
    assert len({each["kind"] for each in found}) == len(found)
    return {each["kind"]: each for each in found}


def test_every_folder_is_known() -> None:
    assert {path.name for path in FOLDER.iterdir()} == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_a_kustomization_names_all_files_beside_it(name: str) -> None:
    kustomization = yaml.safe_load((FOLDER / name / "kustomization.yaml").read_text())
    named = [
        *kustomization["resources"],
        *kustomization.get("configurations", []),
        *(patch["path"] for patch in kustomization.get("patches", []) if "path" in patch),
    ]
    files = {path.name for path in (FOLDER / name).iterdir()} - {"kustomization.yaml"}
    assert {path for path in named if path != "../base"} == files


@pytest.mark.parametrize("path", sorted(FOLDER.glob("base/*.yaml")), ids=lambda path: path.name)
def test_the_base_is_valid_before_kustomize_touches_it(path: Path) -> None:
    if path.name != "kustomization.yaml":
        kubernetes_validate.validate(
            yaml.safe_load(path.read_text()), kubernetes_validate.latest_version(), strict=True
        )


@pytest.mark.parametrize("name", KINDS)
def test_kustomize_builds_what_kubernetes_accepts(name: str) -> None:
    built = _built(name)
    assert built.keys() == KINDS[name]
    for kind, resource in built.items():
        if kind not in OTHERS:
            kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", [name for name in KINDS if "Deployment" in KINDS[name]])
def test_everything_selects_the_pods_of_the_deployment_and_only_those(name: str) -> None:
    built = _built(name)
    deployment = built["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels
    assert deployment["selector"]["matchLabels"] == labels
    assert built["Service"]["spec"]["selector"] == labels
    assert built["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert built["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["image"] == ("digits-serving:gpu" if name == "gpu" else "digits-serving:cpu")
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in built["Service"]["spec"]["ports"]} <= ports
    if scaled := built.get("ScaledObject"):
        assert scaled["spec"]["scaleTargetRef"]["name"] == built["Deployment"]["metadata"]["name"]
    if route := built.get("GRPCRoute"):
        assert route["spec"]["rules"][0]["backendRefs"] == [
            {"name": built["Service"]["metadata"]["name"], "port": 50051}
        ]
    if monitor := built.get("ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"].items() <= built["Service"]["metadata"]["labels"].items()


def test_the_job_scores_every_image_once_and_the_other_one_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their arguments are run as they are, in a folder like the volume."""
    shutil.copytree(SAMPLES, tmp_path / "scans")
    monkeypatch.chdir(tmp_path)
    jobs = {name: yaml.safe_load((FOLDER / name / "job.yaml").read_text())["spec"] for name in ("score", "score-merge")}
    (scoring,) = jobs["score"]["template"]["spec"]["containers"]
    (merging,) = jobs["score-merge"]["template"]["spec"]["containers"]
    for pod in (job["template"]["spec"] for job in jobs.values()):
        (container,) = pod["containers"]
        assert container["workingDir"] == container["volumeMounts"][0]["mountPath"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        claim = yaml.safe_load((FOLDER / "score" / "images.yaml").read_text())["metadata"]["name"]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
    assert jobs["score"]["completionMode"] == "Indexed"
    for rule in jobs["score"]["podFailurePolicy"]["rules"]:
        assert rule.get("onExitCodes", {}).get("containerName", scoring["name"]) == scoring["name"]
    command = serving.__main__._load(scoring["args"][0])
    for index in range(jobs["score"]["completions"]):
        words = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in scoring["args"][1:]]
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(command, merging["args"][1:])
    assert done.exit_code == 0, done.output
    images = len([path for path in SAMPLES.rglob("*") if is_image_name(path)])
    assert f"{images} images, " in done.output
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("scans/")


@pytest.mark.parametrize(
    ("path", "lifetime"),
    [
        ("base/deployment.yaml", lambda spec: spec["template"]["spec"]),
        ("kserve/serving-runtime.yaml", lambda spec: spec),
    ],
)
def test_pods_live_longer_than_a_stop_takes_and_every_variable_is_an_option(path: str, lifetime) -> None:
    pod = lifetime(yaml.safe_load((FOLDER / path).read_text())["spec"])
    service = yaml.safe_load((FOLDER / "kserve" / "inference-service.yaml").read_text())["spec"]["predictor"]
    (container,) = pod["containers"]
    settings = {each["name"]: each["value"] for each in container["env"]}
    options = {param.name for param in serving.__main__._load("serve").params}
    assert {name.removeprefix("DIGITS_").lower() for name in settings} <= options
    stop_s = float(settings["DIGITS_DRAIN_PAUSE_S"]) + float(settings["DIGITS_GRACE_S"])
    assert (pod.get("terminationGracePeriodSeconds") or service["terminationGracePeriodSeconds"]) >= stop_s + 5
    assert container["ports"][0]["containerPort"] == ServerConfig().port
    assert container["securityContext"]["readOnlyRootFilesystem"]
