"""Prompt prefixes one prefill replica holds. Knows keys, tokens and age; knows nothing of calls or time."""

from collections.abc import Iterable

PrefixKey = tuple[int, str]
"""(workflow slot, prefix group)."""


class PrefixCache:
    """Least-recently-used prefixes within a token budget; the KV of running batches is not charged to it.

    Parameters
    ----------
    capacity_tokens : int
        Most tokens held over all prefixes; a longer prefix is held up to the capacity.
    """

    __slots__ = ("_entries", "capacity_tokens", "held_tokens")

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.held_tokens = 0
        self._entries: dict[PrefixKey, int] = {}  # oldest use first

    def use(self, key: PrefixKey) -> int:
        """Tokens held for `key` (0 if none), which becomes the most recently used."""
        tokens = self._entries.pop(key, 0)
        if tokens:
            self._entries[key] = tokens
        return tokens

    def hold(self, key: PrefixKey, tokens: int) -> tuple[int, list[PrefixKey]]:
        """Hold at least `tokens` for `key`, most recently used; returns (tokens now held, keys evicted for it)."""
        entries = self._entries
        before = entries.pop(key, 0)
        kept = min(max(before, tokens), self.capacity_tokens)
        entries[key] = kept
        self.held_tokens += kept - before
        evicted = []
        while self.held_tokens > self.capacity_tokens:
            oldest = next(iter(entries))
            self.held_tokens -= entries.pop(oldest)
            evicted.append(oldest)
        return kept, evicted

    def drop(self, keys: Iterable[PrefixKey]) -> None:
        """Forget these prefixes, where held."""
        for key in keys:
            self.held_tokens -= self._entries.pop(key, 0)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.held_tokens = 0
