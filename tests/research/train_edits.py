"""Edits that researchers really make of train.py, written as for plain PyTorch, and what each means in formulas."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.research.plain_gpt import PlainGPT


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An edit of train.py, and the plain model with the same edit."""

    name: str
    changes: tuple[tuple[str, str], ...]
    """Text of train.py, and what replaces it."""
    plain: type[PlainGPT]
    constants: tuple[tuple[str, int], ...] = ()


MLP_INIT = """\
        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.down = nn.Linear(MLP_RATIO * width, width, bias=False)
"""
MLP_FORWARD = "        return relu2_mlp(x, self.up.weight, self.down.weight)  # self.down(F.relu(self.up(x)).square())\n"
ATTENTION_RESIDUAL = "        x = x + self.attention(norm(x), value_embedding, cos, sin)\n"
MLP_RESIDUAL = "        x = x + self.mlp(norm(x))\n"
QK = "        q, k = qk_proj_rope_norm(x, self.q.weight, self.k.weight, cos, sin)\n"
PROJECTIONS = """\
        q = self.q(x).unflatten(-1, (-1, HEAD_DIM))
        k = self.k(x).unflatten(-1, (-1, HEAD_DIM))
"""
ROTARY_IMPORT = (
    "from research.kernels.fused import qk_proj_rope_norm,",
    "from research.kernels.fused import apply_rotary_emb, qk_proj_rope_norm,",
)


class SwiGLU(PlainGPT):
    def mlp(self, x: Tensor, layer: int) -> Tensor:
        gate = self.linear(x, layer, "mlp.gate")
        return self.linear(gate * torch.sigmoid(gate) * self.linear(x, layer, "mlp.up"), layer, "mlp.down")


class GELU(PlainGPT):
    def mlp(self, x: Tensor, layer: int) -> Tensor:
        h = self.linear(x, layer, "mlp.up")
        return self.linear(h * 0.5 * (1 + torch.erf(h / 2**0.5)), layer, "mlp.down")


