"""One rank: receives frames, reconstructs them as they come, and writes versions of the volume."""

from streamrecon.engine.engine import Engine, Result
from streamrecon.engine.outlook import imagined_scan, outlook
from streamrecon.engine.plan import Plan, make_plan
from streamrecon.engine.status import Status

__all__ = ["Engine", "Plan", "Result", "Status", "imagined_scan", "make_plan", "outlook"]
