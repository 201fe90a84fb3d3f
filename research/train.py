"""The file that researchers edit: model, optimizer, hyperparameters, training loop. All of it is fair game.

The judge needs two functions. `build_model()` returns the module whose forward(ids) gives logits over the whole vocabulary;
fresh processes call it to score what training handed over. `train(session)` trains one for the time budget. Run it with

    uv run research/train.py > run.log 2>&1
"""

if __name__ == "__main__":  # by hand: the judge takes over, and loads this file in processes of its own
    from research.run import run_train_py

    raise SystemExit(run_train_py(__file__))

import gc
import math
from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from research.kernels.attention import causal_attention, kernel_name
from research.kernels.fused import added_product, normed_relu_squared_mlp, rotary_norm_product, softcapped_cross_entropy
from research.profiles import active_contract
from research.session import Session

CONTRACT = active_contract()
MAX_SEQ_LEN = CONTRACT.MAX_SEQ_LEN
VOCAB_SIZE = CONTRACT.VOCAB_SIZE

# ----------------------------------------------------------------------------------------------------------------------
# Hyperparameters: literal constants, edit them directly
# ----------------------------------------------------------------------------------------------------------------------

PROFILE = "standard"           # the profile whose starting hyperparameters these are

# Model
DEPTH = 9                      # layers; width, heads and parameters follow from it
ASPECT_RATIO = 64              # width = DEPTH * ASPECT_RATIO, rounded up to whole heads
HEAD_DIM = 128                 # width of an attention head
MLP_RATIO = 4                  # hidden width of the MLP, in widths
WINDOW_PATTERN = "SSSSL"       # attention windows, repeated over the layers: L = full, S = short; the last layer is always L
SHORT_WINDOW_RATIO = 0.125     # short window, in sequence lengths
ROPE_BASE = 200_000            # longest rotary wavelength, in tokens over 2 pi
SOFTCAP = 15.0                 # logits are squashed to +-SOFTCAP
VALUE_GATE_CHANNELS = 32       # channels of the input that gate the value embeddings
BIGRAM_BUCKETS = 0             # rows of a second table of embeddings, for hashed pairs of tokens; 0: none

# Initialisation
INIT_SCALE = 0.68              # of the matrices, relative to 1 / sqrt(width)
EMBEDDING_STD = 1.0
UNEMBEDDING_STD = 0.001
X0_LAMBDA = 0.05               # weight of the embeddings that every layer sees again

# Optimization
TOTAL_BATCH_SIZE = 2**18       # tokens per optimizer step
DEVICE_BATCH_SIZE = 128        # rows per forward and backward pass: lower it when memory runs out
MATRIX_LR = 0.04               # Muon, for matrices
EMBEDDING_LR = 0.9             # Adam, for all embeddings
UNEMBEDDING_LR = 0.005         # Adam, for the output layer
SCALAR_LR = 0.5                # Adam, for the per-layer scalars
ADAM_BETAS = (0.8, 0.95)
X0_BETAS = (0.96, 0.95)
MUON_MOMENTUM = 0.95
MUON_MOMENTUM_START = 0.85
MUON_WARMUP_STEPS = 200        # steps from the first momentum to the second
MUON_BETA2 = 0.95              # of NorMuon's variance per neuron
WEIGHT_DECAY = 0.2             # of the matrices, cautious; falls to 0 over the budget
EMBEDDING_DECAY = 0.001        # decay of the embeddings of tokens and pairs, as Adam's rates fall
VALUE_EMBEDDING_DECAY = 0.003  # of the value embeddings
UNEMBEDDING_DECAY = 0.01       # of the output layer

# Schedule, over progress through the time budget
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.75
FINAL_LR_FRAC = 0.05           # learning rate at the end, relative to the peak

# ----------------------------------------------------------------------------------------------------------------------
# Model
# ----------------------------------------------------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def hashed_pairs(ids: Tensor) -> Tensor:
    """A bucket for each token together with the one before it: what n-gram counts know need not be learned by layers.

    An idea of the modded-nanogpt speedruns; hash embeddings are those of Svenstrup et al., 2017 (arXiv:1709.03933).
    """
    before = F.pad(ids[:, :-1], (1, 0))
    return (36_313 * ids ^ 27_191 * before) % BIGRAM_BUCKETS


def has_value_embedding(layer: int) -> bool:
    """Alternate layers, the last always among them."""
    return (DEPTH - 1 - layer) % 2 == 0


