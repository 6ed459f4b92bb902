"""The ranks: they receive frames, reconstruct them as they come, and write versions of the volume."""

from streamrecon.engine.engine import Engine, Result
from streamrecon.engine.outlook import imagined_scan, outlook
from streamrecon.engine.plan import Plan, make_plan
from streamrecon.engine.status import Status
from streamrecon.engine.world import join

__all__ = ["Engine", "Plan", "Result", "Status", "imagined_scan", "join", "make_plan", "outlook"]
