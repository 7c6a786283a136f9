"""nchan: the nginx module for publish and subscribe, from Debian (`libnginx-mod-nchan`)."""

import http.client
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from realtime_service.embedded.loopback import LOOPBACK, free_ports
from tests.bench.processes import WORK, Missing, running

MODULE: Final = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
CONFIGURATION: Final = """\
load_module {module};
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {work}/nginx.pid;
error_log {work}/nginx-error.log;
events {{ worker_connections 65536; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_body_temp_path {work}/nginx-body;
    nchan_shared_memory_size 512M;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location ~ ^/ws/(.+)$ {{
            nchan_subscriber websocket;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
        }}
        location ~ ^/publish/(.+)$ {{
            nchan_publisher http;
            nchan_channel_id $1;
            nchan_message_buffer_length 1000;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Nchan:
    """An nginx that runs."""

    pid: int
    port: int
    publishing: http.client.HTTPConnection

    def publish(self, channel: int, body: bytes) -> None:
        """Publish one message, over a connection that stays."""
        self.publishing.request("POST", f"/publish/{channel}", body)
        answer = self.publishing.getresponse()
        answer.read()
        assert answer.status in (201, 202), answer.status


@contextmanager
def nchan() -> Iterator[Nchan]:
    """Nginx with one worker. Raises Missing."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None or not MODULE.exists():
        raise Missing("nchan is not installed: apt-get install nginx libnginx-mod-nchan")
    port = free_ports(1)[0]
    configuration = WORK / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(module=MODULE, work=WORK, port=port))
    words = (program, "-c", configuration, "-e", WORK / "nginx-error.log")
    with running(words, port, log="nchan") as pid:
        publishing = http.client.HTTPConnection(LOOPBACK, port)
        yield Nchan(pid, port, publishing)
        publishing.close()
