"""When to try again: exponential gaps with full jitter."""

FIRST_GAP_S = 0.5
GAP_S_MAX = 60.0  # an output lives for an hour: a longer gap would waste too much of it


def gap_ms(attempts: int, chance: float, *, asked_s: float | None = None, asked_s_max: float = GAP_S_MAX) -> int:
    """Milliseconds to wait after `attempts` failures (≥ 1): up to 0.5, 1, 2, 4 … s, at most GAP_S_MAX.

    `chance` is uniform in [0, 1), and the gap anything up to the bound: those that failed together come back apart.
    What the other side asked for (`asked_s`) is the least, up to `asked_s_max`.
    """
    bound_s = min(GAP_S_MAX, FIRST_GAP_S * 2 ** min(attempts - 1, 16))
    return int(1000 * max(bound_s * chance, min(asked_s_max, asked_s or 0.0)))
