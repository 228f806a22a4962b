"""What every network that ships promises."""

from __future__ import annotations

from bacs.compose import compose
from bacs.contracts.networks import NetworkContract

SMALL = {
    "unet": {},
    "deep_lab_r50": {},
    "transformer": {"depth": 50, "crop_size": 48, "hidden_dim": 32, "dim_feedforward": 64, "nhead": 2},
}


def contract_of(name: str, **settings: object) -> type[NetworkContract]:
    shipped = dict(compose("config", [f"network={name}"])["network"])
    target = shipped.pop("_target_")
    return type("", (NetworkContract,), {"target": target, "settings": shipped | SMALL[name] | settings})


class TestUNet(contract_of("unet")):
    pass


class TestBilinearUNet(contract_of("unet", bilinear=True, num_layers=4)):
    pass


class TestDeepLab(contract_of("deep_lab_r50")):
    pass


class TestTransformer(contract_of("transformer")):
    pass


class TestTransformerWithoutClassNorm(contract_of("transformer", class_norm="none")):
    pass
