"""The server that every arm asks: one nginx worker and, for raw TCP, a small program of ours; both in the server's pod."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.netns import Pod

HTTP1, HTTP2, TCP = 8080, 8081, 7000
"""TCP + 1 echoes."""
SMALL, LARGE = "/small", "/large"
SMALL_BYTES, LARGE_BYTES = 64, 64 * 1024
DENIED = "/Denied"
"""A path that the policy of the proxied arms refuses; nginx itself says 404."""
TCP_PROGRAM = Path(__file__).parent / "inside" / "tcp.py"

_CONFIGURATION = """\
daemon off;
worker_processes 1;
error_log {directory}/error.log crit;
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    sendfile on;
    tcp_nodelay on;
    tcp_nopush on;
    open_file_cache max=16;
    default_type application/octet-stream;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {http1} backlog=4096;
        listen {http2} http2 backlog=4096;
        root {directory}/www;
        location = {small} {{ return 200 "{small_body}"; }}
    }}
}}
"""


def start(pod: Pod, directory: Path) -> None:
    """Start both in the pod; they end with its cluster."""
    (directory / "www").mkdir(parents=True)
    (directory / "www" / LARGE[1:]).write_bytes(b"x" * LARGE_BYTES)
    # The worker is not root, and it has to read the file.
    for each in (directory.parent, directory, directory / "www"):
        each.chmod(0o755)
    text = _CONFIGURATION.format(directory=directory, http1=HTTP1, http2=HTTP2, small=SMALL, small_body="x" * SMALL_BYTES)
    configuration = directory / "nginx.conf"
    configuration.write_text(text)
    commands = (
        ["nginx", "-e", str(directory / "error.log"), "-c", str(configuration)],
        [sys.executable, "-I", str(TCP_PROGRAM), "serve", pod.ipv4, str(TCP)],
    )
    with (directory / "log").open("wb") as log:
        for command in commands:
            pod.popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
