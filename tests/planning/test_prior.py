"""Priors: files, merging, and what they may be used for."""

import math
import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.networks import stdit_inputs, tiny_stdit
from videoaccel.models.fingerprint import Fingerprints, fingerprint
from videoaccel.models.network_config import configuration
from videoaccel.models.stdit import STDiT3
from videoaccel.planning.prior import Prior, merge, resample, setting_of
from videoaccel.planning.shelf import PART, find_prior, shelf
from videoaccel.sampling.rectified_flow import RectifiedFlowScheduler

SETTING: dict[str, Any] = {
    "model": "a" * 64, "scheduler": "flow {}", "steps": 6, "size": [64, 64], "frames": 17, "guidance": 4.0,
    "dtype": "float32",
}  # fmt: skip


def a_prior(seed: int = 0, count: int = 1, **setting: Any) -> Prior:
    generator = torch.Generator().manual_seed(seed)
    tables = {"soda.cache": torch.rand(6, 3, 5, generator=generator), "lemica.error": torch.rand(6, 2)}
    tables["lemica.error"][5, 1] = math.inf
    info = {"samples": [[seed, "a prompt"]], "made_with": f"{seed}"}
    return Prior({**SETTING, **setting}, tables, dict.fromkeys(tables, count), info)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    prior = a_prior()
    prior.save(tmp_path / "a.safetensors")
    again = Prior.load(tmp_path / "a.safetensors")
    assert (again.setting, again.samples, again.info) == (prior.setting, prior.samples, prior.info)
    assert all(torch.equal(again.tables[name], table) for name, table in prior.tables.items())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_that_is_written_over_in_place_changes_nothing_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    made = a_prior()
    made.save(path)
    read = Prior.load(path)
    with path.open("r+b") as file:  # as cp does
        file.write(bytes(path.stat().st_size))
    assert all(torch.equal(read.tables[name], table) for name, table in made.tables.items())


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, path = a_prior(), tmp_path / "a.safetensors"
    prior.save(path)
    before = path.read_bytes()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        a_prior(1).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x08\0\0\0\0\0\0\0{}      "])
def test_other_files_are_no_priors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.safetensors is no prior"):
        Prior.load(path)
    with pytest.raises(FileNotFoundError, match=r"there is no prior .*; videoaccel calibrate makes one"):
        Prior.load(tmp_path / "y.safetensors")


def test_merging_weighs_by_samples() -> None:
    one, two = a_prior(0, count=3), a_prior(1, count=1)
    both = one.merged(two)
    assert torch.allclose(both.tables["soda.cache"], 0.75 * one.tables["soda.cache"] + 0.25 * two.tables["soda.cache"])
    assert both.tables["lemica.error"][5, 1].isinf() and both.samples == {"soda.cache": 4, "lemica.error": 4}
    assert both.info == {"samples": [[0, "a prompt"], [1, "a prompt"]], "made_with": "0"}
    order = merge([a_prior(k) for k in range(4)]), merge([a_prior(k) for k in (3, 1, 0, 2)])
    assert torch.allclose(order[0].tables["soda.cache"], order[1].tables["soda.cache"])


def test_a_table_that_one_lacks_is_taken_from_the_other() -> None:
    one, two = a_prior(), a_prior(1, count=2)
    less = Prior(one.setting, {"soda.cache": one.tables["soda.cache"]}, {"soda.cache": 1}, one.info)
    assert less.merged(two).samples == {"soda.cache": 3, "lemica.error": 2}


@pytest.mark.parametrize(("of_older", "kept"), [(24, "older"), (10, "newer")])
def test_what_belongs_to_a_fit_stays_together(of_older: int, kept: str) -> None:
    """Older fits know no ranks: those of another fit must not come beside their coefficients."""
    found = {}
    for name, count, tables in (("older", of_older, ("weights",)), ("newer", 12, ("weights", "rank"))):
        prior = a_prior()
        for table in tables:
            prior.tables[f"soda.fitted.{table}"] = torch.full((6, 2), float(count))
            prior.samples[f"soda.fitted.{table}"] = count
        prior.info["fitted"] = [name]
        found[name] = prior
    for merged in (found["older"].merged(found["newer"]), found["newer"].merged(found["older"])):
        assert merged.info["fitted"] == [kept]
        assert {n for n in merged.tables if "fitted" in n} == {n for n in found[kept].tables if "fitted" in n}
        assert all(torch.equal(merged.tables[n], table) for n, table in found[kept].tables.items() if "fitted" in n)


