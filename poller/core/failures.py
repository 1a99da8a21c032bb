"""How often a caller may fail to show a valid token before it is turned away unheard."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field


@dataclass
class Failures:
    """Counts failures within the last ``window`` seconds, per caller and of all; remembers no more than ``most_callers``.

    Whoever has shown a valid token of late is heard whatever others do: a caller that shares an address must not be locked out by another.
    """

    per_caller: int = 10
    of_all: int = 100
    window: float = 60.0
    most_callers: int = 10_000
    _by_caller: OrderedDict[str, deque[float]] = field(default_factory=OrderedDict)
    _all: deque[float] = field(default_factory=deque)
    _trusted: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def wait(self, caller: str, token: bytes, now: float) -> float:
        """Seconds for which the caller is turned away; 0 when it is heard."""
        if token in self._trusted:
            return 0.0
        own = self._by_caller.get(caller, deque())
        return max(self._wait(own, self.per_caller, now), self._wait(self._all, self.of_all, now))

    def failed(self, caller: str, now: float) -> None:
        """Note that a caller had no valid token."""
        own = self._by_caller.setdefault(caller, deque(maxlen=self.per_caller))
        self._by_caller.move_to_end(caller)
        own.append(now)
        self._all.append(now)
        while len(self._all) > self.of_all:
            self._all.popleft()
        while len(self._by_caller) > self.most_callers:
            self._by_caller.popitem(last=False)

    def succeeded(self, token: bytes) -> None:
        """Note the digest of a valid token."""
        self._trusted[token] = None
        self._trusted.move_to_end(token)
        while len(self._trusted) > self.most_callers:
            self._trusted.popitem(last=False)

    def forget(self, token: bytes) -> None:
        """Note that a token is valid no more."""
        self._trusted.pop(token, None)

    def _wait(self, failures: deque[float], most: int, now: float) -> float:
        if len(failures) < most:
            return 0.0
        return max(0.0, failures[-most] + self.window - now)
