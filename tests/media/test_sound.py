"""Files of sound."""

import wave
from pathlib import Path

import numpy as np
import pytest

from videoaccel.media.sound import write_wav


def test_what_is_written_is_read(tmp_path: Path) -> None:
    sound = np.array([[0, 0.5, 1, -1], [0, 0, 2, 0.25]], dtype=np.float32)
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, sound, rate=8000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 8000, 2)
        samples = np.frombuffer(file.readframes(4), dtype="<i2").reshape(4, 2)
    assert samples[:, 0].tolist() == [0, 16384, 32767, -32767] and samples[2, 1] == 32767
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_what_is_no_sound(tmp_path: Path) -> None:
    sound = np.zeros((1, 4), dtype=np.float32)
    with pytest.raises(ValueError, match=r"must end in \.wav"):
        write_wav(tmp_path / "a.mp3", sound, rate=8000)
    for wrong, rate in ((sound[0], 8000), (sound[:, :0], 8000), (sound, 0)):
        with pytest.raises(ValueError, match="at a rate above 0"):
            write_wav(tmp_path / "a.wav", wrong, rate=rate)
    assert not list(tmp_path.iterdir())
