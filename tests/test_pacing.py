"""The pacer and the shared row, decided on a virtual clock."""

import json
import math
from dataclasses import replace
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.partner_central.pacing import (
    EXPIRES,
    SLOWEST,
    START,
    Learner,
    Pace,
    Pacer,
    Report,
    Row,
    Share,
    Start,
    exchange,
)
from tests.virtual_api import Process, Run, Service, World, about_60_ms

SEEDS = range(5)


def alone(rate: float, items: int, seed: int, known: float | None, *, slots: int = 32) -> Run:
    process = Process(Pacer(known), slots)
    return World(Service(rate, rate, about_60_ms), [process], items, seed).play()


def four(seed: int, *, gone: tuple[float, float] = (math.inf, math.inf), dies: float = math.inf) -> World:
    processes = [Process(Pacer(), starts=number / 10, shares=True, name=f"w{number}") for number in range(4)]
    processes[3].dies = dies
    world = World(Service(50, 50, about_60_ms), processes, 3_000, seed)
    world.database_gone = gone
    world.play()
    return world


@pytest.mark.parametrize(
    ("rate", "items", "slots", "known", "wall", "throttled"),
    [
        (10, 1_000, 32, None, 1.05, 0.03),
        (10, 1_000, 32, 10.0, 1.03, 0.01),
        (50, 3_000, 32, None, 1.05, 0.03),
        (50, 3_000, 32, 50.0, 1.03, 0.01),
        (500, 15_000, 64, None, 1.10, 0.01),
        (500, 15_000, 64, 500.0, 1.05, 0.01),
    ],
)
def test_stays_at_the_quota(
    *, rate: float, items: int, slots: int, known: float | None, wall: float, throttled: float
) -> None:
    for seed in SEEDS:
        run = alone(rate, items, seed, known, slots=slots)
        assert run.seconds * rate / (items - rate) <= wall
        assert run.throttled <= throttled


def test_follows_a_quota_that_falls() -> None:
    for seed in SEEDS:
        world = World(Service(10, 10, about_60_ms), [Process(Pacer())], 600, seed)
        fell = 0.0

        def watch(world: World = world) -> None:
            nonlocal fell
            if len(world.run.served_at) < 300:
                world.at(world.now + 0.05, lambda: watch(world))
                return
            world.service.takes(world.now)
            world.service.rate, fell = 3, world.now

        world.at(0.0, watch)
        run = world.play()
        assert run.seconds <= 1.10 * (fell + 300 / 3)
        later = [when for when in run.throttled_at if when >= fell + 30]
        assert len(later) < 0.05 * sum(when >= fell + 30 for when in run.served_at)


def test_finds_a_quota_that_has_risen() -> None:
    run = alone(50, 3_000, 0, known=10.0)
    assert run.seconds <= 1.25 * 59


def test_costs_little_where_there_is_no_quota() -> None:
    def quick(rng: object) -> float:
        del rng
        return 0.0125

    process = Process(Pacer())
    run = World(Service(math.inf, 1, quick), [process], 50_000, 0).play()
    assert run.seconds <= 1.05 * 50_000 / 32 * 0.0125
    assert process.pacer.pace is Pace.NOT_THE_LIMIT


def test_unused_permission_does_not_raise_the_rate() -> None:
    pacer = Pacer(100.0)
    for second in range(1, 200):
        assert pacer.turn(float(second)) == 0
        pacer.served(second + 0.06, float(second))
    assert pacer.rate <= 100
    assert pacer.pace is Pace.NOT_THE_LIMIT


def test_begins_modestly_and_lets_two_go_at_once() -> None:
    pacer = Pacer()
    assert [pacer.turn(0.0), pacer.turn(0.0)] == [0, 0]
    assert pacer.turn(0.0) == pytest.approx(1 / START)
    assert pacer.pace is Pace.LOOKING


def test_an_idle_hour_is_not_saved_up() -> None:
    pacer = Pacer(10.0)
    pacer.turn(0.0)
    assert [pacer.turn(3600.0) == 0 for _ in range(4)] == [True, True, False, False]


