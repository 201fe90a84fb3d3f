"""Ablations: patches of the shipped train.py, each of which removes one part of it."""

import ast
import io
from dataclasses import dataclass

from research.valid_train_py import nodes_to_read, problem_with, tree_to_read


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A part that train.py may be better, or simpler, without."""

    title: str
    hypothesis: str
    patch: str
    """The hunks of a unified diff of the shipped train.py, separated by `@@` instead of line numbers.

    The old text of a hunk occurs there exactly once. It may begin in the middle of a line, for a comment after any value.
    """


def ablated(train_py: str, ablation: Ablation) -> str | None:
    """A branch's train.py with an ablation, minus the constants and imports that become unused; None if it doesn't fit."""
    if problem_with(train_py):
        return None
    patched = _patched(train_py, ablation.patch)
    if patched is None or problem_with(patched):
        return None
    (read_before, defined_before), (read, defined) = _names(train_py), _names(patched)
    if read & (defined_before - defined):
        return None  # the branch's own code still needs what the ablation removes
    return _without_unused(patched, read_before - read)


def _patched(text: str, patch: str) -> str | None:
    """`text` with the hunks of a patch applied; None if the old text of one doesn't occur exactly once."""
    for hunk in patch.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        if text.count(old) != 1:
            return None
        text = text.replace(old, new)
    return text


def _names(code: str) -> tuple[set[str], set[str]]:
    """The names that code reads and the names that it defines, including attributes, parameters and functions."""
    read, defined = set(), set()
    for node in nodes_to_read(code):
        match node:
            case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.FunctionDef(name=name):
                defined.add(name)
    return read, defined


def _without_unused(code: str, unused: set[str]) -> str:
    """`code` without the constants and imports at module level whose names are `unused`."""
    lines = list(io.StringIO(code, newline=""))  # lines as Python counts them
    for node in reversed(tree_to_read(code).body):
        span = slice(node.lineno - 1, node.end_lineno)
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) if name in unused:
                del lines[span]
            case ast.ImportFrom(module, names, level) if unused & {alias.name for alias in names}:
                used = [alias for alias in names if alias.name not in unused]
                lines[span] = [ast.unparse(ast.ImportFrom(module, used, level)) + "\n"] if used else []
    return "".join(lines)


_WITHOUT_GATE = """\
-        self.num_heads = width // HEAD_DIM
@@
-        self.gate = nn.Linear(VALUE_GATE_CHANNELS, self.num_heads, bias=False) if has_value_embedding(layer) else None
@@
-        attention.out, gate     zeros: every block starts as the identity, every gate at 1
+        attention.out           zeros: every block starts as the identity
@@
-            for linear in (attention.out, mlp.down, attention.gate):
-                if linear is not None:
-                    linear.weight.zero_()
+            for linear in (attention.out, mlp.down):
+                linear.weight.zero_()
@@
"""

