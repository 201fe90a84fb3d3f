"""The model of train.py in plain PyTorch, as formulas over its named weights: no fused operators, no autocast, no modules."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor


class PlainGPT:
    """The loss of train.py's model from its weights. An edit of train.py is the override of a method here."""

    def __init__(self, train: ModuleType, weights: dict[str, Tensor]) -> None:
        self.train, self.weights = train, weights

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(ids).flatten(0, 1), targets.flatten())

    def logits(self, ids: Tensor) -> Tensor:
        x = x0 = self.embed(ids)
        for layer in range(self.train.DEPTH):
            x = self.weights["resid_lambdas"][layer] * x + self.weights["x0_lambdas"][layer] * x0
            x = self.block(x, layer, ids)
        logits = self.final_norm(x) @ self.head().T
        return self.train.SOFTCAP * torch.tanh(logits / self.train.SOFTCAP)

    def embed(self, ids: Tensor) -> Tensor:
        x = self.weights["embedding.weight"][ids]
        if self.train.BIGRAM_BUCKETS:
            x = x + self.weights["bigram_embedding.weight"][self.train.hashed_bigrams(ids)]
        return self.norm(x)

    def head(self) -> Tensor:
        return self.weights["lm_head.weight"]

    def norm(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

    def final_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def block(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), layer, ids)
        return x + self.mlp(self.norm(x), layer)

    def mlp(self, x: Tensor, layer: int) -> Tensor:
        return self.linear(self.linear(x, layer, "mlp.up").clamp_min(0).square(), layer, "mlp.down")

    def linear(self, x: Tensor, layer: int, name: str) -> Tensor:
        return x @ self.weights[f"blocks.{layer}.{name}.weight"].T

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.train.HEAD_DIM))

    def attention(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        q, k = (self.position(self.heads(self.linear(x, layer, f"attention.{name}"))) for name in "qk")
        q, k = self.scale_qk(self.qk_norm(q), self.qk_norm(k), layer)
        v = self.value(x, layer, ids)
        k, v = (each.repeat_interleave(q.size(2) // each.size(2), dim=2) for each in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / self.train.HEAD_DIM**0.5
        distance = torch.arange(x.size(1))[:, None] - torch.arange(x.size(1))
        visible = ((distance >= 0) & (distance < self.train.attention_window(layer))).to(x.device)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        return self.linear(torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2), layer, "attention.out")

    def position(self, x: Tensor) -> Tensor:
        """Rotary embedding of x (B, T, H, D): each pair of channels is a complex number, multiplied by a phase."""
        half = x.size(-1) // 2
        theta = self.train.ROPE_BASE ** (-torch.arange(half, device=x.device) / half)
        phase = torch.arange(x.size(1), device=x.device)[:, None, None] * theta
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(phase), -phase)
        return torch.cat([turned.real, turned.imag], dim=-1)

    def qk_norm(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def scale_qk(self, q: Tensor, k: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return q, k

    def value(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        v = self.heads(self.linear(x, layer, "attention.v"))
        if not self.train.has_value_embedding(layer):
            return v
        gate = 2 * torch.sigmoid(self.linear(x[..., : self.train.VALUE_GATE_CHANNELS], layer, "attention.gate"))
        return v + gate[..., None] * self.value_embedding(layer, ids).view(v.shape)

    def value_embedding(self, layer: int, ids: Tensor) -> Tensor:
        return self.weights[f"value_embeddings.{layer}.weight"][ids]
