"""What stays in a process from one scan to the next."""

from __future__ import annotations

import secrets

from streamrecon_kernels import limit_threads, threads

from streamrecon.config import Config
from streamrecon.engine.doors import Doors
from streamrecon.engine.gallery import Gallery
from streamrecon.engine.previous import Previous
from streamrecon.engine.world import World, machine
from streamrecon.errors import EndpointError, StreamreconError
from streamrecon.transport import lane_endpoint


class Series:
    """One rank's; an engine that is made for one scan only has one of its own.

    Parameters
    ----------
    config
        The options.
    world
        The ranks that share each scan. All of them make one.
    stay
        Whether the doors outlive an engine; then whoever made the series closes it.

    Raises
    ------
    EndpointError
        If an endpoint cannot be used.
    RankError
        If another rank is missing.
    """

    def __init__(self, config: Config, world: World, stay: bool = False) -> None:
        rank = world.rank
        self.hosts: list[str] = world.share(machine())
        """Machine of each rank."""
        self.here = self.hosts.count(self.hosts[rank])
        """Ranks on this machine."""
        self.index = self.hosts[:rank].count(self.hosts[rank])
        """Of this rank among them."""
        if self.here > 1:
            limit_threads(threads() // self.here)
        listen, template = lane_endpoint(config.engine.listen, rank, self.hosts, config.engine.insecure)
        lanes = [
            lane_endpoint(config.engine.listen, each, self.hosts, config.engine.insecure)[0]
            for each in range(world.size)
        ]
        if config.emit.publish is not None and config.emit.publish in lanes:
            raise EndpointError(
                f"viewers cannot come in at {config.emit.publish}: rank {lanes.index(config.emit.publish)} listens there for the "
                "sender; choose another --publish, or --listen"
            )
        self.stay = stay
        self.doors = Doors(config, listen, stay)
        self.gallery: Gallery | None = None
        """Where viewers come in, at rank 0, where they may."""
        if config.emit.publish and not rank:
            try:
                self.gallery = Gallery(config.emit.publish, config.engine.insecure, secrets.token_urlsafe(24))
            except StreamreconError:
                self.doors.close()
                raise
            self.gallery.start()
        bound = self.doors.endpoint
        self.advertised = template.replace("*", bound.rpartition(":")[2]) if template else bound
        """Where other machines find this lane: their name of this one, where there are several, and the port that was bound."""
        self.previous: Previous | None = None
        """What the last scan that was completed has taught."""
        self.compiled = False
        """Whether the kernels are ready."""

    def close(self) -> None:
        """Close the doors, and the gallery."""
        self.doors.close()
        if self.gallery is not None:
            self.gallery.stop()