ABLATIONS = (
    Ablation(
        title="drop the logit softcap",
        hypothesis="The softcap costs time in every pass and squashes confident logits; short runs may not need it.",
        patch="""\
-            if targets is not None:  # the cross-entropy of the logits below, which are never stored in float32
-                return softcapped_cross_entropy(x, self.lm_head.weight, targets, SOFTCAP)
             logits = self.lm_head(x).float()
-            return SOFTCAP * torch.tanh(logits / SOFTCAP)
+            return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
@@
-        (SOFTCAP <= 0, f"SOFTCAP must be greater than 0, not {SOFTCAP}"),
""",
    ),
    Ablation(
        title="drop the value-embedding gate",
        hypothesis="Value embeddings mixed in with a constant weight may learn as well, with fewer lines.",
        patch=_WITHOUT_GATE
        + '''\
-    """Causal self-attention with rotary embeddings, QK norm, and a gated value embedding (value residual, ResFormer)."""
+    """Causal self-attention with rotary embeddings, QK norm, and a value embedding (value residual, ResFormer)."""
@@
-        if self.gate is not None:
-            gate = 2 * torch.sigmoid(self.gate(x[..., :VALUE_GATE_CHANNELS]))
-            v = v + gate.unsqueeze(-1) * value_embedding.view(v.shape)
+        if value_embedding is not None:
+            v = v + value_embedding.view(v.shape)
''',
    ),
    Ablation(
        title="drop the value embeddings",
        hypothesis="Value embeddings cost lookups and large gradients; without them more steps fit the time budget.",
        patch=_WITHOUT_GATE
        + '''\
-# decoupled, token and bigram embeddings (scales with the LR, like the next two)
+# decoupled, token and bigram embeddings (scales with the LR, like the next)
@@
-def has_value_embedding(layer: int) -> bool:
-    """Whether a layer has a value embedding: every second one does, the last among them."""
-    return (DEPTH - 1 - layer) % 2 == 0
-
-
@@
-    """Causal self-attention with rotary embeddings, QK norm, and a gated value embedding (value residual, ResFormer)."""
+    """Causal self-attention with rotary embeddings and QK norm."""
@@
-    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
+    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
         # q = norm(apply_rotary_emb(self.q(x).unflatten(-1, (-1, HEAD_DIM)), cos, sin)), and k likewise
@@
-        if self.gate is not None:
-            gate = 2 * torch.sigmoid(self.gate(x[..., :VALUE_GATE_CHANNELS]))
-            v = v + gate.unsqueeze(-1) * value_embedding.view(v.shape)
@@
-    def forward(self, x: Tensor, value_embedding: Tensor | None, cos: Tensor, sin: Tensor) -> Tensor:
-        x = x + self.attention(norm(x), value_embedding, cos, sin)
+    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
+        x = x + self.attention(norm(x), cos, sin)
@@
-        self.value_embeddings = nn.ModuleDict(
-            {str(layer): nn.Embedding(VOCAB_SIZE, width) for layer in range(DEPTH) if has_value_embedding(layer)}
-        )
@@
-        value_embeddings        uniform, std INIT_SCALE / sqrt(width)
@@
-        for embedding in self.value_embeddings.values():
-            embedding.weight.uniform_(-bound, bound)
@@
-                value_embedding = self.value_embeddings[str(layer)](ids) if has_value_embedding(layer) else None
@@
-                x = block(x, value_embedding, cos, sin)
+                x = block(x, cos, sin)
@@
-        for embedding in (model.embedding, model.bigram_embedding, model.value_embeddings):
+        for embedding in (model.embedding, model.bigram_embedding):
@@
-            {"params": list(model.value_embeddings.parameters()), "lr": EMBEDDING_LR * scale,
-             "weight_decay": VALUE_EMBEDDING_DECAY},
''',
    ),
    Ablation(
        title="drop the residual lambdas",
        hypothesis="Scaling the residual stream per layer may not matter at this depth: less code and less work.",
        patch="""\
-        self.resid_lambdas = nn.Parameter(torch.empty(DEPTH))
@@
-        resid_lambdas           1
@@
-        self.resid_lambdas.fill_(1.0)
@@
-                x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * x0
+                x = x + self.x0_lambdas[layer] * x0
@@
-            {"params": [model.resid_lambdas], "lr": SCALAR_LR * 0.01},
""",
    ),
    Ablation(
        title="drop the x0 lambdas",
        hypothesis="With few layers the embeddings reach every layer anyway: the extra path may be superfluous.",
        patch="""\
-        self.x0_lambdas = nn.Parameter(torch.empty(DEPTH))
@@
-        x0_lambdas              X0_LAMBDA
@@
-        self.x0_lambdas.fill_(X0_LAMBDA)
@@
-            x = x0 = norm(x)
+            x = norm(x)
@@
-                x = self.resid_lambdas[layer] * x + self.x0_lambdas[layer] * x0
+                x = self.resid_lambdas[layer] * x
@@
-            {"params": [model.x0_lambdas], "lr": X0_LR, "betas": X0_BETAS},
""",
    ),
    Ablation(
        title="drop QK norm",
        hypothesis="Without the norms attention chooses its own sharpness, with less work for queries and keys.",
        patch='''\
-from research.kernels.fused import qk_proj_rope_norm, relu2_mlp, rms_norm, softcapped_cross_entropy
+from research.kernels.fused import apply_rotary_emb, relu2_mlp, rms_norm, softcapped_cross_entropy
@@
-    """Causal self-attention with rotary embeddings, QK norm, and a gated value embedding (value residual, ResFormer)."""
+    """Causal self-attention with rotary embeddings and a gated value embedding (value residual, ResFormer)."""
@@
-        # q = norm(apply_rotary_emb(self.q(x).unflatten(-1, (-1, HEAD_DIM)), cos, sin)), and k likewise
-        q, k = qk_proj_rope_norm(x, self.q.weight, self.k.weight, cos, sin)
+        q, k = (apply_rotary_emb(linear(x).unflatten(-1, (-1, HEAD_DIM)), cos, sin) for linear in (self.q, self.k))
''',
    ),
    Ablation(
        title="drop the cautious weight-decay mask",
        hypothesis="Plain weight decay is simpler; in a short budget the mask may make no difference.",
        patch="""\
-# matrices: cautious, falls linearly to 0
+# matrices: falls linearly to 0
@@
-    norm (NorMuon, Li et al., 2025, arXiv:2510.05491); weight decay only where it has the sign of the update (cautious,
-    arXiv:2510.12402). second_moment: (n, rows, 1), or (n, 1, columns) for wide matrices.
+    norm (NorMuon, Li et al., 2025, arXiv:2510.05491); decoupled weight decay.
+    second_moment: (n, rows, 1), or (n, 1, columns) for wide matrices.
@@
-    weights.sub_(lr * (update + weight_decay * weights * (update * weights >= 0)))
+    weights.sub_(lr * (update + weight_decay * weights))
""",
    ),
    Ablation(
        title="drop NorMuon's second moment",
        hypothesis="Muon's updates are orthogonal already: normalising each neuron's as well may not be worth its work.",
        patch="""\
-def muon_update(weights: Tensor, grads: Tensor, momentum_buffer: Tensor, second_moment: Tensor, lr: Tensor, momentum: Tensor,
+def muon_update(weights: Tensor, grads: Tensor, momentum_buffer: Tensor, lr: Tensor, momentum: Tensor,
@@
-    Nesterov momentum, orthogonalised; each neuron's update is divided by its running RMS and the whole rescaled to its former
-    norm (NorMuon, Li et al., 2025, arXiv:2510.05491); weight decay only where it has the sign of the update (cautious,
-    arXiv:2510.12402). second_moment: (n, rows, 1), or (n, 1, columns) for wide matrices.
+    Nesterov momentum, orthogonalised; weight decay only where it has the sign of the update (cautious, arXiv:2510.12402).
@@
-    neuron_dim = -1 if update.size(-2) >= update.size(-1) else -2
-    second_moment.lerp_(update.square().mean(dim=neuron_dim, keepdim=True), 1 - MUON_BETA2)
-    scaled = update * second_moment.clamp_min(1e-10).rsqrt()
-    update = scaled * (update.norm(dim=(-2, -1), keepdim=True) / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10))
@@
-        self.states = []
-        for group in self.groups:
-            momentum_buffer = torch.zeros_like(stack_matrices([p.data for p in group]))
-            neuron_dim = -1 if momentum_buffer.size(-2) >= momentum_buffer.size(-1) else -2
-            self.states.append((momentum_buffer, momentum_buffer.mean(dim=neuron_dim, keepdim=True)))
+        self.momentum_buffers = [torch.zeros_like(stack_matrices([p.data for p in group])) for group in self.groups]
@@
-        for group, (momentum_buffer, second_moment) in zip(self.groups, self.states, strict=True):
+        for group, momentum_buffer in zip(self.groups, self.momentum_buffers, strict=True):
@@
-            self.update(weights, grads, momentum_buffer, second_moment, *scalars)
+            self.update(weights, grads, momentum_buffer, *scalars)
""",
    ),
    Ablation(
        title="drop the square of the ReLU",
        hypothesis="A plain ReLU has larger gradients at the start, which may count in a short run.",
        patch="""\
-        return relu2_mlp(x, self.up.weight, self.down.weight)  # self.down(F.relu(self.up(x)).square())
+        return self.down(F.relu(self.up(x)))
""",
    ),
)
