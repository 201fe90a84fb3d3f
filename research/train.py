"""The file that researchers edit: model, optimizer, hyperparameters, training loop. All of it is fair game.

The judge calls two functions. `build_model()` returns the module whose forward(ids) gives logits over the whole vocabulary;
fresh processes call it to score the weights that training submitted. `train(session)` trains for the time budget. Run it with

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
from research.kernels.fused import qk_proj_rope_norm, relu2_mlp, rms_norm, softcapped_cross_entropy
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
MLP_RATIO = 4                  # hidden width of the MLP / width
WINDOW_PATTERN = "SSSSL"       # attention windows, tiled over the layers: L = full, S = short; the last layer is always L
SHORT_WINDOW_RATIO = 0.125     # short window / MAX_SEQ_LEN
ROPE_BASE = 200_000            # RoPE base (theta)
SOFTCAP = 15.0                 # logits become SOFTCAP * tanh(logits / SOFTCAP)
VALUE_GATE_CHANNELS = 32       # input channels that gate the value embeddings
BIGRAM_BUCKETS = 0             # rows of the hashed bigram embedding; 0: no such embedding

# Initialisation
INIT_SCALE = 0.68              # std of the matrices, in units of 1 / sqrt(width)
EMBEDDING_STD = 1.0
UNEMBEDDING_STD = 0.001
X0_LAMBDA = 0.05               # weight of the normed embedding that is added again before each layer

# Optimization
TOTAL_BATCH_SIZE = 2**18       # tokens per optimizer step
DEVICE_BATCH_SIZE = 128        # sequences per micro-batch: lower it on OOM
MATRIX_LR = 0.04               # Muon, matrices
EMBEDDING_LR = 0.9             # Adam, all embeddings
UNEMBEDDING_LR = 0.005         # Adam, lm_head
SCALAR_LR = 0.5                # Adam, per-layer scalars (times 0.01)
X0_LR = 0.05                   # Adam, x0_lambdas; Adam's first step is this large, whatever the gradient
ADAM_BETAS = (0.8, 0.95)
X0_BETAS = (0.96, 0.95)        # Adam, x0_lambdas
MUON_MOMENTUM = 0.95
MUON_MOMENTUM_START = 0.85
MUON_WARMUP_STEPS = 200        # steps of the linear momentum warm-up from MUON_MOMENTUM_START
MUON_BETA2 = 0.95              # decay of NorMuon's second moment
WEIGHT_DECAY = 0.2             # matrices: cautious, falls linearly to 0
EMBEDDING_DECAY = 0.001        # decoupled, token and bigram embeddings (scales with the LR, like the next two)
VALUE_EMBEDDING_DECAY = 0.003  # value embeddings
UNEMBEDDING_DECAY = 0.01       # lm_head

# Learning-rate schedule, in fractions of the time budget
WARMUP_RATIO = 0.0
WARMDOWN_RATIO = 0.75
FINAL_LR_FRAC = 0.05           # final learning rate / peak

# ----------------------------------------------------------------------------------------------------------------------
# Model
# ----------------------------------------------------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    return rms_norm(x)  # F.rms_norm(x, (x.size(-1),))


def hashed_bigrams(ids: Tensor) -> Tensor:
    """The bucket, 0 to BIGRAM_BUCKETS - 1, of each token and its predecessor; ids and result (B, T).

    An idea of the modded-nanogpt speedruns; hash embeddings are those of Svenstrup et al., 2017 (arXiv:1709.03933).
    """
    previous = F.pad(ids[:, :-1], (1, 0))
    return (36_313 * ids ^ 27_191 * previous) % BIGRAM_BUCKETS


def has_value_embedding(layer: int) -> bool:
    """Whether a layer has a value embedding: every second one does, the last among them."""
    return (DEPTH - 1 - layer) % 2 == 0


def attention_window(layer: int) -> int:
    """The attention window of a layer, in tokens."""
    is_short = WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "S" and layer < DEPTH - 1
    return int(MAX_SEQ_LEN * SHORT_WINDOW_RATIO) if is_short else MAX_SEQ_LEN


class Attention(nn.Module):
    """Causal self-attention with rotary embeddings, QK norm, and a gated value embedding (value residual, ResFormer)."""

    def __init__(self, width: int, layer: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_DIM
        self.window = attention_window(layer)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(VALUE_GATE_CHANNELS, self.num_heads, bias=False) if has_value_embedding(layer) else None

    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        # q = norm(apply_rotary_emb(self.q(x).unflatten(-1, (-1, HEAD_DIM)), cos, sin)), and k likewise
        q, k = qk_proj_rope_norm(x, self.q.weight, self.k.weight, cos, sin)
        v = self.v(x).unflatten(-1, (-1, HEAD_DIM))
        if self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., :VALUE_GATE_CHANNELS]))
            v = v + gate.unsqueeze(-1) * value_embedding.view(v.shape)
        y = causal_attention(q, k, v, window=self.window)  # (B, T, num_heads, HEAD_DIM), like q, k and v
        return self.out(y.flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.down = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return relu2_mlp(x, self.up.weight, self.down.weight)  # self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    def __init__(self, width: int, layer: int) -> None:
        super().__init__()
        self.attention = Attention(width, layer)
        self.mlp = MLP(width)

    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(norm(x), value_embedding, cos, sin)
        x = x + self.mlp(norm(x))
        return x


class GPT(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, width)
        self.bigram_embedding = nn.Embedding(BIGRAM_BUCKETS, width) if BIGRAM_BUCKETS else None
        self.value_embeddings = nn.ModuleDict(
            {str(layer): nn.Embedding(VOCAB_SIZE, width) for layer in range(DEPTH) if has_value_embedding(layer)}
        )
        self.blocks = nn.ModuleList([Block(width, layer) for layer in range(DEPTH)])
        self.resid_lambdas = nn.Parameter(torch.empty(DEPTH))
        self.x0_lambdas = nn.Parameter(torch.empty(DEPTH))
        self.lm_head = nn.Linear(width, VOCAB_SIZE, bias=False)
        inv_freq = ROPE_BASE ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(MAX_SEQ_LEN), inv_freq)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialises all weights.

        embedding               normal, std EMBEDDING_STD
        bigram_embedding        zeros
        value_embeddings        uniform, std INIT_SCALE / sqrt(width)
        attention.q, k, v       uniform, std INIT_SCALE / sqrt(width)
        attention.out, gate     zeros: every block starts as the identity, every gate at 1
        mlp.up                  uniform, std INIT_SCALE / sqrt(width)
        mlp.down                zeros
        resid_lambdas           1
        x0_lambdas              X0_LAMBDA
        lm_head                 normal, std UNEMBEDDING_STD
        """
        bound = INIT_SCALE * math.sqrt(3 / self.embedding.embedding_dim)  # a uniform distribution's std is bound / sqrt(3)
        self.embedding.weight.normal_(std=EMBEDDING_STD)
        self.lm_head.weight.normal_(std=UNEMBEDDING_STD)
        if self.bigram_embedding is not None:
            self.bigram_embedding.weight.zero_()
        for embedding in self.value_embeddings.values():
            embedding.weight.uniform_(-bound, bound)
        for block in self.blocks:
            attention, mlp = block.attention, block.mlp
            for linear in (attention.q, attention.k, attention.v, mlp.up):
                linear.weight.uniform_(-bound, bound)
            for linear in (attention.out, mlp.down, attention.gate):
                if linear is not None:
                    linear.weight.zero_()
        self.resid_lambdas.fill_(1.0)
        self.x0_lambdas.fill_(X0_LAMBDA)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, VOCAB_SIZE) of ids (B, T); with targets (B, T), the mean cross-entropy in nats per token instead."""
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=ids.is_cuda):
            cos, sin = self.cos[: ids.size(1)], self.sin[: ids.size(1)]
            x = self.embedding(ids)
            if self.bigram_embedding is not None:
                x = x + self.bigram_embedding(hashed_bigrams(ids))
            x = x0 = norm(x)
            for layer, block in enumerate(self.blocks):
                value_embedding = self.value_embeddings[str(layer)](ids) if has_value_embedding(layer) else None
                x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * x0
                x = block(x, value_embedding, cos, sin)
            x = norm(x)
            if targets is not None:  # the cross-entropy of the logits below, which are never stored in float32
                return softcapped_cross_entropy(x, self.lm_head.weight, targets, SOFTCAP)
            logits = self.lm_head(x).float()
            return SOFTCAP * torch.tanh(logits / SOFTCAP)

    def flops_per_token(self) -> float:
        """FLOPs of a forward and a backward pass: 6 per matrix weight, 12 per channel and token in the attention window."""
        weights = sum(p.numel() for p in self.blocks.parameters() if p.ndim > 1) + self.lm_head.weight.numel()
        width = self.embedding.embedding_dim
        return 6.0 * weights + sum(12.0 * width * block.attention.window for block in self.blocks)


def build_model() -> GPT:
    check_hyperparameters()
    width = math.ceil(DEPTH * ASPECT_RATIO / HEAD_DIM) * HEAD_DIM
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # initialising on the CPU would take a second
        model = GPT(width)
    if torch.cuda.is_available():
        for embedding in (model.embedding, model.bigram_embedding, model.value_embeddings):
            if embedding is not None:
                embedding.bfloat16()
    return model


def check_hyperparameters() -> None:
    """Raises SystemExit with one sentence for a constant that would fail late, or silently mean something else."""
    tokens = DEVICE_BATCH_SIZE * MAX_SEQ_LEN
    for is_wrong, sentence in (
        (DEPTH < 1, f"DEPTH must be at least 1, not {DEPTH}"),
        (HEAD_DIM < 2 or HEAD_DIM % 2, f"HEAD_DIM must be even for rotary embeddings, not {HEAD_DIM}"),
        (not WINDOW_PATTERN or set(WINDOW_PATTERN) - set("SL"),
         f"WINDOW_PATTERN may contain only the letters S and L, at least one, not {WINDOW_PATTERN!r}"),
        (MAX_SEQ_LEN * SHORT_WINDOW_RATIO < 1, f"SHORT_WINDOW_RATIO {SHORT_WINDOW_RATIO} gives a window of 0 tokens"),
        (MUON_WARMUP_STEPS < 0, f"MUON_WARMUP_STEPS must be at least 0, not {MUON_WARMUP_STEPS}"),
        (SOFTCAP <= 0, f"SOFTCAP must be greater than 0, not {SOFTCAP}"),
        (DEVICE_BATCH_SIZE < 1, f"DEVICE_BATCH_SIZE must be at least 1, not {DEVICE_BATCH_SIZE}"),
        (TOTAL_BATCH_SIZE < 1 or TOTAL_BATCH_SIZE % max(tokens, 1),
         f"TOTAL_BATCH_SIZE must be a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN = {tokens}, not {TOTAL_BATCH_SIZE}"),
    ):
        if is_wrong:
            raise SystemExit(sentence)


# ----------------------------------------------------------------------------------------------------------------------
# Optimizers: Muon for the matrices of the blocks, Adam for the rest
# ----------------------------------------------------------------------------------------------------------------------

# Polar Express: the best odd polynomials of degree 5, one per iteration (Amsel et al., 2025, arXiv:2505.16932)
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(g: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices to g (n, rows, columns), approximately."""
    x = g.bfloat16() if g.is_cuda else g
    is_tall = x.size(-2) > x.size(-1)
    x = x.mT if is_tall else x
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b * gram + c * gram @ gram
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a * x + polynomial @ x; fewer kernels to compile than sums
    return x.mT if is_tall else x


