"""The sockets: the only place that imports zmq."""

from streamrecon.transport.clock import Clock
from streamrecon.transport.control import ControlHub, ControlLink
from streamrecon.transport.endpoint import check_bind, lane_endpoint, private_ipc
from streamrecon.transport.poller import Poller
from streamrecon.transport.publisher import Publisher, Slices, subscribe
from streamrecon.transport.receiver import Receiver
from streamrecon.transport.sender import SendReport, send_scan
from streamrecon.transport.wakeup import Wakeup

__all__ = [
    "Clock",
    "ControlHub",
    "ControlLink",
    "Poller",
    "Publisher",
    "Receiver",
    "SendReport",
    "Slices",
    "Wakeup",
    "check_bind",
    "lane_endpoint",
    "private_ipc",
    "send_scan",
    "subscribe",
]