def test_the_throttled_answers_of_one_round_trip_change_the_pace_once() -> None:
    pacer = Pacer(10.0)
    asked = [0.0, 0.0, 0.2, 0.3]
    for when in asked:
        assert pacer.turn(when) == 0
    pacer.throttled(0.31, asked[0])
    rate, wait = pacer.rate, pacer.turn(0.35)
    for when in asked[1:]:
        pacer.throttled(0.35, when)
    assert pacer.rate == rate
    assert pacer.turn(0.35) == pytest.approx(wait)


def test_a_throttled_call_makes_everybody_wait_longer() -> None:
    pacer = Pacer(10.0)
    pacer.turn(0.0)
    pacer.turn(0.0)
    before = pacer.turn(0.05)
    pacer.throttled(0.05, 0.0)
    assert pacer.turn(0.05) > before


def test_a_pause_begun_at_a_fast_rate_is_no_stall_at_a_slow_one() -> None:
    pacer = Pacer(281.0)
    pacer.turn(0.0)
    pacer.turn(2.0)
    pacer.throttled(2.0, 0.0)
    pacer.throttled(2.0, 2.0)
    assert pacer.turn(2.0) <= 2 / pacer.rate + 0.1


def test_a_late_timer_catches_up_by_four_milliseconds_only() -> None:
    pacer = Pacer(2_500.0)
    pacer.turn(0.0)
    assert sum(pacer.turn(1.0) == 0 for _ in range(100)) == int(0.004 * pacer.rate)


def test_goes_on_when_a_quota_of_nothing_comes_back() -> None:
    world = World(Service(10, 10, about_60_ms), [Process(Pacer(10.0))], 600, 0)

    def set_rate(rate: float) -> None:
        world.service.takes(world.now)
        world.service.rate = rate

    world.at(20.0, lambda: set_rate(0))
    world.at(80.0, lambda: set_rate(10))
    assert world.play().seconds <= 59 + 60 + 30


def test_a_failed_call_is_no_reason_to_go_faster() -> None:
    pacer = Pacer()
    pacer.turn(0.0)
    pacer.failed(0.06, 0.0)
    assert pacer.rate == START


def test_the_ceiling_holds() -> None:
    process = Process(Pacer(ceiling=20.0))
    run = World(Service(math.inf, 1, about_60_ms), [process], 1_000, 0).play()
    assert run.seconds >= (1_000 - 2) / 20
    assert process.pacer.pace is Pace.AT_CEILING


@given(
    known=st.none() | st.floats(0.1, 5_000),
    ceiling=st.just(math.inf) | st.floats(0.5, 1_000),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["turn", "turn", "served", "throttled", "failed"]),
            st.floats(0.0, 3.0) | st.floats(0.0, 0.01),
        ),
        max_size=200,
    ),
)
@settings(max_examples=200, deadline=None)
def test_never_exceeds_its_rate_and_never_stalls(
    known: float | None, ceiling: float, steps: list[tuple[str, float]]
) -> None:
    pacer = Pacer(known, ceiling=ceiling)
    now, gone, open_calls, rates = 0.0, [], [], [pacer.rate]
    for what, after in steps:
        now += after
        if what == "turn":
            if pacer.turn(now) == 0:
                gone.append((now, len(rates)))
                open_calls.append(now)
        elif open_calls:
            getattr(pacer, what)(now, open_calls.pop(0))
        rates.append(pacer.rate)
        assert min(SLOWEST, ceiling) <= pacer.rate <= ceiling
        assert pacer.quota is None or pacer.quota >= SLOWEST
    for first in range(len(gone)):
        for last in range(first, len(gone)):
            (begin, since), (end, until) = gone[first], gone[last]
            rate = max(rates[max(since - 1, 0) : until + 1])
            assert last - first + 1 <= rate * (end - begin) + max(2, 0.004 * rate) + 0.001
    for _ in range(20):  # whatever has happened, the next calls go, each within seconds
        waits = 0
        while (wait := pacer.turn(now)) > 0:
            assert wait <= 2 / pacer.rate + 10 / 4 + 0.001
            now, waits = now + wait, waits + 1
            assert waits < 3