def test_what_does_not_merge() -> None:
    with pytest.raises(ValueError, match="different settings do not merge: steps 6, here 7"):
        a_prior().merged(a_prior(steps=7))
    other = Prior(SETTING, {"soda.cache": torch.zeros(6, 4, 5)}, {"soda.cache": 1})
    with pytest.raises(ValueError, match=r"soda.cache is \[6, 3, 5\] in one prior and \[6, 4, 5\] in the other"):
        a_prior().merged(other)


# -- what a prior may be used for


@pytest.mark.parametrize("name", ["model", "scheduler"])
def test_another_model_or_scheduler_is_never_accepted(name: str) -> None:
    for foreign in (False, True):
        with pytest.raises(ValueError, match=f"the prior was made for {name} .*, here other$"):
            a_prior().for_setting({**SETTING, name: "other"}, foreign=foreign)


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 9), ("size", [64, 96]), ("frames", 33), ("guidance", 5.0), ("dtype", "bfloat16")],
)
def test_another_setting_is_refused_unless_allowed(name: str, value: Any) -> None:
    prior, wanted = a_prior(), {**SETTING, name: value}
    with pytest.raises(ValueError, match=f"made for {name} .*, here .*; calibrate for this setting, or allow"):
        prior.for_setting(wanted)
    made = prior.for_setting(wanted, foreign=True)
    assert made.setting == wanted and made.info["interpolated"][0].startswith(f"{name} ")
    assert all(len(table) == wanted["steps"] for table in made.tables.values())


def test_its_own_setting_is_taken_as_it_is() -> None:
    prior = a_prior()
    assert prior.for_setting(dict(SETTING)) is prior


def test_another_version_of_the_library_is_a_warning(tmp_path: Path) -> None:
    prior = Prior(SETTING, {"soda.cache": torch.zeros(6, 3, 5)}, {"soda.cache": 1}, {"videoaccel": "0.0.1"})
    with pytest.warns(UserWarning, match=r"made by videoaccel 0\.0\.1, this is "):
        assert prior.for_setting(SETTING) is prior
    prior.save(tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"made by videoaccel 0\.0\.1"):
        assert find_prior(SETTING, folders=[tmp_path]) is not None


def test_tables_are_interpolated_in_normalised_time() -> None:
    line = torch.linspace(0, 1, 5)[:, None].expand(5, 3)
    assert torch.allclose(resample(line, 5, 9)[:, 0], torch.linspace(0, 1, 9))
    assert torch.equal(resample(line, 5, 3), line[::2]) and resample(line, 4, 3) is line


def test_what_is_infinite_stays_so_and_spoils_nothing() -> None:
    table = torch.tensor([math.inf, 1.0, 2.0, 3.0, math.inf])
    assert resample(table, 5, 3).tolist() == [math.inf, 2, math.inf]
    assert resample(table, 5, 9).tolist() == [math.inf, math.inf, 1, 1.5, 2, 2.5, 3, math.inf, math.inf]


# -- the shelf


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_on_the_shelf_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.safetensors")
    a_prior().save(tmp_path / "1.safetensors")
    with pytest.warns(UserWarning, match=r"a prior is passed over: .*0\.safetensors.* is no plain file"):
        assert find_prior(SETTING, folders=[tmp_path]) is not None


def test_the_shelf_is_looked_through(tmp_path: Path) -> None:
    a_prior(steps=7).save(tmp_path / "a.safetensors")
    a_prior(3).save(tmp_path / "b.safetensors")
    found = find_prior(SETTING, folders=[tmp_path / "none", tmp_path])
    assert found is not None and found.info["made_with"] == "3"
    assert find_prior({**SETTING, "frames": 1}, folders=[tmp_path]) is None


def test_half_made_priors_are_not_used(tmp_path: Path) -> None:
    a_prior().save(tmp_path / f"a{PART}")
    assert find_prior(SETTING, folders=[tmp_path]) is None


def test_damaged_files_are_passed_over_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    a_prior().save(tmp_path / "b.safetensors")
    with pytest.warns(UserWarning, match=r"a prior is passed over: .*a.safetensors"):
        assert find_prior(SETTING, folders=[tmp_path]) is not None


