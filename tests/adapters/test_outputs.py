"""Outputs taken apart, combined and put together; histories and their weights."""

import math
from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from videoaccel.adapters.forecast import History, Kept, choose, differences
from videoaccel.adapters.outputs import Output, combined, finite, taken_apart
from videoaccel.adapters.rule import Serve
from videoaccel.adapters.streams import signature_of
from videoaccel.session.slots import Slot

ONE, TWO = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])


def apart(output: Any) -> Output:
    parts = taken_apart(output)
    assert parts is not None
    return parts


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x, x + 1],
        lambda x: (x, None),
        lambda x: ([x, x], x),
        lambda x: {"video": x, "audio": x},
        lambda x: Transformer2DModelOutput(sample=x),
    ],
)
def test_any_form_comes_out_as_it_went_in(make: Any) -> None:
    made = combined([apart(make(TWO)), apart(make(ONE))], [2.0, -1.0]).whole()
    expected = make(TWO)
    assert type(made) is type(expected)
    for found, newest in zip(apart(made).leaves, apart(expected).leaves, strict=True):
        if newest is None:
            assert found is None
        else:
            assert torch.equal(found, 2 * newest - (newest - 9 * ONE)), "2 new - old"
            assert found.data_ptr() != newest.data_ptr()


def test_holding_gives_a_tensor_of_its_own() -> None:
    kept = apart((ONE.clone(),))
    held = combined([kept], [1.0])
    held.leaves[0].zero_()
    assert torch.equal(kept.leaves[0], ONE)


@pytest.mark.parametrize("output", [(ONE, "cache"), (ONE, 3), (torch.tensor([1]),), (), (None,), object()])
def test_what_holds_more_than_tensors_is_not_taken(output: Any) -> None:
    assert taken_apart(output) is None


def test_half_precision_is_combined_in_float32() -> None:
    old, new = (apart((torch.full((4,), value, dtype=torch.bfloat16),)) for value in (256.0, 258.0))
    (found,) = combined([new, old], [1.5, -0.5]).leaves
    assert found.dtype == torch.bfloat16 and torch.equal(found.float(), torch.full((4,), 259.0).bfloat16().float())
    double = apart((torch.tensor([1.0 + 1e-12], dtype=torch.float64),))
    assert combined([double], [1.0]).leaves[0].item() == 1.0 + 1e-12


def test_a_learned_variance_is_held() -> None:
    old, new = (apart((torch.full((1, 8, 2), value),)) for value in (1.0, 2.0))
    (found,) = combined([new, old], [2.0, -1.0], held_from=4).leaves
    assert torch.equal(found[:, :4], torch.full((1, 4, 2), 3.0)) and torch.equal(
        found[:, 4:], torch.full((1, 4, 2), 2.0)
    )


def test_infinity_is_seen() -> None:
    assert finite(apart((ONE, None))) and not finite(apart((ONE, torch.tensor([math.nan]))))
    tiny = apart((torch.tensor([6e4], dtype=torch.float16),))
    assert not finite(combined([tiny, apart((torch.tensor([0.0], dtype=torch.float16),))], [2.0, -1.0]))


def test_differences_are_those_of_our_own_slots() -> None:
    """The same forecasts through both doors, for uneven gaps, too."""
    for order in (0, 1, 2, 3):
        slot, values = Slot(1, order=order), []
        for step in (0, 1, 4, 6, 9):
            value = torch.randn(1, 3, generator=torch.Generator().manual_seed(step))
            slot.write(step, value)
            values.append((step, value))
        last = values[::-1][: order + 1]
        weights = differences(11, [step for step, _ in last])
        found = sum(weight * value for weight, (_, value) in zip(weights, last, strict=True))
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found, slot.read(11, order=order), rtol=1e-5, atol=1e-5)


def history(*numbers: int, keeps: int = 3) -> History:
    made = History(keeps)
    for i in numbers:
        made.add("stream", Kept(i, apart((torch.tensor([float(i**2)]),))))
    return made


def test_a_history_keeps_the_last_outputs_and_counts_them() -> None:
    made = history(0, 1, 3, 5)
    assert [kept.i for kept in made.of("stream")] == [5, 3, 1] and made.count("stream") == 4
    assert made.nbytes == 12 == made.peak_bytes
    made.add("other", Kept(5, apart((ONE,))))
    assert made.least == 1
    made.only({"stream"})
    assert made.of("other") == [] and made.least == 4
    made.add("stream", Kept(6, apart([ONE])))
    assert made.count("stream") == 1, "of another form"
    made.clear()
    assert made.nbytes == made.least == 0 and made.peak_bytes == 20


def test_forecasts_choose_what_they_need() -> None:
    kept = history(0, 1, 3).of("stream")
    values = {one.i: float(one.output.leaves[0]) for one in kept}

    def value(serve: Serve, at: int) -> float:
        found = choose(serve, kept, at)
        assert found is not None
        return sum(weight * values[one.i] for one, weight in zip(*found, strict=True))

    assert value(Serve(0), 4) == 9 and value(Serve(1), 4) == 13
    along = [float(i) for i in range(8)]
    assert value(Serve(2, along=along), 4) == pytest.approx(16), "a parabola is met by a polynomial"
    assert value(Serve(weights={3: 0.5, 0: 2.0}), 4) == 4.5
    assert choose(Serve(weights={2: 1.0}), kept, 4) is None and choose(Serve(1), [], 4) is None
    repeated = [0.0, 1.0, 1.0, 1.0, 2.0]
    assert value(Serve(1, along=repeated), 4) == 18, "one value at a place: the newest"


def test_signatures_tell_calls_apart() -> None:
    x = torch.zeros(1, 4)
    base = signature_of([x, torch.tensor(3)], {"text": x, "mode": "read"})
    assert base == signature_of([x + 1, torch.tensor(5)], {"mode": "read", "text": x})
    for args, kwargs in (
        ([torch.zeros(2, 4), torch.tensor(3)], {"text": x, "mode": "read"}),
        ([x.double(), torch.tensor(3)], {"text": x, "mode": "read"}),
        ([x, torch.tensor(3)], {"text": x, "mode": "write"}),
        ([x, torch.tensor(3)], {"text": None, "mode": "read"}),
        ([x, torch.tensor(3)], {"text": [x], "mode": "read"}),
        ([x, torch.tensor(3)], {"text": x, "mode": "read", "extra": True}),
    ):
        assert signature_of(args, kwargs) != base
    assert signature_of([[x, x]], {}) != signature_of([[x]], {})
    assert signature_of([x, 3], {"scale": 0.5}) == signature_of([x, 4], {"scale": 0.7})
    assert signature_of([], {"timestep": 3}) == signature_of([], {"timestep": 4})
    hash(signature_of([x, {"b": [x], "a": 1}], {"o": object()}))
