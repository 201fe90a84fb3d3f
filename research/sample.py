"""`python -m research.sample`: samples text from a model that a run has saved (--samples saves them).

It executes the run's train.py to build the model, so it does that in a process of its own, in the sandbox of a scorer; the
contract comes from the environment, as in every run.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from research.child.setup import load_train_py
from research.child_settings import ChildSettings
from research.data.prepared import PreparedData
from research.data.tokenizer import Tokenizer
from research.judge.confinement import Confinement
from research.judge.log import Log
from research.judge.processes import SCORERS, Child, Start, child_environment
from research.profiles import active_contract
from research.result import SANDBOX_MODES, Placement, RunSpec
from research.sandbox.descendants import kill_descendants
from research.sandbox.limits import Limits
from research.sandbox.linux import become_subreaper


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
    """Prints one sample. The exit status is that of the process that generates it: 0 if it could."""
    options = parse_arguments()
    data, weights = PreparedData.load(options.data), load_file(options.model)
    generate = partial(print_sample, options, data.tokenizer(), weights)
    if sys.platform != "linux":  # there is no sandbox
        os.chdir(options.train.parent)
        generate()
        return 0
    become_subreaper()
    with tempfile.TemporaryDirectory(prefix="autoresearch-sample-") as scratch:
        return in_sandbox(generate, options, data, Path(scratch))


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m research.sample", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="model.safetensors of a run")
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="the run's train.py")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="prepared data, for its tokenizer")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--tokens", type=int, default=200, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--device", default="cpu", metavar="D")
    parser.add_argument("--sandbox", choices=SANDBOX_MODES, default="auto")
    return parser.parse_args()


def in_sandbox(generate: Callable[[], None], options: argparse.Namespace, data: PreparedData, scratch: Path) -> int:
    """Has a process generate text in the sandbox of a scorer, and prints it. Returns its exit status."""
    name, train_py = SCORERS[1], options.train.read_text()
    child, contract = Child(generate, name=name), active_contract()
    spec = RunSpec(run_id="sample", contract=contract, seed=options.seed, sandbox=options.sandbox)
    placement = Placement(device=options.device, data_folder=str(data.folder), run_folder=str(options.model.parent))
    folder = scratch / name
    folder.mkdir()
    (folder / "train.py").write_text(train_py)
    confinement = Confinement(spec, placement, data, train_py, scratch, disk_bytes=Limits.of_host().disk_bytes)
    start = Start(
        folder=folder,
        settings=ChildSettings(contract=contract, seed=options.seed, device=options.device),
        environment={**child_environment(threads=None), **confinement.environment(name, folder)},
        sandbox=confinement.sandbox(name, folder),
    )
    child.start(start, Log(scratch / "printed", echo=partial(print, end="", flush=True)))
    try:
        while (code := child.exit_code()) is None:
            time.sleep(0.02)
        return code
    finally:
        child.kill()
        kill_descendants()
        child.close()


def print_sample(options: argparse.Namespace, tokenizer: Tokenizer, weights: dict[str, Tensor]) -> None:
    """Builds the model by the train.py in the working folder, and prints what it generates."""
    device = torch.device(options.device)
    model: nn.Module = load_train_py(Path("train.py").resolve()).build_model()
    model.load_state_dict(weights)
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


if __name__ == "__main__":
    sys.exit(main())