def test_tables_of_several_priors_are_put_together(tmp_path: Path) -> None:
    one, two = a_prior(0), a_prior(1)
    Prior(SETTING, {"soda.cache": one.tables["soda.cache"]}, {"soda.cache": 1}).save(tmp_path / "a.safetensors")
    two.save(tmp_path / "b.safetensors")
    found = find_prior(SETTING, folders=[tmp_path])
    assert found is not None and torch.equal(found.tables["soda.cache"], one.tables["soda.cache"])
    assert torch.equal(found.tables["lemica.error"], two.tables["lemica.error"])


# -- identity


def test_fingerprints_know_weights_not_types() -> None:
    model = tiny_stdit()
    assert fingerprint(model) == fingerprint(deepcopy(model)) != fingerprint(tiny_stdit(seed=1))
    assert fingerprint(model) == fingerprint(deepcopy(model).to(torch.bfloat16))


def test_settings_say_what_a_prior_holds_for() -> None:
    model, fields = tiny_stdit(), {"steps": 6, "size": (64, 64), "frames": 17, "guidance": 4}
    made = setting_of(model, RectifiedFlowScheduler(base_size=32), **fields)  # type: ignore[arg-type]
    assert made["dtype"] == "float32" and made["size"] == [64, 64] and "base_size" in made["scheduler"]
    other = setting_of(model, RectifiedFlowScheduler(base_size=64), **fields)  # type: ignore[arg-type]
    assert made["scheduler"] != other["scheduler"] and made["model"] == other["model"]


def test_configurations_say_how_weights_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions for pictures of another size: the same weights, another output, and other errors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model, other = tiny_stdit(), tiny_stdit(input_sq_size=32, class_dropout_prob=0.5)
    other.load_state_dict(model.state_dict())
    inputs = stdit_inputs((2, 4, 6), batch=1, given=False, lengths=None, seed=1)
    with torch.inference_mode():
        assert fingerprint(model) == fingerprint(other) and not torch.equal(model(**inputs), other(**inputs))
    fields = {"steps": 6, "size": (64, 64), "frames": 17, "guidance": 4}
    was, now = (setting_of(one, RectifiedFlowScheduler(base_size=32), **fields) for one in (model, other))  # type: ignore[arg-type]
    said = "the network's input_sq_size 64, here 32"
    path = shelf()[0] / "own.safetensors"
    path.parent.mkdir(parents=True)
    Prior(was, a_prior().tables, a_prior().samples).save(path)
    kept = Prior.load(path)
    assert kept.differences(was) == [] and kept.differences(now) == [said]
    for foreign in (False, True):
        assert find_prior(was, foreign=foreign) is not None and find_prior(now, foreign=foreign) is None
        with pytest.raises(ValueError, match=f"the prior was made for {said}$"):
            kept.for_setting(now, foreign=foreign)
    with pytest.raises(ValueError, match="priors of different settings do not merge: the network's input_sq_size"):
        kept.merged(replace(kept, setting=now))
    before = replace(kept, setting={name: value for name, value in was.items() if name != "network"})
    assert before.differences(now) == [] and before.for_setting(now) is before, "made before it was kept"
    assert before.merged(kept).setting == was


def test_a_configuration_is_what_is_not_the_default() -> None:
    def config(**given: Any) -> dict[str, Any]:
        return configuration(STDiT3(**{"depth": 1, "hidden_size": 48, "num_heads": 2, "caption_channels": 16, **given}))

    own = {"depth": 1, "hidden_size": 48, "num_heads": 2, "caption_channels": 16}
    assert config() == config(patch_size=[1, 2, 2], class_dropout_prob=0.5, qk_norm=True) == dict(sorted(own.items()))
    assert config(qk_norm=False) == dict(sorted({**own, "qk_norm": False}.items()))
    assert configuration(torch.nn.Linear(1, 1)) == {}


def test_fingerprints_that_are_remembered_are_those_of_the_weights() -> None:
    model, known = tiny_stdit(), Fingerprints()
    model.register_buffer("empty", torch.empty(0, 4))
    first = known.of(model)
    assert first == known.of(model) == fingerprint(model) == fingerprint(deepcopy(model).bfloat16())
    with torch.no_grad():
        next(model.parameters()).data[0] += 1  # behind autograd's back, as adapters are merged
    assert known.of(model) == fingerprint(model) != first