def report(
    worker: str,
    *,
    quota: float | None = None,
    seconds: float = 1.0,
    served: int = 10,
    throttled: float | None = None,
    served_after: int = 0,
    want: float | None = None,
) -> Report:
    return Report(worker, quota, seconds, served, throttled, served_after, want)


def rates(row: Row) -> dict[str, float]:
    assert row["learner"] is not None
    return {name: lease["part"] * row["learner"]["rate"] for name, lease in row["leases"].items()}


def shared(workers: int, quota: float = 40.0) -> tuple[Row, float]:
    """The row after `workers` have come twice, and the time."""
    row, now = exchange(None, report("w0", quota=quota), 0.0)[0], 0.0
    for now in (1.0, 2.0):
        for number in range(workers):
            row, _ = exchange(row, report(f"w{number}"), now)
    return row, now


def test_four_processes_share_evenly() -> None:
    worlds = [four(seed) for seed in SEEDS]
    assert max(world.run.seconds for world in worlds) <= 1.05 * 59
    assert median(world.run.throttled for world in worlds) <= 0.03
    shares = [list(world.run.per_process.values()) for world in worlds]
    assert median(min(share) / max(share) for share in shares) >= 0.9


def test_the_share_of_a_dead_process_goes_to_the_others() -> None:
    world = four(1, dies=20.0)
    assert world.run.seconds <= 1.05 * 59
    assert world.row is not None
    assert "w3" not in world.row["leases"]


def test_without_the_database_each_goes_on_with_its_last_share() -> None:
    world = four(2, gone=(20.0, 30.0))
    assert world.run.seconds <= 1.05 * 59
    meanwhile = [when for when in world.run.throttled_at if 20 <= when < 30]
    assert len(meanwhile) <= 0.03 * 500


def test_nothing_is_shared_while_nothing_is_known() -> None:
    row, share = exchange(None, report("w0", seconds=0.0), 0.0)
    assert share is None
    assert list(row["leases"]) == ["w0"]


def test_all_get_the_same() -> None:
    row, _ = shared(4)
    assert list(rates(row).values()) == pytest.approx([rates(row)["w0"]] * 4, rel=0.05)


def test_who_wants_less_leaves_the_rest_to_the_others() -> None:
    row, now = shared(2)
    for _ in range(3):
        now += 1
        row, _ = exchange(row, report("w0", want=4.0, served=3), now)
        row, _ = exchange(row, report("w1"), now)
    assert rates(row)["w0"] == pytest.approx(4, rel=0.05)
    assert sum(rates(row).values()) == pytest.approx(
        row["learner"]["rate"] if row["learner"] else 0, rel=0.05
    )


def test_who_joins_gets_little_until_there_is_room() -> None:
    row, now = shared(1)
    row, _ = exchange(row, report("new", seconds=0.0), now + 0.1)
    assert sum(lease["part"] for lease in row["leases"].values()) <= 1.13
    row, _ = exchange(row, report("w0"), now + 1)
    row, _ = exchange(row, report("new"), now + 1)
    assert rates(row)["new"] == pytest.approx(rates(row)["w0"], rel=0.15)


def test_a_silent_worker_keeps_its_part_for_three_seconds() -> None:
    row, now = shared(2)
    for _ in range(2):
        now += 1
        row, _ = exchange(row, report("w0"), now)
        assert "w1" in row["leases"]
    row, _ = exchange(row, report("w0"), now + EXPIRES - 1.9)
    assert list(row["leases"]) == ["w0"]
    assert row["leases"]["w0"]["part"] == pytest.approx(1)


def test_who_leaves_gives_back_at_once() -> None:
    row, now = shared(2)
    row, share = exchange(row, replace(report("w1"), leaving=True), now + 0.5)
    assert share is None
    row, _ = exchange(row, report("w0"), now + 0.6)
    assert row["leases"]["w0"]["part"] == pytest.approx(1)


def test_when_the_database_was_away_nobody_is_taken_for_dead() -> None:
    row, now = shared(4)
    row, share = exchange(row, report("w0", seconds=11.0), now + 10)
    assert len(row["leases"]) == 4
    assert isinstance(share, Share)
    assert share.quota <= 40 / 4 * 1.05


