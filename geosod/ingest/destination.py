"""Where leased scenes go: to the dataset, while their lease holds, and into the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from geosod.errors import ChangedError, LeaseLostError, LostError, OutputError
from geosod.ingest import index
from geosod.ingest.lease import Lease
from geosod.ingest.ledger import Ledger
from geosod.output.commit import commit_outputs, committed
from geosod.output.folder import asset_paths, read_items
from geosod.output.replace import Leftovers, leftovers
from geosod.output.scene_outputs import SceneOutputs
from geosod.results import SceneResult
from geosod.running.job import Job
from geosod.running.unit_store import SceneUnits, UnitStore
from geosod.scene import SceneRef

#: Ground that failed because the file is not what it was, or cannot be had: the next attempt may find all of it.
_NOT_KEPT = frozenset({ChangedError.__name__, LostError.__name__})


@dataclass(frozen=True, slots=True)
class LeasedSink:
    """Commits scenes whose lease still holds, see `geosod.running.destination.Sink`. It can be pickled.

    Attributes:
        store: the records of units in the dataset.
        ledger: address of the ledger.
        leases: of the scenes, by their identifier.
        attempts: after how many failures ground that cannot be processed is accepted as failed.
        collection: identifier of the STAC collection.
        notify: whether someone is to be notified of each scene.
    """

    store: UnitStore
    ledger: str
    leases: Mapping[str, Lease]
    attempts: int
    collection: str
    notify: bool

    @property
    def shared(self) -> bool:
        """Whether every machine reaches dataset and ledger."""
        return self.store.folder.place.shared and "://" in self.ledger

    def finish(self, outputs: SceneOutputs, units: SceneUnits | None) -> SceneResult:
        """See `geosod.running.destination.Sink`.

        Raises:
            LeaseLostError: another ingester has the scene by now.
            OutputError: the dataset cannot be written.
            LedgerError: the ledger cannot be used.
        """
        scene, lease = outputs.scene, self.leases[outputs.scene.id]
        if outputs.failures and not self._accepted(lease, outputs):
            return SceneResult(scene.id, scene.ref.uri, "failed", failures=outputs.failures)
        ledger = _ledger(self.ledger, self.store.folder.place.address)
        claim = _Claim(self, ledger, lease)
        result = commit_outputs(self.store.folder, outputs, amend=self._about(lease), claim=claim)
        # The scene is committed, whatever becomes of the records of its units.
        left_over = () if units is None else units.store.remove(units.scene_id)
        ledger.committed(lease, notify=self.notify)
        return replace(result, left_over=result.left_over + left_over) if left_over else result

    def committed(self, job: Job, ref: SceneRef) -> SceneResult | None:  # noqa: ARG002
        """The result of a scene that an ingester has committed and then died; None where it is to be done."""
        folder, lease = self.store.folder, self.leases[ref.id]
        left = leftovers(folder, ref.id)
        item = committed(folder, ref.id)
        if item is None or item["properties"].get("geosod:ingest_key") != lease.key:
            return None
        left_over = self.store.remove(ref.id)
        if _ledger(self.ledger, folder.place.address).committed(lease, notify=self.notify) and left.notes:
            left_over += self._clear(left, item)
        detections = int(item["properties"]["geosod:detections"])
        return SceneResult(ref.id, ref.uri, "skipped", detections, left_over=left_over)

    def _clear(self, left: Leftovers, item: Mapping[str, Any]) -> tuple[str, ...]:
        """Remove what was replaced by an ingester that died before it could; what cannot be, and why."""
        folder = self.store.folder
        try:
            index.refresh(folder, [str(item["id"])], collection=self.collection)
        except OutputError as error:
            return (str(error),)
        return left.remove(folder, but=asset_paths(folder, item))

    def _accepted(self, lease: Lease, outputs: SceneOutputs) -> bool:
        """Whether a scene is committed though some of its ground failed: where trying again was of no use."""
        last = lease.attempts + 1 >= self.attempts
        return last and not any(failure.error in _NOT_KEPT for failure in outputs.failures)

    def _about(self, lease: Lease) -> dict[str, Any]:
        """What the item says of its origin; a ledger that was lost is made from it."""
        found = lease.found
        return {
            "collection": self.collection,
            "links": [{"rel": "collection", "href": "../collection.json", "type": "application/json"}],
            "properties": {
                "geosod:ingest_key": lease.key,
                "geosod:ingest_collection": found.collection,
                "geosod:ingest_item": found.item,
                "geosod:ingest_version": found.version,
                "geosod:ingest_address": found.address,
                "geosod:ingest_updated": found.updated,
            },
        }


@dataclass(frozen=True, slots=True)
class _Claim:
    """A lease as a claim to its scene, see `geosod.output.replace.Claim`: only its holder commits, and only once."""

    sink: LeasedSink
    ledger: Ledger
    lease: Lease

    def check(self, before: Mapping[str, Any] | None) -> None:
        lease = self.lease
        if before is not None and before["properties"].get("geosod:ingest_key") == lease.key:
            self.ledger.committed(lease, notify=self.sink.notify)
            raise LeaseLostError(f"{lease.scene_id}: another ingester has committed this version")
        if lease.id not in self.ledger.renew([lease]):
            raise LeaseLostError(
                f"{lease.scene_id}: its lease has ended; another ingester or a newer version has it now"
            )

    def replacing(self) -> None:
        """The index must not name files that go: without locks they are replaced by now, else they will be."""
        folder, scene = self.sink.store.folder, self.lease.scene_id
        if folder.place.shared:
            index.refresh(folder, [scene], collection=self.sink.collection)
        else:
            index.drop_row(folder, scene)


@lru_cache(maxsize=8)
def _ledger(address: str, dataset: str) -> Ledger:
    return Ledger(address, dataset)


class Leased(AbstractContextManager["Leased"]):
    """The destination of leased scenes, see `geosod.running.destination.Destination`.

    Args:
        sink: takes what an engine has finished.
        executions: by digest of a model, how it ran before; shared by the batches of an ingester.
        note: what to say of it before a run.
    """

    def __init__(self, sink: LeasedSink, executions: dict[str, Mapping[str, Any]], *, note: str | None = None) -> None:
        self.sink, self._executions, self.note = sink, executions, note

    def __exit__(self, *_: object) -> None:
        """Nothing is left to be done."""

    def identified(self, refs: Sequence[SceneRef], *, overwrite: bool) -> Sequence[SceneRef]:  # noqa: ARG002
        """Their identifiers belong to them."""
        return refs

    def skipped(self, job: Job, ref: SceneRef) -> SceneResult | None:
        """See `LeasedSink.committed`."""
        return self.sink.committed(job, ref)

    def execution(self, model_digest: str) -> Mapping[str, Any] | None:
        """See `Destination`; looked up once."""
        if model_digest not in self._executions:
            for item in read_items(self.sink.store.folder):
                properties = item["properties"]
                if properties.get("geosod:model_digest") == model_digest:
                    self._executions[model_digest] = properties["geosod:execution"]
                    break
        return self._executions.get(model_digest)

    def record(self, result: SceneResult) -> Sequence[str]:
        """Failures of scenes that are not committed are in the ledger."""
        return result.left_over