class Parallel(PlainGPT):
    def block(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.attention(y, layer, ids) + self.mlp(y, layer)


class NoQKNorm(PlainGPT):
    def qk_norm(self, x: Tensor) -> Tensor:
        return x


class LayerNorms(PlainGPT):
    def block(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        x = x + self.attention(self.layer_norm(x, layer, "attention_norm"), layer, ids)
        return x + self.mlp(self.layer_norm(x, layer, "mlp_norm"), layer)

    def layer_norm(self, x: Tensor, layer: int, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.weights[f"blocks.{layer}.{name}.weight"] + self.weights[f"blocks.{layer}.{name}.bias"]


class TiedEmbeddings(PlainGPT):
    def head(self) -> Tensor:
        return self.weights["embedding.weight"]


class Dropout(PlainGPT):
    def attention(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        return F.dropout(super().attention(x, layer, ids), 0.1)

    def mlp(self, x: Tensor, layer: int) -> Tensor:
        return F.dropout(super().mlp(x, layer), 0.1)


class LearnedPositions(PlainGPT):
    def embed(self, ids: Tensor) -> Tensor:
        x = self.weights["embedding.weight"][ids] + self.weights["bigram_embedding.weight"][self.train.hashed_bigrams(ids)]
        return self.norm(x + self.weights["positions.weight"][: ids.size(1)])

    def position(self, x: Tensor) -> Tensor:
        return x


class Temperature(PlainGPT):
    def scale_qk(self, q: Tensor, k: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return q * self.weights[f"blocks.{layer}.attention.temperature"][:, None], k


class PostNorm(PlainGPT):
    def block(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        x = self.norm(x + self.attention(x, layer, ids))
        return self.norm(x + self.mlp(x, layer))


class MixtureOfExperts(PlainGPT):
    def mlp(self, x: Tensor, layer: int) -> Tensor:
        shares = self.linear(x, layer, "mlp.router").softmax(-1)
        experts = [
            self.linear(self.linear(x, layer, f"mlp.ups.{i}").clamp_min(0).square(), layer, f"mlp.downs.{i}") for i in range(3)
        ]
        return sum((shares[..., i, None] * expert for i, expert in enumerate(experts)), torch.zeros_like(x))


class SandwichNorm(PlainGPT):
    def block(self, x: Tensor, layer: int, ids: Tensor) -> Tensor:
        x = x + self.norm(self.attention(self.norm(x), layer, ids))
        return x + self.norm(self.mlp(self.norm(x), layer))


class NoSoftcap(PlainGPT):
    def logits(self, ids: Tensor) -> Tensor:
        capped = super().logits(ids) / self.train.SOFTCAP
        return self.train.SOFTCAP * torch.atanh(capped)


EDITS = (
    Edit(name="none", changes=(), plain=PlainGPT),
    Edit(
        name="SwiGLU",
        changes=(
            (MLP_INIT, MLP_INIT + "        self.gate = nn.Linear(width, MLP_RATIO * width, bias=False)\n"),
            (MLP_FORWARD, "        return self.down(F.silu(self.gate(x)) * self.up(x))\n"),
        ),
        plain=SwiGLU,
    ),
    Edit(name="GELU", changes=((MLP_FORWARD, "        return self.down(F.gelu(self.up(x)))\n"),), plain=GELU),
    Edit(
        name="attention and MLP in parallel",
        changes=(
            (ATTENTION_RESIDUAL, "        y = norm(x)\n"),
            (MLP_RESIDUAL, "        x = x + self.attention(y, value_embedding, cos, sin) + self.mlp(y)\n"),
        ),
        plain=Parallel,
    ),
    Edit(
        name="no QK norm",
        changes=(
            ROTARY_IMPORT,
            (QK, PROJECTIONS + "        q, k = apply_rotary_emb(q, cos, sin), apply_rotary_emb(k, cos, sin)\n"),
        ),
        plain=NoQKNorm,
    ),
    Edit(
        name="LayerNorm with weights",
        changes=(
            (
                "        self.mlp = MLP(width)\n",
                "        self.mlp = MLP(width)\n        self.attention_norm = nn.LayerNorm(width)\n"
                "        self.mlp_norm = nn.LayerNorm(width)\n",
            ),
            (ATTENTION_RESIDUAL, ATTENTION_RESIDUAL.replace("norm(x)", "self.attention_norm(x)")),
            (MLP_RESIDUAL, MLP_RESIDUAL.replace("norm(x)", "self.mlp_norm(x)")),
        ),
        plain=LayerNorms,
    ),
    Edit(
        name="tied embeddings",
        changes=(
            (
                "        self.lm_head = nn.Linear(width, VOCAB_SIZE, bias=False)\n",
                "        self.lm_head = nn.Linear(width, VOCAB_SIZE, bias=False)\n"
                "        self.lm_head.weight = self.embedding.weight\n",
            ),
            ('{"params": [model.lm_head.weight],', '{"params": [],'),
        ),
        plain=TiedEmbeddings,
    ),
    Edit(
        name="grouped KV heads",
        changes=(
            ("self.k = nn.Linear(width, width, bias=False)", "self.k = nn.Linear(width, width // 2, bias=False)"),
            ("self.v = nn.Linear(width, width, bias=False)", "self.v = nn.Linear(width, width // 2, bias=False)"),
            (
                "nn.Linear(VALUE_GATE_CHANNELS, self.num_heads, bias=False)",
                "nn.Linear(VALUE_GATE_CHANNELS, self.num_heads // 2, bias=False)",
            ),
            (
                "{str(layer): nn.Embedding(VOCAB_SIZE, width) for layer",
                "{str(layer): nn.Embedding(VOCAB_SIZE, width // 2) for layer",
            ),
        ),
        plain=PlainGPT,
    ),
    Edit(
        name="dropout",
        changes=(
            (
                ATTENTION_RESIDUAL,
                "        y = self.attention(norm(x), value_embedding, cos, sin)\n"
                "        x = x + F.dropout(y, 0.1, self.training)\n",
            ),
            (MLP_RESIDUAL, "        x = x + F.dropout(self.mlp(norm(x)), 0.1, self.training)\n"),
        ),
        plain=Dropout,
    ),
    Edit(
        name="learned positions instead of rotary embeddings",
        changes=(
            (QK, PROJECTIONS + "        q, k = norm(q), norm(k)\n"),
            (
                "        self.embedding = nn.Embedding(VOCAB_SIZE, width)\n",
                "        self.embedding = nn.Embedding(VOCAB_SIZE, width)\n"
                "        self.positions = nn.Embedding(MAX_SEQ_LEN, width)\n",
            ),
            (
                "            x = x0 = norm(x)\n",
                "            x = x0 = norm(x + self.positions.weight[: ids.size(1)])\n",
            ),
            (
                '            {"params": [e.weight for e in embeddings], "lr"',
                '            {"params": [*(e.weight for e in embeddings), model.positions.weight], "lr"',
            ),
        ),
        plain=LearnedPositions,
    ),
    Edit(
        name="a learned temperature on QK",
        changes=(
            (
                "        self.q = nn.Linear(width, width, bias=False)\n",
                "        self.q = nn.Linear(width, width, bias=False)\n"
                "        self.temperature = nn.Parameter(torch.ones(self.num_heads))\n",
            ),
            (QK, QK + "        q = q * self.temperature.to(q.dtype)[:, None]\n"),
        ),
        plain=Temperature,
    ),
    Edit(
        name="post-norm",
        changes=(
            (ATTENTION_RESIDUAL, "        x = norm(x + self.attention(x, value_embedding, cos, sin))\n"),
            (MLP_RESIDUAL, "        x = norm(x + self.mlp(x))\n"),
        ),
        plain=PostNorm,
    ),
    Edit(
        name="a mixture of experts instead of the MLP",
        changes=(
            (
                MLP_INIT,
                "        self.router = nn.Linear(width, 3, bias=False)\n"
                "        self.ups = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(3))\n"
                "        self.downs = nn.ModuleList(nn.Linear(2 * width, width, bias=False) for _ in range(3))\n",
            ),
            (
                MLP_FORWARD,
                "        shares = self.router(x).softmax(-1)\n"
                "        experts = [down(F.relu(up(x)).square()) for up, down in zip(self.ups, self.downs)]\n"
                "        return sum(shares[..., i, None] * expert for i, expert in enumerate(experts))\n",
            ),
            (
                "            for linear in (attention.q, attention.k, attention.v, mlp.up):\n",
                "            for linear in (attention.q, attention.k, attention.v, mlp.router, *mlp.ups):\n",
            ),
            (
                "            for linear in (attention.out, mlp.down, attention.gate):\n",
                "            for linear in (attention.out, *mlp.downs, attention.gate):\n",
            ),
        ),
        plain=MixtureOfExperts,
    ),
    Edit(
        name="norms before and after",
        changes=(
            (ATTENTION_RESIDUAL, "        x = x + norm(self.attention(norm(x), value_embedding, cos, sin))\n"),
            (MLP_RESIDUAL, "        x = x + norm(self.mlp(norm(x)))\n"),
        ),
        plain=SandwichNorm,
    ),
    Edit(
        name="no softcap",
        changes=(
            (
                "                return softcapped_cross_entropy(x, self.lm_head.weight, targets, SOFTCAP)\n",
                "                return F.cross_entropy(self.lm_head(x).float().flatten(0, 1), targets.flatten())\n",
            ),
            ("            return SOFTCAP * torch.tanh(logits / SOFTCAP)\n", "            return logits\n"),
        ),
        plain=NoSoftcap,
    ),
)


def edited(train_py: str, edit: Edit) -> str:
    """train.py with an edit; every text that it replaces must be there exactly once."""
    for old, new in edit.changes:
        assert train_py.count(old) == 1, f"train.py has this {train_py.count(old)} times, not once: {old}"
        train_py = train_py.replace(old, new)
    return train_py
