"""The sockets: the only place that imports zmq."""

from streamrecon.transport.clock import Clock
from streamrecon.transport.control import ControlHub, ControlLink
from streamrecon.transport.curve import CurveKeys, read_curve_keys
from streamrecon.transport.endpoint import check_bind, check_connect, is_private, lane_endpoint, private_ipc
from streamrecon.transport.poller import Poller
from streamrecon.transport.publisher import Publisher
from streamrecon.transport.receiver import Receiver
from streamrecon.transport.sender import SendReport, send_scan
from streamrecon.transport.subscriber import Subscriber
from streamrecon.transport.subscription import Slices, Subscription, subscribe
from streamrecon.transport.wakeup import Wakeup

__all__ = [
    "Clock",
    "ControlHub",
    "ControlLink",
    "CurveKeys",
    "Poller",
    "Publisher",
    "Receiver",
    "SendReport",
    "Slices",
    "Subscriber",
    "Subscription",
    "Wakeup",
    "check_bind",
    "check_connect",
    "is_private",
    "lane_endpoint",
    "private_ipc",
    "read_curve_keys",
    "send_scan",
    "subscribe",
]