def window_of(layer: int) -> int:
    """Tokens that a layer's attention reaches back."""
    short = WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "S" and layer < DEPTH - 1
    return int(MAX_SEQ_LEN * SHORT_WINDOW_RATIO) if short else MAX_SEQ_LEN


class Attention(nn.Module):
    """Causal self-attention with rotary positions, QK norm, and value embeddings mixed in through a gate per head.

    Returns what the heads gather; the layer multiplies it by `out` where it adds it to the stream.
    """

    def __init__(self, width: int, layer: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.window = window_of(layer)
        self.qkv = nn.Parameter(torch.empty(3, width, width))  # of queries, keys, values
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(VALUE_GATE_CHANNELS, self.heads, bias=False) if has_value_embedding(layer) else None

    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        q, k = rotary_norm_product(x, self.qkv[:2], cos, sin)  # norm(rotate(x @ matrix.T)) of both, in one pass over memory
        v = F.linear(x, self.qkv[2]).view(*x.shape[:-1], self.heads, HEAD_DIM)
        if self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., :VALUE_GATE_CHANNELS]))
            v = v + gate.unsqueeze(-1) * value_embedding.view(v.shape)
        return causal_attention(q, k, v, window=self.window).flatten(2)


class MLP(nn.Module):
    """Two matrices with a squared ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.down = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: Tensor, scale: Tensor | None, keep: Tensor | float) -> Tensor:
        # down(relu(up(norm(x))) ** 2), in one pass over memory; norm is RMS norm, whatever norm() above is
        return normed_relu_squared_mlp(x, scale, self.up.weight, keep * self.down.weight)  # keep: free as its factor


class Block(nn.Module):
    """A layer: attention and MLP on the residual stream."""

    def __init__(self, width: int, layer: int) -> None:
        super().__init__()
        self.attention = Attention(width, layer)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor,
                keep: Tensor | float = 1.0) -> Tensor:  # fmt: skip
        attended = self.attention(norm(x), value_embedding, cos, sin)
        # x + out(attended); scale norms this x and no other: if the MLP is to get another, pass None, and it norms by itself
        x, scale = added_product(x, attended, self.attention.out.weight)
        return keep * x + self.mlp(x, scale, keep)  # keep * (x + mlp(norm(x))), with fewer passes over memory


class Unembedding(nn.Module):
    """The output layer: logits (B, T, VOCAB_SIZE) under a soft cap, or with targets their mean cross-entropy in nats."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(VOCAB_SIZE, width))

    def forward(self, x: Tensor, targets: Tensor | None) -> Tensor:
        x = norm(x)
        if targets is not None:  # the same as below and F.cross_entropy, without storing the logits in float32
            return softcapped_cross_entropy(x, self.weight, targets, SOFTCAP)
        logits = F.linear(x, self.weight).float()
        logits = SOFTCAP * torch.tanh(logits / SOFTCAP)
        return logits


