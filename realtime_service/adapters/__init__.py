"""The outside world behind ports: RabbitMQ, the database, tokens. Each outside library has one user here.

Outside errors are translated where they occur; past this package, only `domain.errors` are raised.
"""
