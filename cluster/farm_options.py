"""The options of a farm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from agent.researchers.mix import FIXED
from agent.researchers.prices import PRICES, Price
from cluster.hardware import ANY_DEVICE, Device, DeviceRequest
from cluster.home import Home
from cluster.webhooks import Shape
from research.recipes import Recipe
from research.result import SandboxMode
from results.steering import PLATEAU_IDEAS
from results.verdict import LINE_PRICE, Rule

EngineKind = Literal["local", "ray"]

Fallback = Literal["search", "none"]


@dataclass(frozen=True, kw_only=True)
class FarmOptions:
    """The options of a farm, checked. None means the default of the profile or the hardware."""

    repo: Path
    """The git repository that gets the branches."""
    home: Home
    cache: Path
    """The folder of prepared data on this machine."""
    source_tree: Path | None = None
    """The folder with the user's research/train.py where git can't commit, so that `repo` is elsewhere. None: `repo`."""
    tag: str
    researcher: str
    """A name that `agent.researchers.make` knows, or a mix of such (`agent.researchers.mix`)."""
    mix: str = FIXED
    """`adaptive`: each idea's researcher is chosen by what those of the mix have found; else each loop has its own."""
    why_researcher: str = ""
    """A line on a researcher that nobody asked for and that costs; empty if it was asked for, or is free of charge."""
    fallback: Fallback = "search"
    """Who has ideas while a researcher with a model fails or is slow, and goes on where only a person can help it."""
    model: str | None = None
    """The model to use; None: the researcher's default."""
    effort: str | None = None
    """How much the model of claude or of a coding agent thinks; None: the default."""
    prices: Mapping[str, Price] = field(default_factory=lambda: PRICES)
    """What tokens cost, by model."""
    max_cost: float | None = None
    """US dollars that the researchers of the tag may cost, over all of its loops and sessions; None: no limit."""
    max_loop_cost: float | None = None
    """US dollars that the researcher of each loop may cost, over all sessions; None: no limit."""
    agent_writes: tuple[Path, ...] = ()
    """Files and folders that a command may write beside its own."""
    profile: str | None = None
    recipe: Recipe | None = None
    """Hyperparameters that new branches start from; None: those of train.py, under its profile."""
    budget: float | None = None
    """Seconds of training per run."""
    source: str | None = None
    num_shards: int | None = None
    devices: tuple[Device, ...]
    """This machine's devices that the local engine uses."""
    engine: EngineKind = "local"
    requested: DeviceRequest = ANY_DEVICE
    """The value of `--devices`; it selects a Ray cluster's workers."""
    node_cache: str | None = None
    """The folder of prepared data on a cluster's nodes; None: each node's default."""
    address: str | None = None
    """Address of a running Ray cluster."""
    loops: int | None = None
    """Number of loops; None: one per device."""
    experiments: int | None = None
    """Experiments per loop, counted on its branch; None: no limit."""
    before_experiment: str | None = None
    """A command that runs before each experiment; None: none does."""
    after_experiment: str | None = None
    """A command that runs after each verdict."""
    notify: str | None = None
    """A command that gets messages about the farm as JSON; None: none does."""
    notify_url: str | None = None
    """The address of a webhook that gets them. It is a secret."""
    notify_shape: Shape | None = None
    """What the webhook takes; None: what its host takes."""
    plateau_ideas: int = PLATEAU_IDEAS
    """How many ideas of a group without a keep are a plateau."""
    hours: float | None = None
    """Time after which no experiment starts; None: no limit."""
    dirty: bool = False
    """Whether new branches start from uncommitted edits of train.py."""
    samples: bool = False
    """Whether the model of every kept run is saved, for `farm sample`."""
    start_ahead: bool = True
    """Whether the processes of the next run start speculatively while a GPU scores a run."""
    rule: Rule = "estimate"
    share: bool = True
    """Whether loops of one platform build on one head; greedy loops never do."""
    line_price: float = LINE_PRICE
    """The gain in bpb that each net added line of an idea must bring."""
    memory_cap_mb: float | None = None
    """The most peak memory in MiB that an idea may need to be kept; None: what the device has."""
    sandbox: SandboxMode = "auto"
    gpu_memory_bytes: int | None = None
    """Limit of each GPU's memory for its runs; already applied to `devices`."""
    baseline_runs: int = 2
    command: str = "run"
    """The command of the farm that has these options."""
    given: str | None = None
    """The options of the command line that resuming the tag needs again; None: the command doesn't work on a tag's branches."""


def todays_tag() -> str:
    """The default tag: month and day, such as `mar08`."""
    return date.today().strftime("%b%d").lower()
