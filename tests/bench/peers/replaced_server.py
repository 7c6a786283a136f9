"""The replaced module's way, as a program: FastAPI, a dictionary of sockets, `send_json` to each in a loop.

Run with the scratch environment's Python: `replaced_server.py PORT`.
"""

import json
import sys
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect

app = FastAPI()
connections: defaultdict[int, list[WebSocket]] = defaultdict(list)


async def listen(socket: WebSocket, diagnosis_id: int) -> None:
    """Keep a client until it leaves."""
    await socket.accept()
    connections[diagnosis_id].append(socket)
    await socket.send_json({"type": "connect", "diagnosis_id": diagnosis_id})
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        connections[diagnosis_id].remove(socket)


async def broadcast(diagnosis_id: int, request: Request) -> dict[str, int]:
    """Send a JSON body to all clients of a diagnosis."""
    message = json.loads(await request.body())
    for socket in list(connections[diagnosis_id]):
        await socket.send_json(message)
    return {"reached": len(connections[diagnosis_id])}


app.add_api_websocket_route("/ws/{diagnosis_id}", listen)
app.add_api_route("/publish/{diagnosis_id}", broadcast, methods=["POST"])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", backlog=4096)
