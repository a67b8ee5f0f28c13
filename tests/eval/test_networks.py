"""Networks with stand-in weights against the official ones, end to end; what takes minutes is marked slow."""

import gzip
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.eval import standin
from tests.eval.samples import moving
from videoaccel.eval.backbones import Backbone, Backbones
from videoaccel.eval.metric import NotApplicable, Sample, set_score
from videoaccel.eval.metric_names import metric_class
from videoaccel.eval.metrics.aesthetic_quality import AESTHETIC_HEAD
from videoaccel.eval.networks.clip import CLIP_B32, CLIP_L14, load_clip_text, load_clip_vision
from videoaccel.eval.networks.clip_tokens import CLIP_WORDS, WORDS, Tokenizer, load_tokenizer
from videoaccel.eval.networks.dino import DINO_B16, position_embedding
from videoaccel.eval.networks.raft import RAFT_THINGS, correlation_pyramid, load_raft, look_up
from videoaccel.eval.networks.viclip import FRAMES, VICLIP_L14, TextEncoder, VideoEncoder
from videoaccel.eval.sampling import dino_pictures

CLIPS = ("couple.mp4", "couple.lossy.mp4", "walker.mp4", "walker.lossy.mp4", "sakura.mp4", "sakura.lossy.mp4")
SHORT = ("walker.mp4", "walker.lossy.mp4")
PROMPTS = {
    "couple": "a man and a woman talking in a sunny backyard",
    "sakura": "an anime girl with pink hair under cherry blossoms",
    "walker": "a person walking along a rocky ruin",
}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    return Backbones(tmp_path_factory.mktemp("backbones"))


def put(backbones: Backbones, name: str, backbone: Backbone) -> None:
    place = backbones.root / backbone.file
    if not place.exists():
        standin.save(name, place, half=True)  # the values are those of half precision anyway


def vocabulary(path: Path, merges: list[str]) -> Path:
    """A file of the format, and the length, of CLIP's, with these pairs first."""
    strange = [*(chr(code) for code in range(0xA1, 0x100) if code != 0xAD), *(chr(256 + i) for i in range(68))]
    pairs = (f"{a} {b}{end}" for a in strange for b in strange for end in ("", "</w>"))
    filler = itertools.islice(pairs, WORDS - 514 - len(merges))
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(["#version", *merges, *filler, ""]))
    return path


def official(dimension: str) -> dict[str, float]:
    entries = standin.metrics("standin_official_end_to_end", dimension)["video_results"]
    return {Path(entry["video_path"]).name: float(entry["video_results"]) for entry in entries}


def check(dimension: str, backbones: Backbones, names: tuple[str, ...] = CLIPS) -> None:
    metric, expected = metric_class(dimension)(backbones=backbones), official(dimension)
    scores = []
    for name in names:
        frames, fps = standin.clip(name)
        scores.append(metric.measure(Sample(name, frames, fps, prompt=PROMPTS[name.split(".")[0]])))
        assert scores[-1].value == pytest.approx(expected[name], rel=1e-4), name
    if names == CLIPS:
        score = standin.metrics("standin_official_end_to_end", dimension, "score")
        assert set_score(scores) == pytest.approx(score, rel=1e-4)


@pytest.mark.golden
def test_flow_of_two_frames(backbones: Backbones) -> None:
    """One pair here; all of them in the slow test."""
    put(backbones, "raft_things", RAFT_THINGS)
    metric = metric_class("dynamic_degree")(backbones=backbones)
    frames, fps = standin.clip("walker.mp4")
    score = metric.measure(Sample("walker.mp4", frames[:2], fps))
    golden = standin.metrics("standin_official_end_to_end", "dynamic_degree", "details", "walker.mp4")
    assert score.frames == pytest.approx(golden["top5pct_mean_flow"][:1], rel=1e-4)
    assert score.details["threshold"] == golden["params"]["thres"]
    with pytest.raises(NotApplicable, match="at least 128 pixels"):
        metric.measure(Sample("small", moving(3, 64), 8))
    with pytest.raises(ValueError, match="at least 2 frames at 8 a second, got 1 of 3"):
        metric.measure(Sample("short", frames[:3], 30))


@pytest.mark.golden
@pytest.mark.slow
def test_dino_sees_two_frames(backbones: Backbones) -> None:
    put(backbones, "dino_vitb16", DINO_B16)
    metric = metric_class("subject_consistency")(backbones=backbones)
    for name in ("walker.mp4", "sakura.mp4"):
        golden = torch.from_numpy(standin.arrays("standin_features")[f"subject_consistency/{name}"])[:2]
        found = metric.network.features(dino_pictures(standin.clip(name)[0][:2]))
        assert torch.allclose(found, golden, atol=2e-4 * float(golden.abs().max()))


@pytest.mark.golden
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dimension", "files"),
    [
        ("dynamic_degree", [("raft_things", RAFT_THINGS)]),
        ("subject_consistency", [("dino_vitb16", DINO_B16)]),
        ("background_consistency", [("clip_vit_b32", CLIP_B32)]),
        ("aesthetic_quality", [("clip_vit_l14", CLIP_L14), ("aesthetic_linear", AESTHETIC_HEAD)]),
    ],
)
def test_dimension_end_to_end(dimension: str, files: list[tuple[str, Backbone]], tmp_path: Path) -> None:
    backbones = Backbones(tmp_path)
    for name, backbone in files:
        put(backbones, name, backbone)
    check(dimension, backbones, CLIPS if dimension != "aesthetic_quality" else SHORT)  # 10 minutes for all


