"""Order, leases, and what a silent worker may no longer say."""

import pytest

from cluster.workqueue import WorkItem, WorkKind, WorkQueue

GPU, CPU = "NVIDIA H100, 80 GB, 700 W", "Some CPU, 2 threads"


def item(id: str, kind: WorkKind = "explore", *, platform: str = GPU, branch: str | None = None, repeats: int = 0) -> WorkItem:
    return WorkItem(id=id, kind=kind, branch=branch or f"b-{id}", experiment=id, platform=platform, repeats=repeats)


def claimed(queue: WorkQueue, platform: str = GPU, now: float = 0.0) -> str | None:
    lease = queue.claim("w", platform, now)
    return lease and lease.item.id


def test_the_most_urgent_kind_goes_first_then_who_came_first():
    queue = WorkQueue()
    kinds: list[WorkKind] = ["explore", "control", "wave", "merge", "confirm", "manual", "baseline"]
    for kind in kinds:
        queue.add(item(kind, kind))
    queue.add(item("later", "explore"))
    order = ["baseline", "manual", "confirm", "merge", "wave", "control", "explore", "later"]
    assert [waiting.id for waiting in queue.waiting] == order
    assert [claimed(queue) for _ in range(9)] == [*order, None]


def test_a_lost_run_goes_before_others_of_its_kind():
    queue = WorkQueue()
    queue.add(item("first"))
    queue.add(item("again", repeats=1))
    assert (claimed(queue), claimed(queue)) == ("again", "first")


def test_a_device_takes_only_its_platforms_work():
    queue = WorkQueue()
    queue.add(item("gpu"))
    assert claimed(queue, CPU) is None
    queue.add(item("cpu", platform=CPU))
    assert claimed(queue, CPU) == "cpu"
    assert claimed(queue, GPU) == "gpu"


def test_one_exploration_of_a_branch_waits_at_most():
    queue = WorkQueue()
    queue.add(item("running", branch="b"))
    queue.claim("w", GPU, 0.0)
    queue.add(item("ahead", branch="b"))
    with pytest.raises(ValueError, match="an exploration waiting already"):
        queue.add(item("too many", branch="b"))
    queue.add(item("urgent", "confirm", branch="b"))
    queue.add(item("other", branch="c"))


def test_an_id_is_in_the_queue_once():
    queue = WorkQueue()
    queue.add(item("a", branch="b"))
    with pytest.raises(ValueError, match="already"):
        queue.add(item("a", branch="c"))
    queue.claim("w", GPU, 0.0)
    with pytest.raises(ValueError, match="already"):
        queue.add(item("a", branch="c"))


def test_a_lease_lives_while_it_is_renewed():
    queue = WorkQueue(lease_seconds=10.0)
    queue.add(item("a"))
    lease = queue.claim("w", GPU, 0.0)
    assert queue.expire(9.0) == ()
    assert queue.renew(lease, 9.0)
    assert queue.expire(18.0) == ()
    assert [over.item.id for over in queue.expire(19.5)] == ["a"]


def test_what_a_silent_worker_says_late_counts_for_nothing():
    queue = WorkQueue(lease_seconds=10.0)
    queue.add(item("a"))
    old = queue.claim("silent", GPU, 0.0)
    queue.expire(11.0)
    assert not queue.renew(old, 11.0)
    queue.add(item("a", repeats=1))
    new = queue.claim("other", GPU, 12.0)
    assert not queue.finish(old)
    assert not queue.renew(old, 13.0)
    assert queue.finish(new)
    assert not queue.finish(new)
    assert queue.leases == ()


def test_only_what_waits_can_be_withdrawn():
    queue = WorkQueue()
    queue.add(item("a"))
    assert queue.withdraw("a")
    assert not queue.withdraw("a")
    queue.add(item("b"))
    queue.claim("w", GPU, 0.0)
    assert not queue.withdraw("b")
