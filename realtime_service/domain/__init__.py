"""The delivery rules, pure: no await, no clock, no logger, no socket.

Things happen to a `Room` (a client joins, a delivery arrives, a proof comes in); it answers with effects (send this to
those, settle that) which somebody else carries out. So every rule can be tested by state machines in microseconds.
"""
