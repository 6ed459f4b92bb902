"""The protocol, version 1, with no I/O in it: messages, codec, credit, digest, session."""
