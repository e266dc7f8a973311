"""Published models of this field in PyTorch, defined here from their description.

HPA DenseNet121 with its head and its inner normalisation; vision transformers with class token,
registers, layer scale, SwiGLU and PyTorch's own resizing of positions; SubCell's pooling and
classifier on one.  Names are torchvision's and timm's.
"""

import math

import torch
import torchvision
from torch import nn
from torch.nn import functional

MEAN = (0.074598, 0.050630, 0.050891, 0.076287)
DEVIATION = (0.122813, 0.085745, 0.129882, 0.119411)


class HPADenseNet(nn.Module):
    """bestfitting's network on images in [0, 1]: (logits, the feature after bn2)."""

    def __init__(self, growth: int, blocks: tuple[int, ...], initial: int, large: bool) -> None:
        super().__init__()
        self.large = large
        body = torchvision.models.DenseNet(growth, blocks, initial, num_classes=7)
        self.features = body.features
        self.features.conv0 = nn.Conv2d(4, initial, 7, 2, 3, bias=False)
        width = body.classifier.in_features
        self.bn1, self.fc1 = nn.BatchNorm1d(2 * width), nn.Linear(2 * width, width)
        self.bn2, self.logit = nn.BatchNorm1d(width), nn.Linear(width, 28)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and feature of images [N, 4, H, W]."""
        x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]
        for name, module in self.features.named_children():
            x = module(x)
            if name == "pool0" and self.large:
                x = functional.max_pool2d(x, 2, 2)
        x = torch.relu(x)
        x = self.bn1(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
        x = self.bn2(torch.relu(self.fc1(x)))
        return self.logit(x), x


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, f = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, f // 64, 64).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 8).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, f))


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class _SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(functional.silu(a) * b)


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class _Block(nn.Module):
    def __init__(self, width: int, eps: float, scale: bool, swiglu: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn, self.mlp = _Attention(width), (_SwiGLU if swiglu else _MLP)(width)
        self.ls1, self.ls2 = (_Scale(width) if scale else nn.Identity() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Patches(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)


class ViT(nn.Module):
    """(logits of the class token, or None; all tokens after the last norm)."""

    def __init__(
        self, width: int, depth: int, patch: int, grid: int, channels: int, *, rule: str = "size",
        registers: int = 0, scale: bool = False, swiglu: bool = False, eps: float = 1e-6,
        classes: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, self.grid, self.rule = patch, grid, rule
        self.patch_embed = _Patches(channels, width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        if registers:
            self.reg_token = nn.Parameter(torch.zeros(1, registers, width))
        self.registers = registers
        self.blocks = nn.ModuleList(_Block(width, eps, scale, swiglu) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps)
        if classes:
            self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Of images [N, K, H, W]."""
        x = self.patch_embed.proj(x)
        rows, columns = x.shape[2:]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        x = x + self._positions(rows, columns)
        if self.registers:
            x = torch.cat([x[:, :1], self.reg_token.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0]) if hasattr(self, "head") else None, x

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        if rows == columns == self.grid:
            return self.pos_embed
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        rest = rest.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        if self.rule == "offset":
            side = math.sqrt(self.grid**2)
            factors = ((rows + 0.1) / side, (columns + 0.1) / side)
            rest = functional.interpolate(rest, scale_factor=factors, mode="bicubic")
        else:
            averaged = self.rule == "antialias"
            rest = functional.interpolate(
                rest, size=(rows, columns), mode="bicubic", antialias=averaged
            )
        assert rest.shape[2:] == (rows, columns)
        return torch.cat([first, rest.permute(0, 2, 3, 1).flatten(1, 2)], 1)


class PerChannel(ViT):
    """A transformer of one channel on each channel; their tokens concatenated."""

    def forward(self, x: torch.Tensor) -> tuple[None, torch.Tensor]:
        """Of images [N, K, H, W]."""
        planes = x.split(1, dim=1)
        return None, torch.cat([super(PerChannel, self).forward(each)[1] for each in planes], dim=2)


class SubCell(nn.Module):
    """(logits, embedding) with a transformer of SubCell's form inside."""

    def __init__(self, body: ViT, width: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.attention_v, self.attention_u = nn.Linear(width, 512), nn.Linear(width, 512)
        self.attention = nn.Linear(512, 2)
        self.fc1, self.fc2 = nn.Linear(2 * width, 512), nn.Linear(512, 256)
        self.fc = nn.Linear(256, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of images [N, K, H, W]."""
        tokens = self.body(x)[1]
        gate = torch.tanh(self.attention_v(tokens)) * functional.gelu(self.attention_u(tokens))
        weights = self.attention(gate).transpose(1, 2).softmax(-1)
        pooled = (weights @ tokens).flatten(1)
        y = torch.relu(self.fc2(torch.relu(self.fc1(pooled))))
        return self.fc(y), pooled
