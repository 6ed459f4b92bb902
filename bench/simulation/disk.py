"""A journal whose disk fails."""

from __future__ import annotations

import random
from typing import Any

from bench.simulation.scenario import Identity
from streamrecon.engine.journal_entries import ENDED, NONE, SENDER, WITHDRAWN, Entry, History


class Disk:
    """One rank's journal: entries, of which a crash keeps at least those that were synced."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Identity, int, Any]] = []
        """Of a frame its hash, and its bytes and position; of what takes it back the GAP; of a sender its epoch."""
        self.bad: dict[int, str] = {}
        """By place: of a frame the head or the pixels cannot be read, of what is none the head."""
        self.synced = 0
        self.full_until = 0.0

    def crash(self, rng: random.Random) -> None:
        """What was not synced is kept in part."""
        del self.entries[rng.randint(self.synced, len(self.entries)) :]
        self.synced = len(self.entries)

    def damage(self, rng: random.Random, live: bool) -> Identity | None:
        """An entry cannot be read any more; the frame that is lost with it, if it is one that nobody can send again."""
        places = [place for place in range(1, len(self.entries)) if place not in self.bad]
        withdrawals = [
            place for place in places if self.entries[place][0] == "withdrawn" and self.entries[place][1][1] >= 0
        ]
        if withdrawals and rng.random() < 0.7:
            places = withdrawals
        elif live and rng.random() < 0.7:
            places = [place for place in places if self.entries[place][0] != "frame"]
        if not places:
            return None
        place = rng.choice(places)
        what, identity, _, _ = self.entries[place]
        self.bad[place] = rng.choice(["head", "pixels"]) if what == "frame" else "head"
        return identity if what == "frame" else None

    def history(self) -> History:
        """What `engine.journal` finds; what it cannot read at the end it cuts off."""
        first = self.entries[:1]
        found, sound = History(first[0][2] if first else 0), len(first)  # the first sender is in the file's beginning
        for place, (what, (kind, index), number, frame) in list(enumerate(self.entries))[sound:]:
            if self.bad.get(place) == "head":
                found.lose()
                continue
            if what == "frame":
                entry = Entry(place, kind, index, float(frame[1] or 0), number)
            elif what == "withdrawn":
                entry = Entry(place, WITHDRAWN, NONE if index < 0 else index, 0.0, number)
            elif what == "sender":
                entry = Entry(place, SENDER, number, 0.0, 0)
            else:
                entry = Entry(place, ENDED, index, 0.0, number)
            if place in self.bad:
                found.damaged(entry)
            else:
                found.take(entry)
                sound = place + 1
        del self.entries[sound:]
        self.bad = {place: how for place, how in self.bad.items() if place < sound}
        self.synced = len(self.entries)
        return found
