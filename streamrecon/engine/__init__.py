"""The ranks: they receive frames, reconstruct them as they come, and write versions of the volume."""

from streamrecon.engine.engine import Engine
from streamrecon.engine.outlook import imagined_scan, outlook
from streamrecon.engine.plan import Plan, make_plan
from streamrecon.engine.result import Result
from streamrecon.engine.serving import Service
from streamrecon.engine.status import Status
from streamrecon.engine.world import join

__all__ = ["Engine", "Plan", "Result", "Service", "Status", "imagined_scan", "join", "make_plan", "outlook"]
