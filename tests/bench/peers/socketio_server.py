"""python-socketio with its AioPika manager, as a program of the scratch environment.

`socketio_server.py PORT AMQP_URL`. A client names its room in the query.
"""

import sys
from urllib.parse import parse_qs

import socketio
import uvicorn

manager = socketio.AsyncAioPikaManager(sys.argv[2])
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)


async def connect(sid: str, environ: dict[str, str]) -> None:
    """Put a client into the room it asks for."""
    await server.enter_room(sid, parse_qs(environ["QUERY_STRING"])["room"][0])


server.on("connect", connect)

if __name__ == "__main__":
    uvicorn.run(socketio.ASGIApp(server), port=int(sys.argv[1]), log_level="warning", backlog=4096)
