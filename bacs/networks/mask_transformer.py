"""The mask-transformer decoder (after Segmenter, Strudel et al. 2021): a learned token per class, growing by tokens.

Shape suffixes: B images, N patches (h * w), T tokens of any kind, K classes, C hidden channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bacs.networks.contract import TOKEN_INITS

CLASS_NORMS = ("layernorm", "none")
INIT_STD = 0.02
"""Of the truncated normal draw of linear layers and class tokens."""


@dataclass(frozen=True, slots=True)
class MaskOutput:
    """What the decoder makes of one feature map."""

    logits: Tensor
    """(B, K, h, w)"""
    cosines: Tensor
    """(B, K, h, w) in [-1, 1]: the masks before anything that depends on the other classes."""
    patch_features: Tensor
    """(B, C, h, w): the normalised patch tokens before their projection."""


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of several groups of tokens to the first of them."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, groups: list[Tensor]) -> list[Tensor]:
        """[(B, T_i, C), ...] -> the same shapes."""
        key, value = (self._heads(x_BTC) for x_BTC in self.key_value(groups[0]).chunk(2, dim=-1))
        return [self._attend(x_BTC, key, value) for x_BTC in groups]

    def _attend(self, x_BTC: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = functional.scaled_dot_product_attention(self._heads(self.query(x_BTC)), key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU network, each added to its input. No dropout."""

    def __init__(self, dim: int, n_heads: int, dim_feedforward: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = Attention(dim, n_heads)
        self.norm_feedforward = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(nn.Linear(dim, dim_feedforward), nn.GELU(), nn.Linear(dim_feedforward, dim))

    def forward(self, groups: list[Tensor]) -> list[Tensor]:
        """[(B, T_i, C), ...] -> the same shapes; every group attends to the first."""
        attended = self.attention([self.norm_attention(x_BTC) for x_BTC in groups])
        groups = [x_BTC + a_BTC for x_BTC, a_BTC in zip(groups, attended, strict=True)]
        return [x_BTC + self.feedforward(self.norm_feedforward(x_BTC)) for x_BTC in groups]


class ClassTokens(nn.Module):
    """A token per class with its affine entry, one parameter per step, so growing leaves old parameters alone."""

    def __init__(self, dim: int, *, weighted: bool, background_share: bool, compat_mean_bias: bool) -> None:
        super().__init__()
        self.dim = dim
        self.weighted = weighted
        self.background_share = background_share
        self.compat_mean_bias = compat_mean_bias
        self.tokens = nn.ParameterList()
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()

    @property
    def n_classes(self) -> int:
        return sum(int(token.shape[1]) for token in self.tokens)

    def weight(self) -> Tensor:
        """(K,)"""
        return torch.cat(list(self.weights))

    def bias(self) -> Tensor:
        """(K,)"""
        return torch.cat(list(self.biases))

    @torch.no_grad()
    def grow(self, n_new: int, init: str) -> None:
        """Appends the tokens of a step; see :meth:`MaskTransformer.grow`."""
        first = len(self.tokens) == 0
        n_tokens = n_new + int(first)
        if first or init == "random":
            token, weight, bias = self._random(n_tokens)
        elif init == "mean":
            token, weight, bias = self._mean(n_tokens)
        else:
            token, weight, bias = self._background(n_tokens)
        self.tokens.append(nn.Parameter(token))
        self.biases.append(nn.Parameter(bias))
        if self.weighted:
            self.weights.append(nn.Parameter(weight))

    def _random(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        token = nn.init.trunc_normal_(torch.empty(1, n, self.dim), std=INIT_STD)
        if len(self.tokens) > 0:  # drawn on the CPU all the same, so every device starts from the same numbers
            token = token.to(self.tokens[0])
        return token, token.new_ones(n), token.new_zeros(n)

    def _mean(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        token = torch.cat(list(self.tokens), dim=1).mean(dim=1, keepdim=True)
        bias = self.bias().mean()
        weight = self.weight().mean() if self.weighted else torch.ones_like(bias)
        return token.repeat(1, n, 1), weight.repeat(n), (weight if self.compat_mean_bias else bias).repeat(n)

    def _background(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.background_share:
            self.biases[0][0] -= math.log(n + 1)
        bias = self.biases[0][0]
        weight = self.weights[0][0] if self.weighted else torch.ones_like(bias)
        return self.tokens[0][:, :1].repeat(1, n, 1), weight.repeat(n), bias.repeat(n)


class MaskTransformer(nn.Module):
    """Patches and class tokens pass through a transformer; a mask is the cosine of a patch and a class token.

    ``class_norm`` says how masks become logits:

    - ``layernorm`` (the original): all tokens attend to each other, and the cosines of a patch are normalised over the
      classes, so a logit is at most sqrt(K - 1) times its weight, and every new class moves the logits of all others.
    - ``none``: a learned scale and a bias per class. For the logits of old classes to stay what they were, attention
      must not carry new classes to them either: patches and the tokens of step 0 attend to each other, tokens of
      later steps attend to these and are attended by none.
    """

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        *,
        hidden_dim: int = 256,
        n_heads: int = 8,
        dim_feedforward: int = 2048,
        n_layers: int = 2,
        class_norm: str = "layernorm",
        background_share: bool = True,
        compat_mean_bias: bool = False,
    ) -> None:
        """Builds it without a class; :meth:`grow` adds them.

        Args:
            in_channels: channels of the feature map.
            grid: (h, w) of the feature map of a training crop, the size of the positional map.
            hidden_dim: C, a multiple of ``n_heads``.
            n_heads: attention heads of a block.
            dim_feedforward: hidden units of a block's feed-forward network.
            n_layers: transformer blocks.
            class_norm: one of ``CLASS_NORMS``.
            background_share: the ``background`` start divides the background's probability; see :meth:`grow`.
            compat_mean_bias: the original's ``mean`` start, whose new biases are the mean of the old *weights*.

        Raises:
            ValueError: for a value outside these rules.
        """
        super().__init__()
        if hidden_dim % n_heads:
            raise ValueError(f"hidden_dim ({hidden_dim}) must be divisible by n_heads ({n_heads})")
        if class_norm not in CLASS_NORMS:
            raise ValueError(f"class_norm ({class_norm}) must be one of {CLASS_NORMS}")
        self.layernorm = class_norm == "layernorm"
        if compat_mean_bias and not self.layernorm:
            raise ValueError(f"compat_mean_bias needs class_norm=layernorm, not {class_norm}: it copies its weights")
        self.embed = nn.Conv2d(in_channels, hidden_dim, kernel_size=1)
        self.positions = nn.Parameter(torch.randn(1, hidden_dim, *grid))
        self.blocks = nn.ModuleList(Block(hidden_dim, n_heads, dim_feedforward) for _ in range(n_layers))
        self.norm = nn.LayerNorm(hidden_dim)
        self.patch_projection = nn.Parameter(torch.randn(hidden_dim, hidden_dim) * hidden_dim**-0.5)
        self.class_projection = nn.Parameter(torch.randn(hidden_dim, hidden_dim) * hidden_dim**-0.5)
        if not self.layernorm:
            # Cosines of random directions have a standard deviation of 1/sqrt(C): logits start with one of 1.
            self.scale = nn.Parameter(torch.tensor(math.sqrt(hidden_dim)))
        self.classes = ClassTokens(
            hidden_dim,
            weighted=self.layernorm,
            background_share=background_share,
            compat_mean_bias=compat_mean_bias,
        )
        self.apply(_initialise)

    @property
    def n_classes(self) -> int:
        return self.classes.n_classes

    def grow(self, n_new: int, init: str) -> None:
        """Appends the tokens of ``n_new`` classes (and of the background, in the first call, which always draws).

        ``random``: truncated normal tokens, weight 1, bias 0. ``mean``: the mean of all tokens, weights and biases.
        ``background``: a copy of the background's entries; with ``background_share`` the biases of background and new
        classes are then lowered by log(n_new + 1), so that they share what the old background had, as in MiB
        (Cermelli et al. 2020, section 3.3). All else that exists stays as it is.

        Args:
            n_new: 0 in a later call: nothing grows.
            init: one of ``TOKEN_INITS``.

        Raises:
            ValueError: for an unknown ``init`` or too few classes.
        """
        least = 1 if self.n_classes == 0 else 0
        if n_new < least:
            raise ValueError(f"n_new ({n_new}) must be at least {least}")
        if init not in TOKEN_INITS:
            raise ValueError(f"init ({init}) must be one of {TOKEN_INITS}")
        if n_new > 0:
            self.classes.grow(n_new, init)

    def forward(self, features: Tensor) -> MaskOutput:
        """(B, in_channels, h, w) -> masks of all classes; any h and w."""
        size = features.shape[-2:]
        n_patches = size.numel()
        embedded = self.embed(features) + self._positions(size)
        groups = self._groups(embedded.flatten(2).transpose(1, 2))
        for block in self.blocks:
            groups = block(groups)
        groups = [self.norm(x_BTC) for x_BTC in groups]
        patches_BNC, classes = groups[0][:, :n_patches], [groups[0][:, n_patches:], *groups[1:]]
        cosines_BNK = self._cosines(patches_BNC, classes)
        logits_BNK = self._logits(cosines_BNK)
        return MaskOutput(
            logits=_as_map(logits_BNK, size),
            cosines=_as_map(cosines_BNK, size),
            patch_features=_as_map(patches_BNC, size),
        )

    def _positions(self, size: torch.Size) -> Tensor:
        if self.positions.shape[-2:] == size:
            return self.positions
        return functional.interpolate(self.positions, size=size, mode="bicubic", align_corners=False)

    def _groups(self, patches_BNC: Tensor) -> list[Tensor]:
        """What attends to each other, followed by what only looks on (the later steps, for ``class_norm=none``)."""
        tokens = [token.expand(len(patches_BNC), -1, -1) for token in self.classes.tokens]
        if self.layernorm:
            return [torch.cat([patches_BNC, *tokens], dim=1)]
        return [torch.cat([patches_BNC, tokens[0]], dim=1), *tokens[1:]]

    def _cosines(self, patches_BNC: Tensor, classes: list[Tensor]) -> Tensor:
        """(B, N, K), in full precision: classes that start equal differ by less than bfloat16 resolves."""
        device = "cpu" if patches_BNC.is_meta else patches_BNC.device.type  # autocast knows none without numbers
        with torch.autocast(device, enabled=False):
            patches_BNC = _directions(patches_BNC, self.patch_projection)
            # One product per group: the result for a class must not depend on how many classes follow.
            return torch.cat(
                [patches_BNC @ _directions(x_BKC, self.class_projection).transpose(1, 2) for x_BKC in classes], dim=-1
            )

    def _logits(self, cosines_BNK: Tensor) -> Tensor:
        if self.layernorm:
            return functional.layer_norm(cosines_BNK, (self.n_classes,), self.classes.weight(), self.classes.bias())
        return self.scale * cosines_BNK + self.classes.bias()


def _directions(x_BTC: Tensor, projection: Tensor) -> Tensor:
    return functional.normalize(x_BTC.to(projection.dtype) @ projection, dim=-1)


def _as_map(x_BNC: Tensor, size: torch.Size) -> Tensor:
    return x_BNC.transpose(1, 2).unflatten(2, size)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