def muon_update(weights: Tensor, grads: Tensor, momentum_buffer: Tensor, second_moment: Tensor, lr: Tensor, momentum: Tensor,
                weight_decay: Tensor) -> None:  # fmt: skip
    """One step of Muon, in place, for matrices of one shape, all (n, rows, columns).

    Nesterov momentum, orthogonalised; each neuron's update is divided by its running RMS and the whole rescaled to its former
    norm (NorMuon, Li et al., 2025, arXiv:2510.05491); weight decay only where it has the sign of the update (cautious,
    arXiv:2510.12402). second_moment: (n, rows, 1), or (n, 1, columns) for wide matrices.
    """
    momentum_buffer.lerp_(grads, 1 - momentum)
    update = orthogonalize(grads.lerp(momentum_buffer, momentum)).float()
    neuron_dim = -1 if update.size(-2) >= update.size(-1) else -2
    second_moment.lerp_(update.square().mean(dim=neuron_dim, keepdim=True), 1 - MUON_BETA2)
    scaled = update * second_moment.clamp_min(1e-10).rsqrt()
    update = scaled * (update.norm(dim=(-2, -1), keepdim=True) / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
    weights.sub_(lr * (update + weight_decay * weights * (update * weights >= 0)))


class Muon:
    """Muon over all matrices, batched by shape; a parameter of three dimensions is a stack of matrices."""

    def __init__(self, matrices: list[nn.Parameter]) -> None:
        shapes = sorted({p.shape[-2:] for p in matrices})
        self.groups = [[p for p in matrices if p.shape[-2:] == shape] for shape in shapes]
        self.update = torch.compile(muon_update, dynamic=False) if matrices[0].is_cuda else muon_update
        self.reset()

    def reset(self) -> None:
        self.states = []
        for group in self.groups:
            momentum_buffer = torch.zeros_like(stack_matrices([p.data for p in group]))
            neuron_dim = -1 if momentum_buffer.size(-2) >= momentum_buffer.size(-1) else -2
            self.states.append((momentum_buffer, momentum_buffer.mean(dim=neuron_dim, keepdim=True)))

    @torch.no_grad()
    def step(self, *, lr: float, momentum: float, weight_decay: float) -> None:
        for group, (momentum_buffer, second_moment) in zip(self.groups, self.states, strict=True):
            weights = stack_matrices([p.data for p in group])
            grads = stack_matrices([p.grad for p in group])
            shape_scale = math.sqrt(max(1.0, weights.size(-2) / weights.size(-1)))
            scalars = (torch.tensor(value) for value in (lr * shape_scale, momentum, weight_decay))  # tensors: no recompilation
            self.update(weights, grads, momentum_buffer, second_moment, *scalars)
            parts = torch.split(weights, [p.numel() // weights[0].numel() for p in group])
            torch._foreach_copy_([p.data for p in group], [part.view(p.shape) for part, p in zip(parts, group, strict=True)])


def stack_matrices(tensors: list[Tensor]) -> Tensor:
    """Matrices (rows, columns) or (m, rows, columns) of one shape as one tensor (n, rows, columns)."""
    return torch.cat([tensor.view(-1, *tensor.shape[-2:]) for tensor in tensors])


class Optimizer:
    """Muon and Adam together, with their schedules."""

    def __init__(self, model: GPT) -> None:
        scale = math.sqrt(768 / model.embedding.embedding_dim)  # Adam's learning rates were tuned at a width of 768
        embeddings = [model.embedding] if model.bigram_embedding is None else [model.embedding, model.bigram_embedding]
        matrices = [p for p in model.blocks.parameters() if p.ndim > 1]
        groups = [
            {"params": [e.weight for e in embeddings], "lr": EMBEDDING_LR * scale, "weight_decay": EMBEDDING_DECAY},
            {"params": list(model.value_embeddings.parameters()), "lr": EMBEDDING_LR * scale,
             "weight_decay": VALUE_EMBEDDING_DECAY},
            {"params": [model.lm_head.weight], "lr": UNEMBEDDING_LR * scale, "weight_decay": UNEMBEDDING_DECAY},
            {"params": [model.resid_lambdas], "lr": SCALAR_LR * 0.01},
            {"params": [model.x0_lambdas], "lr": X0_LR, "betas": X0_BETAS},
            {"params": [p for p in model.blocks.parameters() if p.ndim <= 1], "lr": SCALAR_LR * 0.01},  # none as shipped
        ]
        self.adam = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=1e-10, weight_decay=0.0, fused=True)
        self.peak_lrs = [group["lr"] for group in self.adam.param_groups]
        self.muon = Muon(matrices)
        trained = {id(p) for group in (*self.adam.param_groups, {"params": matrices}) for p in group["params"]}
        for name, p in model.named_parameters():
            if id(p) not in trained:
                raise SystemExit(f"{name} has no optimizer: add it to a group in Optimizer")

    def reset(self) -> None:
        self.adam.state.clear()
        self.muon.reset()

    def step(self, step: int, progress: float) -> float:
        """One optimizer step; returns the learning-rate multiplier."""
        lrm = lr_multiplier(progress)
        for group, peak_lr in zip(self.adam.param_groups, self.peak_lrs, strict=True):
            group["lr"] = peak_lr * lrm
        warmup = min(step / max(MUON_WARMUP_STEPS, 1), 1.0)
        momentum = MUON_MOMENTUM_START + warmup * (MUON_MOMENTUM - MUON_MOMENTUM_START)
        self.muon.step(lr=MATRIX_LR * lrm, momentum=momentum, weight_decay=WEIGHT_DECAY * (1 - progress))
        self.adam.step()
        return lrm


def lr_multiplier(progress: float) -> float:
    """Linear warm-up, constant, linear warm-down to FINAL_LR_FRAC, over progress from 0 to 1."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    remaining = (1 - progress) / WARMDOWN_RATIO
    return remaining + (1 - remaining) * FINAL_LR_FRAC


# ----------------------------------------------------------------------------------------------------------------------
# Training
# ----------------------------------------------------------------------------------------------------------------------


def grouped(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Lists of `count` micro-batches, one list per optimizer step; an incomplete last one is dropped."""
    while len(group := list(islice(batches, count))) == count:
        yield group


def train(session: Session) -> None:
    """Compiles on random tokens, starts again from the judge's seed, trains for the time budget and submits the model."""
    torch.set_float32_matmul_precision("high")
    model = build_model().to(session.device)
    optimizer = Optimizer(model)
    forward = torch.compile(model, dynamic=False) if session.device.type == "cuda" else model
    grad_accum_steps = TOTAL_BATCH_SIZE // (DEVICE_BATCH_SIZE * MAX_SEQ_LEN)
    flops_per_token = model.flops_per_token()

    def run(batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        for step, micro_batches in enumerate(grouped(batches, grad_accum_steps)):
            for x, y in micro_batches:
                loss = forward(x, y)
                (loss / grad_accum_steps).backward()
            lrm = optimizer.step(step, session.progress)
            model.zero_grad(set_to_none=True)
            session.log(step=step, loss=loss, lrm=lrm, tokens_per_step=TOTAL_BATCH_SIZE, flops_per_token=flops_per_token)

    run(session.warmup(DEVICE_BATCH_SIZE, batches=2 * grad_accum_steps))  # compiles, and allocates the memory
    session.reseed()
    model.init_weights()
    optimizer.reset()
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection would stall the loop

    run(session.batches(DEVICE_BATCH_SIZE))
    kernel = kernel_name(session.device, torch.bfloat16 if session.device.type == "cuda" else torch.float32)
    session.finish(model, depth=DEPTH, kernel=kernel)
