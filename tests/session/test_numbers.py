"""Numbers of methods: what is none of use is refused by name, in every field of every method."""

import math

import pytest

from videoaccel.session.registry import make_policy, policy_class, policy_names


@pytest.mark.parametrize("method", policy_names())
def test_what_is_no_number_is_refused_by_name(method: str) -> None:
    for name, field in policy_class(method).model_fields.items():
        kind = str(field.annotation)
        if "bool" in kind or not ("int" in kind or "float" in kind):
            continue
        for value in (True, False, math.inf, -math.inf, math.nan):
            with pytest.raises(ValueError, match=rf"^{method}: {name}\b.*, got (\[|\()?{value}"):
                make_policy(method, **{name: [value] if "tuple" in kind else value})


def test_a_switch_takes_true_and_a_number_its_values() -> None:
    assert make_policy("adacache", motion=True).model_dump()["motion"] is True
    assert make_policy("soda", speedup=2).model_dump()["speedup"] == 2.0
    with pytest.raises(ValueError, match=r"^soda: speedup: true is for switches only; a text needs quotes, got True"):
        make_policy("soda", speedup=True)
    with pytest.raises(ValueError, match=r"^soda: speedup: Input should be a finite number, got inf"):
        make_policy("soda", speedup=math.inf)
