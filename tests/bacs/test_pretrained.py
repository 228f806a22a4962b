"""Weights of torchvision and of in-place ABN, mapped by name onto the backbone."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from bacs.errors import RequestError
from bacs.networks import DeepLabV3, DeepLabV3Config, ResNet
from bacs.networks.backbone import build_backbone
from bacs.networks.pretrained import load_official, load_state, load_weights

BATCH = torch.randn(2, 3, 33, 65, generator=torch.Generator().manual_seed(0))
DILATED = [False, False, True]


@pytest.fixture(scope="module")
def official() -> nn.Module:
    """A ResNet-50 of torchvision with random weights, also in its norms, and some of these negative."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=DILATED).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.5, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, dict[str, Tensor]]:
    """The form of the published in-place-ABN files: prefix, classifier, no batch counters, signs in the norms."""
    torch.manual_seed(1)
    backbone = ResNet(50, norm="iabn", output_stride=16)
    state = {f"module.{key}": value for key, value in backbone.state_dict().items() if "num_batches" not in key}
    for key, value in state.items():
        if "bn" in key and key.endswith("weight"):
            nn.init.normal_(value)
    return {"state_dict": {**state, "module.classifier.fc.weight": torch.zeros(10, 2048)}}


def stages(official: nn.Module) -> list[Tensor]:
    """The maps of torchvision's stem and four stages, after their activations."""
    maps = [official.maxpool(official.relu(official.bn1(official.conv1(BATCH))))]
    for stage in (official.layer1, official.layer2, official.layer3, official.layer4):
        maps.append(stage(maps[-1]))
    return maps


@torch.no_grad()
def assert_same_maps(backbone: ResNet, official: nn.Module, upto: int) -> None:
    _, maps = backbone.eval()(BATCH)
    for ours, theirs in list(zip(maps, stages(official), strict=True))[:upto]:
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_torchvision_weights_give_torchvision_features(official):
    backbone = ResNet(50, norm="bn", output_stride=16, atrous=True)
    report = load_state(backbone, official.state_dict(), "resnet50")
    assert report.share == 1.0
    assert len(report.loaded) == 53 * 5
    assert report.summary() == "resnet50: 265 tensors loaded"
    # The first block of a dilated stage is dilated here and not in torchvision: same weights, another reading.
    assert_same_maps(backbone, official, upto=4)
    backbone.mod5.block1.convs.conv2.dilation = backbone.mod5.block1.convs.conv2.padding = (1, 1)
    assert_same_maps(backbone, official, upto=5)


def test_negative_weights_survive_the_magnitudes_of_in_place_abn(official):
    """Read as batch norm and ReLU again, the weights of the in-place layers compute what torchvision does."""
    backbone = ResNet(50, norm="iabn", output_stride=16, atrous=True)
    load_state(backbone, official.state_dict(), "resnet50")
    assert all((layer.weight >= 0).all() for name, layer in backbone.named_modules() if name.endswith(("bn1", "bn3")))
    as_relu = ResNet(50, norm="bn", output_stride=16, atrous=True)
    as_relu.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        for name, parameter in as_relu.named_parameters():
            if "bn" in name and name.endswith("weight"):
                parameter.add_(1e-5)
    assert_same_maps(as_relu, official, upto=4)


@torch.no_grad()
def test_an_in_place_checkpoint_loads_as_it_is_and_as_batch_norm(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "iabn.pth.tar")
    iabn, abn = ResNet(50, norm="iabn", output_stride=16), ResNet(50, norm="abn", output_stride=16)
    reports = [load_weights(backbone, tmp_path / "iabn.pth.tar") for backbone in (iabn, abn)]
    assert [report.share for report in reports] == [1.0, 1.0]
    weight = checkpoint["state_dict"]["module.mod3.block2.convs.bn2.weight"]
    assert torch.equal(iabn.mod3.block2.convs.bn2.weight, weight)
    assert torch.equal(abn.mod3.block2.convs.bn2.weight, weight.abs() + 1e-5)
    torch.testing.assert_close(iabn.eval()(BATCH)[0], abn.eval()(BATCH)[0])


def test_weights_of_another_depth_are_refused_either_way(official, checkpoint):
    with pytest.raises(RequestError, match="does not fit the backbone"):
        load_state(ResNet(101, norm="bn", output_stride=16), official.state_dict(), "resnet50")
    with torch.device("meta"):
        deeper = ResNet(101, norm="iabn", output_stride=16).state_dict()
    with pytest.raises(RequestError, match=r"unexpected \(mod4.block7"):
        load_state(ResNet(50, norm="bn", output_stride=16), deeper, "resnet101")


def test_a_report_names_what_did_not_fit(official):
    state = dict(official.state_dict())
    del state["layer4.2.bn3.bias"]
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    report = load_state(ResNet(50, norm="bn", output_stride=16), state, "file")
    assert report.missing == ("mod5.block3.convs.bn3.bias",)
    assert report.mismatched == ("mod1.conv1.weight",)
    assert report.summary() == (
        "file: 263 tensors loaded, 1 missing (mod5.block3.convs.bn3.bias ...), "
        "1 with another shape (mod1.conv1.weight ...)"
    )


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    backbone = ResNet(50, norm="bn", output_stride=16)
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(RequestError, match="cannot be read"):
        load_weights(backbone, tmp_path / "page.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(RequestError, match="0 tensors loaded"):
        load_weights(backbone, tmp_path / "list.pth")


def test_a_missing_file_is_found_before_any_work(tmp_path):
    path = str(tmp_path / "none.pth")
    faults = DeepLabV3.check(DeepLabV3Config(pretrained_backbone=True, backbone_weights_path=path))
    assert [fault.where for fault in faults] == ["network.backbone_weights_path"]
    assert path in faults[0].problem
    assert DeepLabV3.check(DeepLabV3Config(backbone_weights_path=path)) == []
    with pytest.raises(RequestError, match=r"none\.pth"):
        DeepLabV3(DeepLabV3Config(pretrained_backbone=True, backbone_weights_path=path), n_channels=3)


def test_a_path_fills_the_backbone_of_the_network(checkpoint, tmp_path):
    torch.save(checkpoint, tmp_path / "iabn.pth.tar")
    config = DeepLabV3Config(depth=50, pretrained_backbone=True, backbone_weights_path=str(tmp_path / "iabn.pth.tar"))
    backbone = build_backbone(config, n_channels=3)
    assert backbone.pretrained is not None
    assert torch.equal(backbone.mod1.conv1.weight, checkpoint["state_dict"]["module.mod1.conv1.weight"])
    with pytest.raises(RequestError, match="1 channel"):
        build_backbone(config, n_channels=1)


def test_a_failed_download_tells_the_way_out(monkeypatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(RequestError, match=r"no route to host(.|\n)*backbone_weights_path"):
        load_official(ResNet(50, norm="bn", output_stride=16), depth=50)
