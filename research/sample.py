"""`python -m research.sample`: samples text from a model that a run has saved (--samples saves them).

It executes the run's train.py to build the model, so it runs in a process of its own; the contract comes from the environment,
as in every run.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from research.child.setup import load_train_py
from research.data.prepared import PreparedData
from research.data.tokenizer import Tokenizer
from research.profiles import active_contract


@torch.inference_mode()
def sample(model: nn.Module, tokenizer: Tokenizer, prompt: str, *, tokens: int, seq_len: int, device: torch.device,
           temperature: float = 0.8, seed: int = 0) -> str:  # fmt: skip
    """`prompt` and up to `tokens` sampled tokens as text; sampling stops early at the end of a document.

    Each step feeds a row of `seq_len` ids, as in scoring; a causal model reads only the ids so far.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    ids = tokenizer.encode(prompt, bos=True)
    for _ in range(tokens):
        window = ids[-seq_len:]
        row = torch.tensor([window + [tokenizer.bos] * (seq_len - len(window))], device=device)
        logits = model(row)[0, len(window) - 1].float().cpu()
        chosen = int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator))
        if chosen == tokenizer.bos:
            break
        ids.append(chosen)
    return tokenizer.decode(ids[1:])


def main() -> int:
    """Prints one sample. The exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m research.sample", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="model.safetensors of a run")
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="the run's train.py")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="prepared data, for its tokenizer")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--tokens", type=int, default=200, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", default="cpu", metavar="D")
    options = parser.parse_args()
    device, tokenizer = torch.device(options.device), PreparedData.load(options.data).tokenizer()
    model = load_train_py(options.train).build_model()
    model.load_state_dict(load_file(options.model))
    text = sample(
        model.to(device).eval(),
        tokenizer,
        options.prompt,
        tokens=options.tokens,
        seq_len=active_contract().MAX_SEQ_LEN,
        device=device,
        temperature=options.temperature,
        seed=options.seed,
    )
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
