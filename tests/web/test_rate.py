"""Token buckets refuse at once, and their memory is bounded."""

from contracts.ids import UserId
from realtime_service.web.rate import CallerLimits, TokenBucket


def test_a_bucket_gives_its_burst_at_once_and_then_refuses() -> None:
    bucket = TokenBucket(per_second=2, burst=3, now=0)
    assert [bucket.take(0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_refusal_names_the_seconds_after_which_a_token_is_there() -> None:
    bucket = TokenBucket(per_second=0.5, burst=1, now=0)
    bucket.take(0)
    wait = bucket.take(1)
    assert wait == 1
    assert bucket.take(1 + wait) == 0


def test_asking_in_vain_costs_nothing() -> None:
    bucket = TokenBucket(per_second=1, burst=1, now=0)
    bucket.take(0)
    for _ in range(100):
        bucket.take(0.5)
    assert bucket.take(1) == 0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(per_second=100, burst=2, now=0)
    assert [bucket.take(1000) for _ in range(3)] == [0, 0, 0.01]


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = TokenBucket(per_second=1, burst=1, now=10)
    bucket.take(10)
    assert bucket.take(5) == 1
    assert bucket.take(10) == 1


def test_callers_do_not_share_a_bucket() -> None:
    limits = CallerLimits[UserId](1, 1, clock=lambda: 0)
    assert limits.take(UserId(1)) == 0
    assert limits.take(UserId(1)) > 0
    assert limits.take(UserId(2)) == 0


def test_the_memory_of_callers_is_bounded_and_the_one_not_seen_for_longest_is_forgotten() -> None:
    limits = CallerLimits[UserId](1, 1, clock=lambda: 0, max_callers=2)
    for user in (1, 2, 1, 3):
        limits.take(UserId(user))
    assert len(limits) == 2
    assert limits.take(UserId(1)) > 0  # remembered: it was seen after 2
