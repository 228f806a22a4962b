"""TranSeg: a dilated ResNet and a mask-transformer decoder, which grows by a token per class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from bacs.errors import Fault
from bacs.networks.backbone import BackboneConfig, ResNetSegmentationNetwork, build_backbone, check_backbone
from bacs.networks.contract import TOKEN_INITS, NetworkOutput
from bacs.networks.mask_transformer import CLASS_NORMS, MaskTransformer
from bacs.networks.resnet import ResNet
from bacs.schema import knob


@dataclass(frozen=True, kw_only=True)
class TranSegConfig(BackboneConfig):
    """Keys of ``network=transformer``."""

    hidden_dim: int = knob(256, ge=1, le=8192)
    """Channels of patch and class tokens, a multiple of ``nhead``."""
    dim_feedforward: int = knob(2048, ge=1, le=65_536)
    """Hidden units of each block's feed-forward network."""
    nhead: int = knob(8, ge=1, le=256)
    """Attention heads of each block."""
    num_decoder_layers: int = knob(2, ge=1, le=64)
    """Transformer blocks."""
    crop_size: int = knob(512, ge=1, le=16_384)
    """Side of the training crops in pixels: the size of the positional map, which is interpolated for other inputs."""
    class_norm: str = knob("layernorm", choices=CLASS_NORMS)
    """How masks become logits. ``layernorm`` (the original) normalises over the classes, so new classes move old
    logits; with ``none`` old logits never depend on later classes. See bacs/networks/mask_transformer.py."""
    background_share: bool = knob(True, acts_from=1)
    """With ``training.new_token_init=background``, new classes share the old background's probability."""


class TranSeg(ResNetSegmentationNetwork):
    """ResNet backbone and mask transformer; logits at the output stride, raised bilinearly.

    The last entry of the feature list is the decoder's normalised patch tokens as a map. What replay compares are the
    cosines where the logits are normalised over the classes, and else the logits.
    """

    Config = TranSegConfig
    growth_inits = TOKEN_INITS

    def __init__(
        self,
        config: TranSegConfig,
        n_channels: int,
        *,
        compat_mean_bias: bool = False,
        compat_normalised_replay: bool = False,
    ) -> None:
        """Builds it without a class.

        Args:
            config: its settings.
            n_channels: of the images.
            compat_mean_bias: see ``compat.token_bias_from_weights``.
            compat_normalised_replay: see ``compat.normalised_replay_logits``.
        """
        super().__init__()
        self.backbone = build_backbone(config, n_channels)
        self.bottleneck_channels = ResNet.out_channels
        side = -(-config.crop_size // config.output_stride)  # rounded up, as strided convolutions do
        self.replay_scale = config.hidden_dim**0.5
        """Cosines of random vectors spread by 1 / sqrt(hidden_dim); scaled so, they weigh in replay as logits do."""
        self.replays_cosines = config.class_norm == "layernorm" and not compat_normalised_replay
        self.decoder = MaskTransformer(
            ResNet.out_channels,
            (side, side),
            hidden_dim=config.hidden_dim,
            n_heads=config.nhead,
            dim_feedforward=config.dim_feedforward,
            n_layers=config.num_decoder_layers,
            class_norm=config.class_norm,
            background_share=config.background_share,
            compat_mean_bias=compat_mean_bias,
        )

    @staticmethod
    def check(config: TranSegConfig) -> list[Fault]:
        """Faults of the configuration that can be told before anything is built."""
        faults = check_backbone(config)
        if config.hidden_dim % config.nhead:
            problem = f"is {config.hidden_dim}, but must be divisible by network.nhead ({config.nhead})"
            faults.append(Fault("network.hidden_dim", problem, "change one of the two"))
        return faults

    @property
    def n_classes(self) -> int:
        return self.decoder.n_classes

    def grow(self, n_new: int, init: str) -> None:
        self.decoder.grow(n_new, init)

    def forward(self, images: Tensor) -> NetworkOutput:
        deep, features = self.backbone(images)
        masks = self.decoder(deep)
        logits = functional.interpolate(masks.logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
        return NetworkOutput(
            logits=logits,
            sem_logits=masks.logits,
            replay_logits=self.replay_scale * masks.cosines if self.replays_cosines else masks.logits,
            bottleneck=deep,
            features=[*features, masks.patch_features],
        )
