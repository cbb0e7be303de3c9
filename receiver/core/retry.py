"""When to try again: exponential gaps with full jitter."""

FIRST_GAP_S = 0.5
GAP_S_MAX = 60.0  # an output lives for an hour: a longer gap would waste too much of it


def gap_ms(attempts: int, chance: float, *, asked_s: float | None = None, gap_s_max: float = GAP_S_MAX) -> int:
    """Milliseconds to wait after `attempts` failures (≥ 1): 0.5, 1, 2, 4 … s, shortened at random.

    `chance` is uniform in [0, 1). What the other side asked for (`asked_s`) is the least, the cap holds for both.
    """
    bound_s = min(gap_s_max, FIRST_GAP_S * 2 ** min(attempts - 1, 16))
    wanted_s = bound_s * (0.5 + chance / 2)
    return int(1000 * min(gap_s_max, max(wanted_s, asked_s or 0.0)))