class GPT(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, width)
        self.bigrams = nn.Embedding(BIGRAM_BUCKETS, width) if BIGRAM_BUCKETS else None
        self.value_embeddings = nn.ModuleDict(
            {str(layer): nn.Embedding(VOCAB_SIZE, width) for layer in range(DEPTH) if has_value_embedding(layer)}
        )
        self.blocks = nn.ModuleList([Block(width, layer) for layer in range(DEPTH)])
        self.residual_lambdas = nn.ParameterList(torch.empty(()) for _ in range(DEPTH))  # what a layer keeps of the stream
        self.x0_lambdas = nn.ParameterList(torch.empty(()) for _ in range(DEPTH))  # the weight of x0, which it sees again
        self.unembedding = Unembedding(width)
        frequencies = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(MAX_SEQ_LEN), frequencies)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        bound = INIT_SCALE * math.sqrt(3 / self.embedding.embedding_dim)
        self.embedding.weight.normal_(std=EMBEDDING_STD)
        self.unembedding.weight.normal_(std=UNEMBEDDING_STD)
        if self.bigrams is not None:
            self.bigrams.weight.zero_()
        for table in self.value_embeddings.values():
            table.weight.uniform_(-bound, bound)
        for block in self.blocks:
            attention, mlp = block.attention, block.mlp
            attention.qkv.uniform_(-bound, bound)
            mlp.up.weight.uniform_(-bound, bound)
            for matrix in (attention.out, mlp.down, attention.gate):  # every block starts as the identity, every gate at 1
                if matrix is not None:
                    matrix.weight.zero_()
        for scalar in self.residual_lambdas:
            scalar.fill_(1.0)
        for scalar in self.x0_lambdas:
            scalar.fill_(X0_LAMBDA)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, VOCAB_SIZE) of ids (B, T); with targets (B, T), their mean cross-entropy in nats instead."""
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=ids.is_cuda):
            cos, sin = self.cos[: ids.size(1)], self.sin[: ids.size(1)]
            x = self.embedding(ids)
            if self.bigrams is not None:
                x = x + self.bigrams(hashed_pairs(ids))
            x = x0 = norm(x)
            if ids.is_cuda:
                x, x0, cos, sin = x.bfloat16(), x0.bfloat16(), cos.bfloat16(), sin.bfloat16()
            x = self.residual_lambdas[0] * x + self.x0_lambdas[0] * x0
            for layer, block in enumerate(self.blocks):
                table = self.value_embeddings[str(layer)](ids) if has_value_embedding(layer) else None
                if layer < DEPTH - 1:
                    x = block(x, table, cos, sin, self.residual_lambdas[layer + 1]) + self.x0_lambdas[layer + 1] * x0
                else:
                    x = block(x, table, cos, sin)
            return self.unembedding(x, targets)

    def matrices(self) -> list[nn.Parameter]:
        """The weights of all layers but their scalars."""
        return [p for p in self.blocks.parameters() if p.ndim > 1]

    def flops_per_token(self) -> float:
        """Of a forward and a backward pass: 6 for each weight of a matrix, 12 for each channel and token attended to."""
        weights = sum(p.numel() for p in self.matrices()) + self.unembedding.weight.numel()
        width = self.embedding.embedding_dim
        return 6.0 * weights + sum(12.0 * width * block.attention.window for block in self.blocks)


def build_model() -> GPT:
    width = math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # the CPU takes a second for it
        model = GPT(width)
    if torch.cuda.is_available():
        model.embedding.bfloat16()
        if model.bigrams is not None:
            model.bigrams.bfloat16()
        model.value_embeddings.bfloat16()
    return model


# ----------------------------------------------------------------------------------------------------------------------
# Optimizers: Muon for the matrices of the blocks, Adam for the rest
# ----------------------------------------------------------------------------------------------------------------------

# Polar Express: the best odd polynomials of degree 5, one a step (Amsel et al., 2025, arXiv:2505.16932)
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalised(g: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to g (n, rows, columns), approximately."""
    x = g.bfloat16() if g.is_cuda else g
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b * gram + c * gram @ gram
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a * x + polynomial @ x; no kernels to compile, unlike the sums
    return x.mT if tall else x


