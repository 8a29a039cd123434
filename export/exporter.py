"""The export: convert, prove parity, publish. A model that fails the parity gate is not published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.acceptance import Answers, Demands, judge
from export.calibration import calibrate
from export.convert import convert
from export.errors import UnusableModel, reason_of
from export.int8 import Int8Model, add_int8, make_int8, verify_int8
from export.no_digit_gate import NoDigitReport, check_no_digit
from export.parity import ParityLimits, ParityReport, check_parity
from export.publishing import name_from, publish, published_before
from export.trained_manifest import manifest_of
from export.trained_model import TrainedModel, load_trained
from export.validation import validation_answers, validation_part
from serving.config import EngineConfig
from serving.inference.engine import Engine
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import CANARY_SHARE, LabelChange
from serving.repository.manifest import Calibration, Manifest
from serving.repository.precision import FLOAT32, INT8
from serving.repository.repository import Repository
from training import datasets


@dataclass(frozen=True, kw_only=True)
class Export:
    """The outcome of an export.

    Attributes:
        report: The report of the parity gate; None if this very network was published before, without a new proof.
        model_name: Name of the model in the repository.
        version: The version that was published or verified; None if the gate failed or the network was refused.
        calibration: The calibration of its probabilities.
        no_digit: The report of the gate of the output `no_digit`; None for a network that did not learn it.
        replaces: The version that it replaces or would replace and how both compare, in words; None if there is none.
        refusal: Why a network that passed the gate was not published; None if it was.
        label_change: The change of the model's labels, if one was asked for and the gate passed.
        int8: The model in int8 and the report of its gate; None if it was not asked for.
    """

    report: ParityReport | None
    model_name: str
    version: int | None
    calibration: Calibration
    no_digit: NoDigitReport | None = None
    replaces: str | None = None
    refusal: str | None = None
    label_change: LabelChange | None = None
    int8: Int8Model | None = None


class Exporter:
    """Exports one trained model.

    Args:
        model: The `.keras` file, with `metrics.json` beside it.
        data_dir: Directory with MNIST's files, if it was trained on MNIST.
        source: The new place of the data, `folder:PATH`, if their folder was moved since the training.
        provider: The execution provider to compare with Keras: `cpu` or `cuda`.
        limits: Largest differences that pass.
        precision: `float32`, or `int8` for both of them in one version. int8 runs on the CPU only.
    """

    def __init__(
        self,
        model: Path,
        *,
        data_dir: Path | None,
        source: str | None = None,
        provider: str = "cpu",
        limits: ParityLimits | None = None,
        precision: str = FLOAT32,
    ) -> None:
        self._model = model
        self._data_dir = data_dir
        self._source = source
        self._provider = provider
        self._limits = limits or ParityLimits()
        self._with_int8 = precision == INT8

    def publish(
        self,
        repository: Repository,
        *,
        model_name: str | None = None,
        label: str | None = None,
        share: float = CANARY_SHARE,
        demands: Demands | None = None,
    ) -> Export:
        """Converts the model, proves parity, judges its answers and publishes the next version.

        Args:
            repository: The model repository.
            model_name: Name of the model there; by default `default_name`.
            label: `stable` or `canary` for the new version; None leaves the labels as they are.
            share: Share of the canary in the calls that name no version.
            demands: What its answers must be; by default clearly better than chance, and not worse than the version
                that it would replace.

        Raises:
            UnusableModel: The model can't be exported.
            DatasetError: The data that it was trained on can't be loaded.
            DigitsError: The engine refuses the file, or the repository can't be written.
        """
        trained = load_trained(self._model)
        data = self._data_of(trained)
        name = model_name or default_name(trained)
        repository.versions(name)  # fails early on an impossible name
        if label is not None:
            RepositoryEditor(repository).check_publish(name, label, share)
        digest = trained.record["model_sha256"]
        if label is None and (
            found := published_before(
                repository, name, lambda before: before.training.get("model_sha256") == digest, provider=self._provider
            )
        ):
            int8 = add_int8(trained, data, repository, *found) if self._with_int8 else None
            return _published_before(found[1], found[0], int8, consequence="the version stays as it is, in float32")
        calibration = calibrate(trained, data)
        held_out, _ = validation_part(trained, data)
        knows_no_digit = bool(trained.record.get("knows_no_digit")) and len(held_out) > 0
        content, engine = self._converted(trained, name, calibration, with_no_digit=knows_no_digit)
        no_digit = check_no_digit(engine, data, validation_images=held_out) if knows_no_digit else None
        if no_digit and no_digit.problems:
            content, engine = self._converted(trained, name, calibration, with_no_digit=False)
        report = self._check(trained, engine, data, calibration)
        if not report.figures.passed:
            return Export(report=report, model_name=name, version=None, calibration=calibration)
        proven = None if no_digit is None or no_digit.problems else no_digit.figures
        validation = validation_answers(engine, held_out, threshold=proven.threshold if proven else None)
        manifest = manifest_of(trained, name, content, report, calibration, validation, proven)
        int8 = make_int8(trained, data, manifest, content) if self._with_int8 else None
        if int8 and int8.report.problems:
            return Export(
                report=report,
                model_name=name,
                version=None,
                calibration=calibration,
                no_digit=no_digit,
                refusal=int8.refusal("nothing published; without --precision int8 it is published in float32"),
                int8=int8,
            )
        manifest = int8.described_in(manifest) if int8 else manifest
        test = Answers(images=data.test_images, labels=data.test_labels, answers=report.answers)
        verdict = judge(manifest, test, repository, label=label, demands=demands or Demands(), provider=self._provider)
        version = change = None
        if verdict.refusal is None:
            precisions = {INT8: int8.content} if int8 else {}
            version, change = publish(repository, content, manifest, label=label, share=share, precisions=precisions)
        return Export(
            report=report,
            model_name=name,
            version=version,
            calibration=calibration,
            no_digit=no_digit,
            replaces=verdict.replaces,
            refusal=verdict.refusal,
            label_change=change,
            int8=int8,
        )

    def verify(self, repository: Repository, *, version: int, model_name: str | None = None) -> Export:
        """Proves a published version on this machine and adds the figures to its manifest.

        With the precision `float32` that is parity on the provider, with `int8` that it answers as float32 does.

        Raises:
            UnusableModel: The version was made from another model, or has no int8.
            DigitsError: As for `publish`.
        """
        trained = load_trained(self._model)
        data = self._data_of(trained)
        name, version = repository.choose(model_name or default_name(trained), version)
        stored = repository.load(name, version)
        if stored.manifest.training.get("model_sha256") != trained.record["model_sha256"]:
            raise UnusableModel(f"{self._model}: version {version} of {name} was made from another model")
        calibration = stored.manifest.calibration
        if self._with_int8:
            int8 = verify_int8(data, repository, stored)
            consequence = "servers on such a processor run float32"
            return _published_before(stored.manifest, version, int8, consequence=consequence)
        report = self._check(trained, self._start_engine(trained, stored.content), data, calibration)
        passed = report.figures.passed
        if passed:
            repository.replace_manifest(version, stored.manifest.with_parity(report.provider, report.figures))
        return Export(report=report, model_name=name, version=version if passed else None, calibration=calibration)

    def _data_of(self, trained: TrainedModel) -> datasets.Dataset:
        recorded = trained.record["data"]
        data = datasets.load(self._source or recorded["source"], data_dir=self._data_dir, **recorded["options"])
        if data.sha256 != recorded["sha256"]:
            raise UnusableModel(f"{self._model}: was trained on other {recorded['source']} data than these")
        if data.image_shape != trained.image_shape or data.label_names != trained.labels:
            raise UnusableModel(
                f"{self._model}: takes {trained.image_shape} and has {len(trained.labels)} labels, but its data are "
                f"{data.image_shape} with {len(data.label_names)}, or with other names"
            )
        return data

    def _converted(
        self, trained: TrainedModel, name: str, calibration: Calibration, *, with_no_digit: bool
    ) -> tuple[bytes, Engine]:
        try:
            content = convert(
                trained, model_name=name, temperature=calibration.temperature, with_no_digit=with_no_digit
            )
        except UnusableModel as error:
            raise UnusableModel(f"{self._model}: {error}") from error
        except Exception as error:
            raise UnusableModel(f"{self._model}: can't be converted to ONNX: {reason_of(error)}") from error
        return content, self._start_engine(trained, content)

    def _start_engine(self, trained: TrainedModel, content: bytes) -> Engine:
        config = EngineConfig(provider=self._provider)
        engine = Engine(content, image_shape=trained.image_shape, classes=len(trained.labels), config=config)
        engine.start()
        return engine

    def _check(
        self, trained: TrainedModel, engine: Engine, data: datasets.Dataset, calibration: Calibration
    ) -> ParityReport:
        temperature = calibration.temperature
        return check_parity(
            trained, engine, data.test_images, data.test_labels, temperature=temperature, limits=self._limits
        )


def _published_before(manifest: Manifest, version: int, int8: Int8Model | None, *, consequence: str = "") -> Export:
    """The outcome for a version that was published before, and perhaps what was added to it or proven of it."""
    return Export(
        report=None,
        model_name=manifest.model_name,
        version=version,
        calibration=manifest.calibration,
        refusal=int8.refusal(consequence) if int8 else None,
        int8=int8,
    )


def default_name(trained: TrainedModel) -> str:
    """The name under which a network is published if none is given.

    That of its architecture where it was trained on digits, as the two belong together; that of its data's folder where
    it was trained on one, since a network for shapes is not called after the architecture that it shares with others.
    """
    architecture: str = trained.record["architecture"]
    kind, _, path = trained.record["data"]["source"].partition(":")
    return (kind == "folder" and name_from(Path(path).absolute().name)) or architecture
