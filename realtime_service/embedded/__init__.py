"""A private RabbitMQ node for `make run` and for the tests: obtained, watched and removed without a trace.

Law: nothing here touches a broker that is already running, listens outside loopback, or outlives its owner.
"""