def words(backbones: Backbones) -> None:
    """CLIP's own vocabulary, which this project does not ship."""
    real = Backbones()
    try:
        found = real.find(CLIP_WORDS)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    place = backbones.root / CLIP_WORDS.file
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(found, place)


@pytest.mark.golden
@pytest.mark.slow
def test_viclip_end_to_end(tmp_path: Path) -> None:
    backbones = Backbones(tmp_path)
    words(backbones)
    put(backbones, "viclip_l14", VICLIP_L14)
    metric = metric_class("overall_consistency")(backbones=backbones)
    golden = standin.metrics("standin_official_end_to_end", "overall_consistency", "details")
    texts = [metric.tokenizer([PROMPTS[name.split(".")[0]]], 32) for name in CLIPS]
    heads = F.normalize(metric.network.text_features(torch.cat(texts)), dim=-1)[:, :6]
    assert torch.allclose(heads, torch.tensor(golden["text_feature_head"]), atol=1e-5)
    check("overall_consistency", backbones)


@pytest.mark.golden
@pytest.mark.slow
def test_appearance_style_end_to_end(tmp_path: Path) -> None:
    backbones = Backbones(tmp_path)
    words(backbones)
    put(backbones, "clip_vit_b32", CLIP_B32)
    metric = metric_class("appearance_style")(backbones=backbones)
    for entry in standin.metrics("standin_official_end_to_end", "appearance_style")["video_results"][:2]:
        lossy = entry["video_path"].endswith("-1.mp4")
        frames, fps = standin.clip("couple.lossy.mp4" if lossy else "couple.mp4")
        score = metric.measure(Sample("x", frames, fps, about={"appearance_style": "watercolor painting"}))
        assert score.frames == pytest.approx(entry["frame_results"], rel=1e-4, abs=2e-6)
    with pytest.raises(NotApplicable, match="no appearance_style"):
        metric.measure(Sample("x", frames, fps))


def test_position_embedding_is_resized_by_a_factor() -> None:
    table = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(0))
    assert position_embedding(table, 14, 14) is table
    found = position_embedding(table, 14, 24)
    assert found.shape == (1, 1 + 14 * 24, 8) and torch.equal(found[:, 0], table[:, 0])
    grid = table[:, 1:].reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    plain = F.interpolate(grid, size=(14, 24), mode="bicubic").flatten(2).transpose(1, 2)
    assert not torch.allclose(found[:, 1:], plain, atol=1e-3)


def test_looking_up_products_finds_a_shift() -> None:
    """Where the second picture is the first one moved, the largest product lies at the motion."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(1, 32, 16, 16, generator=generator)
    b = a.roll((2, 1), dims=(2, 3))  # two down, one to the right
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    found = look_up(correlation_pyramid(a, b), torch.stack([x, y])[None])
    assert found.shape == (1, 4 * 81, 16, 16)
    best = found[0, :81, 8, 8].argmax().item()
    assert (best // 9 - 4, best % 9 - 4) == (1, 2)


def test_a_small_viclip_sees_time_and_reads_to_the_end() -> None:
    torch.manual_seed(0)
    vision = VideoEncoder(side=28, patch=14, width=32, layers=2, heads=2, features=16).eval()
    text = TextEncoder(width=32, layers=1, heads=2, words=100).eval()
    for parameter in [*vision.parameters(), *text.parameters()]:
        torch.nn.init.normal_(parameter, std=0.3)
    clips = torch.randn(2, FRAMES, 3, 28, 28)
    with torch.no_grad():
        features = vision(clips)
        assert features.shape == (2, 16)
        assert not torch.allclose(vision(clips.flip(1)), features, atol=1e-3)
        numbers = torch.zeros(2, 32, dtype=torch.long)
        numbers[:, :4] = torch.tensor([98, 5, 6, 99])
        numbers[1, 4:] = 7  # behind the end
        a, b = text(numbers)
    assert torch.allclose(a, b, atol=1e-6)


def test_words_are_pairs_of_bytes(tmp_path: Path) -> None:
    """With the pairs t-h and th-e, "the" is one word and everything else is letters."""
    tokenizer = Tokenizer(vocabulary(tmp_path / "words.txt.gz", ["t h", "th e</w>"]))
    start, end = WORDS - 2, WORDS - 1
    e, a = ord("e") - ord("!"), ord("a") - ord("!")
    (found,) = tokenizer(["  THE &amp;amp; eA "], 10).tolist()
    assert found == [start, 513, ord("&") - ord("!") + 256, e, a + 256, end, 0, 0, 0, 0]
    (cut,) = tokenizer(["the the the"], 4).tolist()
    assert cut == [start, 513, 513, end]


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    backbones = Backbones(tmp_path)
    for backbone, load in (
        (RAFT_THINGS, load_raft),
        (CLIP_B32, lambda b: load_clip_vision(b, CLIP_B32)),
        (CLIP_B32, lambda b: load_clip_text(b, CLIP_B32)),
        (CLIP_WORDS, load_tokenizer),
    ):
        place = tmp_path / backbone.file
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.zeros(1)}, place)
        with pytest.raises(ValueError, match=str(place)):
            load(backbones)


def test_torchscript_archives_are_read(tmp_path: Path) -> None:
    """OpenAI's files of CLIP are such archives."""
    place = tmp_path / "x.pt"
    torch.jit.script(torch.nn.Linear(2, 3)).save(str(place))
    loaded = Backbones(tmp_path).load(Backbone("x.pt", ""))
    assert {name: tuple(tensor.shape) for name, tensor in loaded.items()} == {"weight": (3, 2), "bias": (3,)}
    assert np.isfinite(loaded["weight"].numpy()).all()
