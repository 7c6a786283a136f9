"""The HTTP and WebSocket side: what clients, upstream tasks and operators talk to."""
