"""The models of a server: found on disk, loaded whole before they are offered, replaced without a pause."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vlcompress.errors import VlcompressError
from vlcompress.serve.loaded import LoadedModel, load
from vlcompress.serve.metrics import Metrics
from vlcompress.serve.refusal import Refusal, shown
from vlcompress.serve.settings import ModelSpec, Settings
from vlcompress.serve.stored import StoredVersion, stored_versions

logger = logging.getLogger(__name__)

Loader = Callable[[str, StoredVersion, Settings, Metrics], LoadedModel]


@dataclass(frozen=True)
class Failure:
    """A version on disk that could not be loaded; it is tried again when its files change."""

    source: StoredVersion
    reason: str


class Repository:
    """Every version of every model; read by requests, changed only by `load_all` and `refresh`."""

    def __init__(self, settings: Settings, metrics: Metrics, loader: Loader = load) -> None:
        self._settings, self._metrics, self._load = settings, metrics, loader
        self._models: dict[str, dict[int, LoadedModel]] = {spec.name: {} for spec in settings.models}
        self._failures: dict[tuple[str, int], Failure] = {}
        self._retiring: set[LoadedModel] = set()
        metrics.watch_models(self._depths, lambda: [model.info() for model in self.loaded()])

    def load_all(self) -> None:
        """Load every version of every model.

        Raises:
            VlcompressError: one of them cannot be loaded: the server does not start with less than it was asked for.
        """
        for spec in self._settings.models:
            for source in stored_versions(spec, self._settings.backend).values():
                self._models[spec.name][source.version] = self._load(spec.name, source, self._settings, self._metrics)

    def loaded(self) -> list[LoadedModel]:
        """List every version that is offered."""
        return [model for versions in list(self._models.values()) for _, model in sorted(versions.items())]

    def get(self, name: str, version: str | None = None) -> LoadedModel:
        """Look up a version of a model; the newest one without a version.

        Raises:
            Refusal: 404: no such model or version.
        """
        versions = self._models.get(name)
        if not versions:
            raise Refusal(404, f"Request for unknown model: '{shown(name)}' is not found", "not_found")
        if not version:
            return versions[max(versions)]
        found = versions.get(int(version)) if version.isdecimal() and len(version) < 19 else None
        if found is None:
            text = f"Request for unknown model: '{name}' version {shown(version)} is not found"
            raise Refusal(404, text, "not_found")
        return found

    def index(self) -> list[dict[str, str]]:
        """List versions with their state, failed ones too."""
        rows = [_state(model.name, model.version, "READY") for model in self.loaded()]
        failed = ((name, version, failure) for (name, version), failure in sorted(self._failures.items()))
        return rows + [_state(name, version, "UNAVAILABLE", failure.reason) for name, version, failure in failed]

    def versions(self, name: str) -> list[int]:
        """List the versions of a model that are offered."""
        return sorted(self._models[name])

    async def refresh(self) -> None:
        """Look for versions that are new, changed or gone; load aside, then swap. Nothing raises: failures are kept."""
        for spec in self._settings.models:
            try:
                await self._refresh(spec)
            except (VlcompressError, OSError) as error:
                logger.warning("model %s cannot be looked up: %s", spec.name, error)

    async def retire(self) -> None:
        """Wait until versions that were replaced have answered what they had accepted."""
        while any(model.batcher.busy for model in self._retiring):
            await asyncio.sleep(0.01)
        offered = {(model.name, model.version) for model in self.loaded()}
        for model in self._retiring:
            model.batcher.close()
            if (model.name, model.version) not in offered:  # else its successor goes on with its counts
                model.metrics.forget()
        self._retiring.clear()

    async def _refresh(self, spec: ModelSpec) -> None:
        found = await asyncio.to_thread(stored_versions, spec, self._settings.backend)
        versions = self._models[spec.name]
        for source in found.values():
            source = _renumbered(source, versions)
            current, failure = versions.get(source.version), self._failures.get((spec.name, source.version))
            known = (current and current.source.fingerprint, failure and failure.source.fingerprint)
            if source.fingerprint in known:
                continue
            if not source.documented and any(model.source.documented for model in versions.values()):
                text = "it has no manifest.json yet, as the version before it has: it may still be arriving"
                self._failures[spec.name, source.version] = Failure(source, text)
                logger.info("model %s version %d is not loaded: %s", spec.name, source.version, text)
            else:
                await self._replace(spec.name, source)
        if any(source.numbered for source in found.values()):
            self._drop(spec.name, set(versions) - set(found))
        await self.retire()

    async def _replace(self, name: str, source: StoredVersion) -> None:
        try:
            model = await asyncio.to_thread(self._load, name, source, self._settings, self._metrics)
        except Exception as error:  # whatever a half-written or foreign file makes a runtime raise
            self._failures[name, source.version] = Failure(source, shown(error, 300))
            logger.error("model %s version %d is not loaded: %s", name, source.version, error)
            return
        versions = self._models[name]
        gone = [source.version] if source.numbered else list(versions)  # an artefact holds one version at a time
        self._models[name] = {number: old for number, old in versions.items() if number not in gone} | {
            source.version: model
        }
        self._failures.pop((name, source.version), None)
        self._retiring |= {versions[number] for number in gone if number in versions}
        logger.info("model %s version %d is loaded", name, source.version)

    def _drop(self, name: str, gone: set[int]) -> None:
        """Stop offering versions whose folders are gone, but never the last one."""
        versions = self._models[name]
        left = {number: model for number, model in versions.items() if number not in gone}
        if gone and left:
            self._models[name] = left
            self._retiring |= {versions[number] for number in gone}
            logger.info("model %s: versions %s are gone from disk and no longer offered", name, sorted(gone))

    def _depths(self) -> dict[tuple[str, str], int]:
        return {(model.name, str(model.version)): model.batcher.waiting_rows for model in self.loaded()}


def _renumbered(source: StoredVersion, versions: dict[int, LoadedModel]) -> StoredVersion:
    """Number an artefact that was written anew: the loaded version plus one."""
    if source.numbered or not versions:
        return source
    newest = versions[max(versions)]
    changed = newest.source.fingerprint != source.fingerprint
    return replace(source, version=newest.version + 1 if changed else newest.version)


def _state(name: str, version: int, state: str, reason: str = "") -> dict[str, Any]:
    return {"name": name, "version": str(version), "state": state, "reason": reason}
