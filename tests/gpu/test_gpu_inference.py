"""Detection and validation on a GPU: suppression of many images together, latency without launches."""

from __future__ import annotations

import pytest
import torch

from prune_tools.planning import latency
from tests.pruning_networks import thin
from utils.geometry.nms import non_max_suppression

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("threshold", [0.001, 0.25])
def test_suppression_gives_what_a_cpu_gives(threshold, multi_label):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(9, 1500, 8, generator=generator)
    prediction[..., :2] *= 320
    prediction[..., 2:4] *= 60
    keywords = {"conf_thres": threshold, "iou_thres": 0.5, "multi_label": multi_label}
    expected = non_max_suppression(prediction, **keywords)
    got = non_max_suppression(prediction.cuda(), **keywords)
    assert [len(rows) for rows in got] == [len(rows) for rows in expected]
    for own, other in zip(got, expected, strict=True):
        torch.testing.assert_close(own.cpu(), other)


def test_latency_is_that_of_a_recorded_graph(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the fused copy would be rounded otherwise
    model = thin("yolov5n").float().cuda()
    call = latency.prepare(model, 64)
    with torch.no_grad():
        expected = model.eval()(torch.zeros(1, 3, 64, 64, device="cuda"))[0]
    torch.testing.assert_close(call(), expected, rtol=1e-3, atol=1e-2)
    assert 0 < latency.time_calls({"a": call}, 0.05)["a"] < 50


def test_a_timed_network_keeps_its_weights():
    call = latency.prepare(thin("yolov5n").float().cuda(), 64)
    first = call().clone()
    torch.cuda.empty_cache()
    others = [torch.full((size,), torch.nan, device="cuda") for size in (2**10, 2**16, 2**20, 2**24)]
    torch.testing.assert_close(call(), first)
    assert all(bool(values.isnan().all()) for values in others)