def muon_update(weights: Tensor, grads: Tensor, velocity: Tensor, variance: Tensor, lr: Tensor, momentum: Tensor,
                decay: Tensor) -> None:  # fmt: skip
    """One step of Muon for matrices of one shape, all (n, rows, columns); changes weights, velocity and variance.

    Nesterov momentum, orthogonalised; each neuron's update scaled by its own running variance with the norm kept (NorMuon,
    Li et al., 2025, arXiv:2510.05491); weight decay only where it pulls the way the update goes (cautious, arXiv:2510.12402).
    """
    velocity.lerp_(grads, 1 - momentum)
    update = orthogonalised(grads.lerp(velocity, momentum)).float()
    neurons = -1 if update.size(-2) >= update.size(-1) else -2
    variance.lerp_(update.square().mean(dim=neurons, keepdim=True), 1 - MUON_BETA2)
    scaled = update * variance.clamp_min(1e-10).rsqrt()
    update = scaled * (update.norm(dim=(-2, -1), keepdim=True) / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
    weights.sub_(lr * (update + decay * weights * (update * weights >= 0)))


class Muon:
    """Muon over all matrices, batched by shape; a parameter of three dimensions holds several of them."""

    def __init__(self, matrices: list[nn.Parameter]) -> None:
        shapes = sorted({p.shape[-2:] for p in matrices})
        self.groups = [[p for p in matrices if p.shape[-2:] == shape] for shape in shapes]
        self.update = torch.compile(muon_update, dynamic=False) if matrices[0].is_cuda else muon_update
        self.reset()

    def reset(self) -> None:
        self.states = []
        for group in self.groups:
            velocity = torch.zeros_like(stacked([p.data for p in group]))
            variance = velocity.mean(dim=-1 if velocity.size(-2) >= velocity.size(-1) else -2, keepdim=True)
            self.states.append((velocity, variance))

    @torch.no_grad()
    def step(self, *, lr: float, momentum: float, decay: float) -> None:
        for group, (velocity, variance) in zip(self.groups, self.states, strict=True):
            weights = stacked([p.data for p in group])
            grads = stacked([p.grad for p in group])
            stretch = math.sqrt(max(1.0, weights.size(-2) / weights.size(-1)))
            numbers = (torch.tensor(value) for value in (lr * stretch, momentum, decay))  # tensors: no recompiling
            self.update(weights, grads, velocity, variance, *numbers)
            parts = torch.split(weights, [p.numel() // weights[0].numel() for p in group])
            torch._foreach_copy_([p.data for p in group], [part.view(p.shape) for part, p in zip(parts, group, strict=True)])


def stacked(tensors: list[Tensor]) -> Tensor:
    """Matrices (rows, columns) or (m, rows, columns) of one shape as one tensor (n, rows, columns)."""
    return torch.cat([tensor.view(-1, *tensor.shape[-2:]) for tensor in tensors])


class Optimizer:
    """Muon and Adam together, with their schedules."""

    def __init__(self, model: GPT) -> None:
        scale = math.sqrt(768 / model.embedding.embedding_dim)  # Adam's rates were tuned at a width of 768
        tables = [model.embedding] if model.bigrams is None else [model.embedding, model.bigrams]
        groups = [
            {"params": [table.weight for table in tables], "lr": EMBEDDING_LR * scale, "weight_decay": EMBEDDING_DECAY},
            {"params": list(model.value_embeddings.parameters()), "lr": EMBEDDING_LR * scale,
             "weight_decay": VALUE_EMBEDDING_DECAY},
            {"params": [model.unembedding.weight], "lr": UNEMBEDDING_LR * scale, "weight_decay": UNEMBEDDING_DECAY},
            {"params": list(model.residual_lambdas), "lr": SCALAR_LR * 0.01},
            {"params": list(model.x0_lambdas), "lr": SCALAR_LR, "betas": X0_BETAS},
        ]
        self.adam = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=1e-10, weight_decay=0.0, fused=True)
        self.peak_lrs = [group["lr"] for group in self.adam.param_groups]
        self.muon = Muon(model.matrices())

    def reset(self) -> None:
        self.adam.state.clear()
        self.muon.reset()

    def step(self, step: int, progress: float) -> float:
        """One step; returns the learning-rate multiplier."""
        lrm = lr_multiplier(progress)
        for group, peak in zip(self.adam.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak * lrm
        warm = min(step / MUON_WARMUP_STEPS, 1.0)
        momentum = MUON_MOMENTUM_START + warm * (MUON_MOMENTUM - MUON_MOMENTUM_START)
        self.muon.step(lr=MATRIX_LR * lrm, momentum=momentum, decay=WEIGHT_DECAY * (1 - progress))
        self.adam.step()
        return lrm


def lr_multiplier(progress: float) -> float:
    """Linear up, flat, linear down to FINAL_LR_FRAC, over progress from 0 to 1."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


# ----------------------------------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------------------------------


def micro_batches(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Groups of `count` batches for one optimizer step; a last group that is short is left out."""
    while len(group := list(islice(batches, count))) == count:
        yield group


def train(session: Session) -> None:
    torch.set_float32_matmul_precision("high")
    model = build_model().to(session.device)
    optimizer = Optimizer(model)
    forward = torch.compile(model, dynamic=False) if session.device.type == "cuda" else model
    tokens_per_pass = DEVICE_BATCH_SIZE * MAX_SEQ_LEN
    if TOTAL_BATCH_SIZE % tokens_per_pass:
        raise SystemExit(f"TOTAL_BATCH_SIZE must be a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN = {tokens_per_pass}")
    passes = TOTAL_BATCH_SIZE // tokens_per_pass
    flops = model.flops_per_token()

    def run(batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        for step, group in enumerate(micro_batches(batches, passes)):
            for x, y in group:
                loss = forward(x, y)
                (loss / passes).backward()
            lrm = optimizer.step(step, session.progress)
            model.zero_grad(set_to_none=True)
            session.log(step=step, loss=loss, lrm=lrm, tokens_per_step=TOTAL_BATCH_SIZE, flops_per_token=flops)

    run(session.warmup(DEVICE_BATCH_SIZE, batches=2 * passes))  # compiles, and measures what memory it takes
    session.reseed()
    model.initialise()
    optimizer.reset()
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection would stall the loop

    run(session.batches(DEVICE_BATCH_SIZE))
    kernel = kernel_name(session.device, torch.bfloat16 if session.device.type == "cuda" else torch.float32)
    session.finish(model, depth=DEPTH, kernel=kernel)
