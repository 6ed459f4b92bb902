"""What `python -m bench.simulate` plays: each part of a scan, on a clock of its own."""
