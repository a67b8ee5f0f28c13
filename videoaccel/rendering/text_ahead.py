"""Text of all jobs first, once: one worker encodes what is missing, the others wait for it and watch that it lives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from videoaccel.common.stages import Listener
from videoaccel.jobs.parts import texts_needed
from videoaccel.jobs.resolve import WorkOrder
from videoaccel.rendering.control import Control
from videoaccel.rendering.heartbeat import Observer
from videoaccel.rendering.inside import Inside
from videoaccel.rendering.leases import Leases
from videoaccel.rendering.plan import Unit
from videoaccel.rendering.renderer import LocalRenderer
from videoaccel.text.cache import TextCache, TextKey
from videoaccel.text.encoder import PromptStates


class FolderTexts(TextCache):
    """Text states in a render's folder, which is opened as all its folders are.

    Args:
        place: The folder; it is there.
    """

    def __init__(self, place: Inside) -> None:
        super().__init__(place.path)
        self.place = place

    def _write(self, name: str, data: bytes) -> None:
        self.place.write(name, data)


@dataclass(frozen=True)
class TextAhead:
    """Encodes text before anything else is done.

    Attributes:
        renderer: Has the encoder, and knows where states are kept.
        leases: Of the folder.
        observer: Watches the worker that encodes.
        control: Asked whether to go on.
        patiently: Calls what writes, again when a full disk has room again.
        listener: Told of the stage ``text``.
        finished: Whether a worker that was waited for has made everything, and let go of the texts.
    """

    renderer: LocalRenderer
    leases: Leases
    observer: Observer
    control: Control
    patiently: Callable[[Callable[[], object]], object]
    listener: Listener
    finished: Callable[[], bool]

    def run(self, units: Sequence[Unit]) -> None:
        """Return when the states of all texts of these units are kept.

        Raises:
            StoppedError: The worker is to stop.
            ValueError: The text encoder's files do not fit.
            OSError: They are not there.
        """
        orders: dict[tuple[TextKey, bool], list[WorkOrder]] = {}
        for unit in units:
            if unit.jobs[0].group.outside is not None:  # it encodes its texts itself
                continue
            try:
                order = unit.work_order({})
            except (ValueError, OSError):  # it has no texts; when its turn comes, it fails alone and says why
                continue
            orders.setdefault((self.renderer.key(order), order.settings.text_cache), []).append(order)
        for (key, _), some in orders.items():
            self._encode_all(key, some)

    def _encode_all(self, key: TextKey, orders: Sequence[WorkOrder]) -> None:
        """All that one encoder has to encode."""
        cache = self.renderer.cache(orders[0])
        texts = list(dict.fromkeys(text for order in orders for text in texts_needed(order)))
        job, waited = text_lease(key), False
        while missing := [text for text in texts if not cache.has(text, key=key)]:
            self.control.check()
            tries = self.leases.look().get(job)
            if tries is not None and tries.held is not None:
                waited = True
                holder = self.leases.holder(job, tries.held)
                if holder is not None and self.observer.dead(holder.worker, lease=f"{job}.{tries.held}"):
                    self.leases.take(holder)
                else:
                    time.sleep(min(0.5, self.observer.stale / 10))
                continue
            if waited and self.finished():
                return
            lease = self.leases.claim(job, tries)
            if lease is None:
                continue
            try:
                # Another may have been done with it between the look and the claim.
                self._encode([text for text in missing if not cache.has(text, key=key)], orders[0], cache, key)
            finally:
                self.leases.forget(job)

    def _encode(self, texts: Sequence[str], order: WorkOrder, cache: TextCache, key: TextKey) -> None:
        done = 0

        def keep(text: str, states: PromptStates) -> None:
            nonlocal done
            self.patiently(lambda: cache.put(text, states, key=key))
            done += 1
            self.listener("text", done, len(texts))

        if texts:
            self.listener("text", 0, len(texts))
            self.renderer.encode(order, texts, keep=keep)


def text_lease(key: TextKey) -> str:
    """What the lease of an encoder's work is called."""
    return "text" + hashlib.sha256(repr(key).encode()).hexdigest()[:12]
