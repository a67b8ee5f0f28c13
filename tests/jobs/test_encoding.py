"""Encoding beside decoding: the same files, errors as ever, and nobody at work on what is thrown away."""

import threading
import time
from typing import Any

import pytest

from tests.disks import Stop, small_disk
from tests.workshop import Workshop
from videoaccel.jobs import generate as generation
from videoaccel.media.beside import Beside
from videoaccel.media.writer import Writer
from videoaccel.models.video_vae import VideoAutoencoder

PATIENCE = 20.0  # seconds after which a test that waits for a thread has failed


@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "out/"])
def test_the_same_bytes_as_one_after_the_other(make: Workshop, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made = []
    for thread in (True, False):
        threads: set[threading.Thread] = set()
        write = Writer.write

        def spy(self: Writer, frames: Any, write: Any = write, threads: set[threading.Thread] = threads) -> None:
            threads.add(threading.current_thread())
            write(self, frames)

        with monkeypatch.context() as patch:
            patch.setattr(generation, "Beside", lambda *, thread, real=thread: Beside(thread=real))
            patch.setattr(Writer, "write", spy)
            make(name, frames=22, steps=1, samples=2, batch_size=2, contact_sheet=True)
        assert (threading.main_thread() in threads) == (not thread) and len(threads) == 1
        paths = sorted(path for path in make.folder.rglob("*") if path.is_file() and path.suffix != ".json")
        made.append([(path, path.read_bytes()) for path in paths])
    assert made[0] == made[1] and len(made[0]) == (46 if name == "out/" else 4)


def test_the_next_chunk_is_decoded_while_one_is_encoded(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding = threading.Event()
    write, decode, chunks = Writer.write, VideoAutoencoder.decode_spatial_latent, []

    def decoded(self: VideoAutoencoder, z: Any, frames: int) -> Any:
        chunks.append(frames)
        if len(chunks) == 2:
            decoding.set()
        return decode(self, z, frames)

    def written(self: Writer, frames: Any) -> None:
        assert decoding.wait(PATIENCE), "the first frame is written before the second chunk is begun"
        write(self, frames)

    monkeypatch.setattr(VideoAutoencoder, "decode_spatial_latent", decoded)
    monkeypatch.setattr(Writer, "write", written)
    make(frames=20, steps=1)
    assert make.record()["output"]["frames"] == 20


def test_what_waiting_for_the_encoder_takes_is_in_write(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Writer.write

    def slow(self: Writer, frames: Any) -> None:
        time.sleep(0.02)
        write(self, frames)

    monkeypatch.setattr(Writer, "write", slow)
    make(frames=17, steps=1)
    assert make.record()["seconds"]["write"] >= 17 * 0.02


def test_a_full_disk_is_told_as_ever(make: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = small_disk(monkeypatch)
    disk.room = 2000
    with pytest.raises(OSError, match=r"cannot write .*out\.mp4: the disk of .* is full"):
        make(frames=40, steps=1)
    assert make.files == []


@pytest.mark.parametrize("error", [RuntimeError, Stop])
def test_no_file_is_thrown_away_under_the_encoder(
    make: Workshop, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Decoding fails, or Ctrl-C: the frame at hand is encoded to its end, no other is begun."""
    begun, failed = threading.Event(), threading.Event()
    told: list[str] = []
    write, leave = Writer.write, Writer.__exit__

    def written(self: Writer, frames: Any) -> None:
        told.append("begun")
        begun.set()
        assert failed.wait(PATIENCE)
        time.sleep(0.05)
        write(self, frames)
        told.append("ended")

    def left(self: Writer, *raised: Any) -> None:
        told.append("left")
        leave(self, *raised)

    def listener(stage: str, done: int, total: int) -> None:
        if stage == "decode" and begun.is_set():
            failed.set()
            raise error

    def decoded(self: VideoAutoencoder, z: Any, frames: int, decode: Any = VideoAutoencoder.decode_chunks) -> Any:
        for chunk in decode(self, z, frames):
            yield chunk
            assert begun.wait(PATIENCE)

    monkeypatch.setattr(Writer, "write", written)
    monkeypatch.setattr(Writer, "__exit__", left)
    monkeypatch.setattr(VideoAutoencoder, "decode_chunks", decoded)
    with pytest.raises(error):
        make(frames=60, steps=1, listener=listener)
    assert told == ["begun", "ended", "left"] and make.files == []
