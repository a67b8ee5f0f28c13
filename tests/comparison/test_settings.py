"""Which settings a comparison runs."""

from typing import Any

import pytest

from videoaccel.comparison.settings import choose_settings
from videoaccel.comparison.values import CONTROLS, read_values
from videoaccel.session.registry import make_policy, policy_class, policy_names


def test_every_method_says_what_to_sweep() -> None:
    for name in policy_names():
        kind = policy_class(name)
        if name == "off":
            assert not kind.knob
            continue
        assert kind.knob in kind.model_fields, name
        assert len(set(kind.sweep)) >= 6, name
        for value in kind.sweep:
            make_policy(name, **{kind.knob: value})


def test_settings_are_methods_at_the_values_of_their_knobs() -> None:
    settings = choose_settings(["exact", "off", "fora", "fora"])
    assert [setting.method for setting in settings[:2]] == ["exact", "off"]
    assert [setting.name for setting in settings if setting.method == "fora"] == [
        f"period={period}" for period in policy_class("fora").sweep
    ]
    assert {setting.method for setting in settings} == {"exact", "off", "fora", *CONTROLS}
    assert {s.method for s in choose_settings(["all"], controls=False)} == {"exact", *policy_names()}


def test_one_field_may_have_several_values() -> None:
    values = read_values(["fora.period=2, 4", "fora.warmup=1", "fixed_linear.order=0"])
    settings = choose_settings(["fora", "fixed_linear"], values=values, controls=False)
    assert [s.name for s in settings if s.method == "fora"] == ["period=2 warmup=1", "period=4 warmup=1"]
    assert len([s for s in settings if s.method == "fixed_linear"]) == len(policy_class("fixed_linear").sweep)
    (one,) = [s for s in choose_settings(["fora"], values={"fora": {"period": [3]}}, controls=False) if s.policy]
    assert one.name == "period=3" and one.policy == make_policy("fora", period=3)
    (one,) = [s for s in choose_settings(["soda"], values={"soda": {"anchors": [3]}}, controls=False) if s.policy]
    assert one.name == "anchors=3", "there is no sweeping the FLOPs of a plan that is given its anchors"


@pytest.mark.parametrize(
    ("methods", "values", "message"),
    [
        (["forra"], {}, "did you mean 'fora'"),
        (["fora"], {"fora": {"perod": [2]}}, "fora has no field 'perod'"),
        (["fora"], {"fora": {"period": [0]}}, "fora: period"),
        (["fora"], {"off": {"period": [2]}}, "off, which is not among the methods"),
        (["fora"], {"fora": {"period": [2, 3], "warmup": [1, 2]}}, "not period and warmup"),
        (["fora"], {"fora": {"period": []}}, "fora.period has no values"),
    ],
)
def test_settings_that_do_not_exist(methods: list[str], values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_settings(methods, values=values, controls=False)


@pytest.mark.parametrize("text", ["fora", "fora=2", "fora.period", "fora.period=", ".period=2", "fora.period=[2"])
def test_values_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"fora\.period"):
        read_values([text])
    with pytest.raises(ValueError, match="twice"):
        read_values(["fora.period=2", "fora.period=3"])


def test_what_is_in_the_box_is_run_once_with_its_fields() -> None:
    exact, pair, sites = choose_settings(
        ["fora-sada", "soda-sites"], values={"fora-sada": {"sada.threshold": [0.2]}}, controls=False
    )
    assert exact.method == "exact" and (pair.method, pair.name) == ("fora-sada", "sada.threshold=0.2")
    assert pair.policy is not None and pair.policy.name == "fora+sada"
    assert pair.policy.model_dump()["sada"]["threshold"] == 0.2 and pair.policy.model_dump()["fora"]["period"] == 3
    assert (sites.method, sites.name) == ("soda-sites", "")
    with pytest.raises(ValueError, match="takes one value, not 2"):
        choose_settings(["soda-sites"], values={"soda-sites": {"flops_ratio": [1.5, 2.0]}})
