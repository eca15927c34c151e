"""The queue of heartbeats that wait for a statement.

At most one beat of a profile is in a statement. The number that waits is bounded for each profile
and each account. Beats of suspects, profiles whose rows another transaction holds, wait separately.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from itertools import islice
from time import monotonic
from typing import Final, NamedTuple
from uuid import UUID

from service.errors import TOO_MANY_WAITING, ClientError, Overloaded
from service.viewing.heartbeat_statement import Beat, Waiting
from service.viewing.recorded_row import Recorded
from service.viewing.shared_errors import without_frames

# A player that was offline sends its buffered beats at once; a session stores 100 keys.
MAX_WAITING_PROFILE: Final = 100
MAX_WAITING_ACCOUNT: Final = 400
# Beats of profiles and titles that are set aside fail for this long.
ASIDE_SECONDS: Final = 1.0
# Pause between two probes.
PROBE_SECONDS: Final = 0.05
FORGET_SECONDS: Final = 60.0
# With this many, a statement costs little for each of them.
ENOUGH_BEATS: Final = 16


class Batch(NamedTuple):
    """Beats for one statement; a probe has beats of suspects only."""

    beats: list[Waiting]
    is_probe: bool


class Aside(NamedTuple):
    """Beats of a profile, or starts of a title, fail with `error` until `until` (monotonic).

    Without an error the profile is a suspect: `probes` counts how often the rows of its waiting
    beat were found held.
    """

    until: float
    error: Exception | None
    probes: int = 0


class HeartbeatQueue:
    """Waiting heartbeats by profile; `waiting` counts those without an outcome."""

    def __init__(self, max_waiting: int, max_batch: int) -> None:
        self.waiting = 0
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._enough = min(max_batch, ENOUGH_BEATS)
        self._ready: dict[UUID, Waiting] = {}
        self._suspect: dict[UUID, Waiting] = {}
        self._later: dict[UUID, deque[Waiting]] = {}
        self._busy: set[UUID] = set()
        self._by_account: dict[UUID, int] = {}
        self._profiles_aside: dict[UUID, Aside] = {}
        self._titles_aside: dict[UUID, Aside] = {}
        self._is_probing = False

    @property
    def is_full(self) -> bool:
        """Whether the next beat would be refused."""
        return self.waiting >= self._max_waiting

    @property
    def has_batch(self) -> bool:
        """Whether a full batch is ready."""
        return len(self._ready) >= self._max_batch

    @property
    def has_enough(self) -> bool:
        """Whether ENOUGH_BEATS are ready, or a full batch."""
        return len(self._ready) >= self._enough

    @property
    def has_beats(self) -> bool:
        """Whether a beat is ready."""
        return bool(self._ready)

    @property
    def has_suspects(self) -> bool:
        """Whether the beat of a suspect waits."""
        return bool(self._suspect)

    @property
    def has_probe(self) -> bool:
        """Whether a probe may start: one at a time, with a pause after each."""
        return bool(self._suspect) and not self._is_probing

    def end_pause(self) -> None:
        """Ends the pause after a probe."""
        self._is_probing = False

    def add(self, beat: Beat) -> asyncio.Future[Recorded]:
        """Queues a beat; the future gets its outcome.

        Raises Overloaded when the queue is full, ClientError 429 when the bound of its profile or
        of its account is reached.
        """
        if self.is_full:
            raise Overloaded(1)
        profile_id = beat.profile_id
        of_profile = len(self._later.get(profile_id, ()))
        of_account = self._by_account.get(beat.account_id, 0)
        if of_profile >= MAX_WAITING_PROFILE or of_account >= MAX_WAITING_ACCOUNT:
            raise ClientError(TOO_MANY_WAITING, {"Retry-After": "1"})
        self.waiting += 1
        self._by_account[beat.account_id] = of_account + 1
        future = asyncio.get_running_loop().create_future()
        waiting = (beat, future)
        if self.has_beat(profile_id):
            self._later.setdefault(profile_id, deque()).append(waiting)
        else:
            self._set_ready(waiting)
        return future

    def has_beat(self, profile_id: UUID) -> bool:
        """Whether the next beat of a profile would wait for another one."""
        return profile_id in self._busy or profile_id in self._ready or profile_id in self._suspect

    def take(self) -> Batch | None:
        """Takes the beats of the next statement, suspects first; None while no beat is ready."""
        if self.has_probe and (beats := self._pick(self._suspect)):
            self._is_probing = True
            return Batch(beats, True)
        beats = self._pick(self._ready)
        return Batch(beats, False) if beats else None

    def writable(self, beats: Iterable[Waiting]) -> list[Waiting]:
        """Returns the beats that are still to be written.

        A beat whose caller has been answered `blocked` at its deadline is not counted. A beat whose
        profile or title is set aside fails.
        """
        now = monotonic()
        writable = []
        for waiting in beats:
            beat, future = waiting
            if future.done():
                continue
            aside = self._profiles_aside and self._profiles_aside.get(beat.profile_id)
            if not aside and self._titles_aside and beat.starts:
                aside = self._titles_aside.get(beat.title_id)
            if aside and aside.error is not None and now < aside.until:
                future.set_exception(without_frames(aside.error))
            else:
                writable.append(waiting)
        return writable

    def is_suspect(self, profile_id: UUID) -> bool:
        return profile_id in self._profiles_aside

    def suspect(self, profile_id: UUID) -> int:
        """Makes a profile with held rows a suspect, whose beats only probes write.

        Returns how often the rows of its waiting beat were found held.
        """
        self._forget_old()
        aside = self._profiles_aside.get(profile_id)
        probes = 1 if aside is None or aside.error is not None else aside.probes + 1
        self._profiles_aside[profile_id] = Aside(monotonic(), None, probes)
        return probes

    def set_aside(self, profile_id: UUID, error: Exception) -> None:
        """Fails the beats of a profile for a second; after that it is a suspect."""
        self._profiles_aside[profile_id] = Aside(monotonic() + ASIDE_SECONDS, error)

    def set_title_aside(self, title_id: UUID, error: Exception) -> None:
        """Fails new sessions of a title for a second."""
        self._titles_aside[title_id] = Aside(monotonic() + ASIDE_SECONDS, error)

    def clear(self, beats: Iterable[Waiting]) -> None:
        """Removes the profiles of written beats from the suspects."""
        for beat, _ in beats:
            self._profiles_aside.pop(beat.profile_id, None)

    def _set_ready(self, waiting: Waiting) -> None:
        profile_id = waiting[0].profile_id
        is_suspect = self._profiles_aside and profile_id in self._profiles_aside
        (self._suspect if is_suspect else self._ready)[profile_id] = waiting

    def _pick(self, source: dict[UUID, Waiting]) -> list[Waiting]:
        """Takes a batch from `source`; releases the beats that need no statement."""
        while source:
            picked = list(islice(source.values(), self._max_batch))
            for beat, _ in picked:
                del source[beat.profile_id]
                self._busy.add(beat.profile_id)
            writable = self.writable(picked)
            if len(writable) < len(picked):
                self.release(waiting for waiting in picked if waiting[1].done())
            if writable:
                return writable
        return []

    def release(self, beats: Iterable[Waiting]) -> None:
        """Ends the turn of beats: the next beat of each profile is ready.

        A beat without an outcome belongs to a suspect and waits for the next probe.
        """
        for waiting in beats:
            beat, future = waiting
            self._busy.discard(beat.profile_id)
            if not future.done():
                self._set_ready(waiting)
                continue
            self.waiting -= 1
            of_account = self._by_account.pop(beat.account_id) - 1
            if of_account:
                self._by_account[beat.account_id] = of_account
            later = self._later.get(beat.profile_id)
            if later:
                self._set_ready(later.popleft())
                if not later:
                    del self._later[beat.profile_id]

    def _forget_old(self) -> None:
        """Removes entries that ended more than FORGET_SECONDS ago."""
        oldest = monotonic() - FORGET_SECONDS
        for asides in (self._profiles_aside, self._titles_aside):
            for key in [key for key, aside in asides.items() if aside.until < oldest]:
                del asides[key]
