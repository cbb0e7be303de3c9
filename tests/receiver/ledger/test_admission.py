"""Who is still taken when the disk is slow: a decision about numbers, and a promise about the time of an answer."""

import asyncio

import pytest

from receiver.core.errors import LedgerFull
from receiver.ledger import admission
from receiver.ledger.admission import ANSWER_S_MAX, WAIT_S_MAX, Admission, Ahead, Callers

ROW_BYTES = 2_000


def learned(*batches):
    """An admission that has seen batches of so many rows that took so many seconds, one right after the other."""
    made, now_s = Admission(), 100.0
    for rows, took_s in batches:
        made.begun(now_s)
        now_s += took_s
        made.ended(rows * ROW_BYTES, now_s, more=False)
    return made, now_s


def taken(made, now_s, *, rows_max=100_000):
    """How many rows are taken at once while a batch of one is under way; they go in batches of 512."""
    made.begun(now_s)
    for rows in range(rows_max):
        if not made.admits(now_s, Ahead(ROW_BYTES, 1 + rows // 512, (rows + 1) * ROW_BYTES)):
            return rows
    return rows_max


def test_a_quick_disk_takes_whatever_fits_in_memory():
    assert taken(*learned(*[(1, 0.005)] * 20), rows_max=4_096) == 4_096


def test_a_burst_after_a_quiet_and_uneven_time_is_taken():
    uneven = [(1 + turn % 3, 0.005 + 0.045 * (turn % 4 == 0)) for turn in range(40)]
    assert taken(*learned(*uneven), rows_max=4_096) == 4_096


def test_what_a_row_costs_is_learned_from_batches_of_different_sizes():
    made, now_s = learned(*[(rows, 0.2 + 0.004 * rows) for rows in (1, 40, 200, 120, 300, 80, 10, 150)])
    fits = (WAIT_S_MAX - 2 * 0.2) / 0.004
    assert fits * 0.5 < taken(made, now_s) < fits * 1.2


@pytest.mark.parametrize("took_s", [0.8, 1.0, 1.1])
def test_a_slow_sync_takes_those_who_come_late_enough_for_the_next_one(took_s):
    made, now_s = learned(*[(1, took_s)] * 5)
    made.begun(now_s)
    assert not made.admits(now_s, Ahead(ROW_BYTES, 1, ROW_BYTES))
    assert made.admits(now_s + took_s * 0.95, Ahead(ROW_BYTES, 1, ROW_BYTES))


def test_who_came_first_does_not_wait_too_long_for_those_who_come_after():
    made, now_s = learned(*[(1, 0.4)] * 5)
    made.begun(now_s)
    assert made.admits(now_s + 0.2, Ahead(ROW_BYTES, 1, ROW_BYTES))
    assert made.admits(now_s + 0.4, Ahead(ROW_BYTES, 1, 2 * ROW_BYTES, waited_s=0.2))
    assert not made.admits(now_s + 0.4, Ahead(0, 1, 2 * ROW_BYTES, waited_s=1.0))


def test_bad_news_is_believed_at_once_and_good_news_soon():
    made, now_s = learned(*[(1, 0.005)] * 100, (1, 1.4))
    assert taken(made, now_s) == 0
    for _ in range(6):
        made.begun(now_s)
        now_s += 0.005
        made.ended(ROW_BYTES, now_s, more=False)
    assert taken(made, now_s, rows_max=1_000) == 1_000


def test_a_batch_that_does_not_end_has_all_newcomers_refused():
    made, now_s = learned(*[(1, 0.005)] * 10)
    made.begun(now_s)
    assert made.admits(now_s + WAIT_S_MAX - 0.1, Ahead(ROW_BYTES, 1, ROW_BYTES))
    assert not made.admits(now_s + WAIT_S_MAX + 0.1, Ahead(ROW_BYTES, 1, ROW_BYTES))


def test_with_nobody_waiting_one_is_taken_to_see_whether_the_disk_is_well_again():
    made, now_s = learned((1, 60.0))
    assert made.admits(now_s, Ahead(0, 1, ROW_BYTES))
    made.begun(now_s)
    assert not made.admits(now_s, Ahead(ROW_BYTES, 1, ROW_BYTES))


def test_others_are_asked_to_come_later_before_a_delivery_is_refused():
    made, now_s = learned(*[(512, 0.35)] * 5)
    made.begun(now_s)
    assert not made.presses(now_s, Ahead(512 * ROW_BYTES, 1, 88 * ROW_BYTES))
    assert made.presses(now_s, Ahead(512 * ROW_BYTES, 2, 588 * ROW_BYTES))
    assert made.admits(now_s, Ahead(512 * ROW_BYTES, 2, 588 * ROW_BYTES))


def test_others_are_asked_to_come_later_for_a_second_after_a_refusal():
    made, now_s = learned((1, 60.0))
    assert taken(made, now_s) == 0
    assert made.presses(now_s + 0.9, Ahead(0, 1, 0))
    assert not made.presses(now_s + 1.1, Ahead(0, 1, 0))


async def test_who_waits_too_long_is_told_so_in_time_and_the_others_are_not(monkeypatch):
    monkeypatch.setattr(admission, "ANSWER_S_MAX", 0.2)
    loop = asyncio.get_running_loop()
    callers = Callers(lambda: LedgerFull("late"))
    first, second, third = loop.create_future(), loop.create_future(), loop.create_future()
    began_s = loop.time()
    callers.add(first, began_s)
    callers.add(second, began_s)
    await asyncio.sleep(0.1)
    callers.add(third, loop.time())
    first.set_result(True)
    callers.answered([first])
    with pytest.raises(LedgerFull, match="late"):
        await second
    assert 0.15 < loop.time() - began_s < 0.29
    assert not third.done()
    third.set_result(True)
    callers.answered([third])
    await asyncio.sleep(0.2)
    assert callers._timer is None


def test_an_answer_is_due_before_the_caller_gives_up():
    assert WAIT_S_MAX < ANSWER_S_MAX < 2