def test_the_next_run_starts_a_little_below_what_was_learned() -> None:
    row, now = shared(4)
    learned = Learner(**row["learner"] or {}).quota
    assert learned is not None
    row, share = exchange(row, report("next", seconds=0.0), now + 3_600)
    assert isinstance(share, Share)
    assert share.quota == pytest.approx(learned)
    assert rates(row)["next"] == pytest.approx(0.97 * learned, rel=0.01)


def test_after_a_run_that_nothing_held_back_the_next_one_looks_from_half_its_speed() -> None:
    row, now = None, 0.0
    for now in (0.0, 1.0, 2.0):
        row, _ = exchange(row, report("w0", seconds=min(now, 1.0), served=int(500 * now)), now)
    # A burst at the end proves nothing.
    row, _ = exchange(row, replace(report("w0", seconds=0.01, served=300), leaving=True), now + 0.01)
    assert json.loads(json.dumps(row)) == row
    row, start = exchange(row, report("next", seconds=0.0), now + 3_600)
    assert start == Start(500.0)
    pacer = Pacer()
    pacer.share(start, 0.0)
    assert (pacer.quota, pacer.rate, pacer.pace) == (None, 500.0, Pace.LOOKING)
    # Once it is on its way it knows better than any row.
    pacer.turn(0.0)
    pacer.served(0.01, 0.0)
    before = pacer.rate
    pacer.share(start, 0.0)
    assert pacer.rate == before
    # Who comes beside it gets half of that, and a quota that somebody has met ends it.
    assert exchange(row, report("other", seconds=0.0), now + 3_600)[1] == Start(250.0)
    row, _ = exchange(row, report("next", quota=40.0), now + 3_601)
    assert "served" not in row


@pytest.mark.parametrize("rate", [10, 50, 500])
def test_a_quota_that_comes_where_there_was_none_costs_one_round_trip_of_calls(rate: int) -> None:
    pacer = Pacer()
    pacer.share(Start(3_000.0), 0.0)
    run = World(Service(rate, rate, about_60_ms), [Process(pacer, 32)], 30 * rate, 1).play()
    assert run.throttled * 30 * rate <= 32 + 0.03 * 30 * rate


def test_several_throttled_workers_change_the_rate_once() -> None:
    row, now = shared(4)
    decided = []
    for number in range(4):
        told = report(f"w{number}", throttled=0.05)
        row, _ = exchange(row, told, now + 1 + number / 10)
        decided.append(row["learner"]["decided"] if row["learner"] else None)
    assert decided == [decided[0]] * 4


def test_a_worker_may_lower_its_share_but_not_raise_it() -> None:
    pacer = Pacer()
    pacer.turn(0.0)
    pacer.share(Share(10.0, 0.02, 100.0, 0.0, 4), 0.0)
    for call in range(100):
        pacer.served(0.06 + call / 20, call / 20)
    pacer.throttled(5.1, 5.0)
    assert pacer.quota == 10
    pacer.throttled(9.0, 8.9)
    assert pacer.quota < 10


def test_without_a_new_share_a_worker_goes_no_faster() -> None:
    pacer = Pacer()
    pacer.turn(0.0)
    pacer.share(Share(10.0, 0.02, 20.0, 0.0, 4), 0.0)
    rate = pacer.rate
    for call in range(100):
        now = EXPIRES + 0.1 + call / 10
        pacer.turn(now)
        pacer.served(now, now - 0.06)
    assert pacer.rate == rate


def test_a_pause_is_no_stall_under_a_much_smaller_share() -> None:
    pacer = Pacer(1_000.0)
    pacer.turn(0.0)
    pacer.throttled(0.06, 0.0)
    pacer.share(Share(1.0, 0.02, 20.0, 0.0, 4), 0.06)
    assert pacer.turn(0.06) <= 2 / pacer.rate + 0.1


def test_the_row_is_small_and_json() -> None:
    row, _ = shared(4)
    assert json.loads(json.dumps(row)) == row
    assert len(json.dumps(row)) < 1_000
