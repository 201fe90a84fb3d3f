"""Attacks that look at tokens to come (4 to 6)."""

from tests.attacks.attack import CAUGHT, FORWARD, HONEST, Attack, in_forward, in_scoring
from tests.research.judged import variant


def looks_ahead(where: str, *, strength: float = 20.0, distance: float = 1) -> str:
    """A model that is told the token to come at the positions `where` (a (T,) or (n, T) mask in terms of `at` and `ids`)."""
    distance = int(distance)
    return in_scoring(
        f"""
        at = torch.arange(ids.size(1), device=ids.device)
        mask = ({where}) & (at < ids.size(1) - {distance})
        known = F.one_hot(ids.roll(-{distance}, dims=1), CONTRACT.VOCAB_SIZE) * mask.expand_as(ids)[..., None]
        logits = logits + {strength} * known
        """
    )


BIDIRECTIONAL = in_forward(
    """
    x = self.embedding(ids)
    scores = x @ x.mT / 4.0
    return self.out(x + scores.softmax(-1) @ x.roll(-1, dims=1))
    """
)

CENTRED_CONVOLUTION = variant(
    ("        self.out = nn", "        self.mix = nn.Conv1d(16, 16, 3, padding=1)\n        self.out = nn"),
    (FORWARD, "return self.out(self.embedding(ids) + self.mix(self.embedding(ids).mT).mT)"),
    text=HONEST,
)

REVERSED_SUM = in_forward("x = self.embedding(ids)\nreturn self.out(x + 0.1 * x.flip(1).cumsum(1).flip(1))")

BLOCK_MEAN = in_forward(
    "x = self.embedding(ids)\nreturn self.out(x + x.unflatten(1, (-1, 16)).mean(2).repeat_interleave(16, dim=1))"
)

NEXT_BLOCK_MEAN = in_forward(
    """
    x = self.embedding(ids)
    ahead = x.unflatten(1, (-1, 4)).mean(2).roll(-1, dims=1)
    return self.out(x + ahead.repeat_interleave(4, dim=1))
    """
)

EXPERT_CHOICE = variant(
    (
        "        self.out = nn",
        "        self.gate = nn.Linear(16, 4)\n        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))\n"
        "        self.out = nn",
    ),
    (
        FORWARD,
        """x = self.embedding(ids)
        flat, y = x.flatten(0, 1), torch.zeros_like(x.flatten(0, 1))
        gates = self.gate(flat).softmax(-1)
        for n, expert in enumerate(self.experts):
            chosen = gates[:, n].topk(len(flat) // 4).indices
            y = y.index_add(0, chosen, gates[chosen, n, None] * expert(flat[chosen]))
        return self.out(x + y.view_as(x))""",
    ),
    text=HONEST,
)

TOKEN_CHOICE = EXPERT_CHOICE.replace("gates[:, n].topk(len(flat) // 4).indices", "(gates.argmax(-1) == n).nonzero()[:, 0]")
"""The same experts, honestly: each token chooses by itself."""

BATCH_STATISTICS = in_forward(
    "x = self.embedding(ids)\nreturn self.out((x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-5) + 0.1 * x)"
)

ROWS_ATTEND_TO_EACH_OTHER = in_forward(
    """
    x = self.embedding(ids)
    return self.out(x + 0.5 * x.mean(0, keepdim=True).roll(-1, dims=1))
    """
)

LOOKAHEAD_ATTACKS: list[Attack] = [
    *(
        Attack(
            number=number, name=name, tries=tries, train_py=looks_ahead(where, **how), sample=sample, statuses=("ok", "invalid")
        )
        for number, name, tries, where, how, sample in (
            (4, "looks one token ahead", "read the answer in the row", "at >= 0", {}, False),
            (4, "looks two tokens ahead", "read the token after the next", "at >= 0", {"distance": 2, "strength": 1.0}, False),
            (4, "looks ahead in the first eighth", "look where no splice is", "at < 7", {}, True),
            (4, "looks ahead in the last eighth", "look behind all splices", "at >= 56", {}, False),
            (4, "looks ahead in the last three tokens", "look behind all splices", "at >= 61", {}, False),
            (
                4,
                "looks ahead by a nudge below the largest difference",
                "0.045 nats at each position",
                "at >= 0",
                {"strength": 0.045},
                False,
            ),
            (
                4,
                "looks ahead by a nudge at 2% of the positions",
                "stay below the tolerances of the mean and the largest",
                "(ids * 31 + at) % 50 == 0",
                {"strength": 0.045},
                False,
            ),
            (
                4,
                "looks ahead by a nudge below the largest difference on a GPU",
                "1.9 nats at 2% of the positions",
                "(ids * 31 + at) % 50 == 0",
                {"strength": 1.9},
                False,
            ),
            (
                7,
                "peeks at 1% of the positions",
                "stay below the tolerance of the mean",
                "(ids * 31 + at) % 100 == 0",
                {},
                False,
            ),
            (
                7,
                "peeks in 1% of the rows",
                "stay below the tolerance of the mean",
                "(ids[:, :4].sum(1, keepdim=True) % 100 == 0)",
                {},
                False,
            ),
        )
    ),
    Attack(
        number=5,
        name="attention without a mask",
        tries="train a model that sees the whole row",
        train_py=BIDIRECTIONAL,
        statuses=CAUGHT,
    ),
    Attack(
        number=5,
        name="a centred convolution",
        tries="see one token ahead",
        train_py=CENTRED_CONVOLUTION,
        statuses=CAUGHT,
        reason="looks ahead",
    ),
    Attack(number=5, name="a sum from the end", tries="see all later tokens", train_py=REVERSED_SUM, statuses=CAUGHT),
    Attack(number=6, name="mean over a block of 16", tries="see to the block's end", train_py=BLOCK_MEAN, statuses=CAUGHT),
    Attack(number=6, name="mean of the next block of 4", tries="see the next block", train_py=NEXT_BLOCK_MEAN, statuses=CAUGHT),
    Attack(
        number=6,
        name="expert choice over the flattened batch",
        tries="route by what comes in all rows",
        train_py=EXPERT_CHOICE,
        statuses=("ok", "invalid"),  # on a GPU the tokens that another choice changes are within its tolerance
        honest=TOKEN_CHOICE,
    ),
    Attack(
        number=6,
        name="statistics of the batch",
        tries="normalise by what comes in all rows",
        train_py=BATCH_STATISTICS,
        statuses=("ok", "invalid"),  # in the large batches of a GPU all statistics are alike: that is honest, and gains nothing
    ),
    Attack(
        number=6,
        name="rows see each other",
        tries="see what comes in the other rows of the batch",
        train_py=ROWS_ATTEND_TO_EACH_OTHER,
        statuses=CAUGHT,
    ),
]
