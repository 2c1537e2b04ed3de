"""How the manager is served: nginx's configuration and gunicorn's command, as data.

nginx holds TLS, client certificates, time-outs and body limits, so that slow or hostile clients never reach Flask's threads. It runs in
the foreground with every path of its own, so that it stands beside a system nginx, and works for root and for an ordinary user alike.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Optional

LARGEST_BODY_MIB = 64
THREADS = 32
PROBLEMS = (
    (400, "bad_request", "Bad request", "The request is no valid HTTPS request, or its client certificate is not accepted."),
    (413, "too_large", "Too large", f"The body is larger than {LARGEST_BODY_MIB} MiB."),
    (414, "too_large", "Too large", "The address is too long."),
    (429, "busy", "Too many requests", "Too many requests of this address are being served."),
    (502, "unreachable", "The manager does not answer", "The manager does not run, or is just starting."),
    (504, "unreachable", "The manager does not answer in time", "The manager took too long."),
)


@dataclasses.dataclass(frozen=True)
class WebServer:
    """What nginx needs to know; all paths absolute, `authorities` the file of the CAs whose client certificates are looked at."""

    address: str
    port: int
    socket: str
    run_directory: str
    certificate: str
    key: str
    authorities: str
    user: Optional[str] = None


def nginx_command(configuration: str) -> list[str]:
    """The command that runs nginx in the foreground with a configuration file."""
    return ["/usr/sbin/nginx", "-e", "stderr", "-c", configuration, "-g", "daemon off;"]


def gunicorn_command(socket: str, run_directory: str) -> list[str]:
    """The command that runs the application: one process, since its threads share queues, and no log of requests.

    Its timeout only notices a worker that hangs as a whole: a request may last longer.
    """
    options = {
        "worker-class": "gthread",
        "workers": "1",
        "threads": str(THREADS),
        "bind": f"unix:{socket}",
        "umask": "0077",
        "worker-tmp-dir": run_directory,
        "timeout": "60",
        "graceful-timeout": "10",
        "log-level": "warning",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "gunicorn", *arguments, "--no-control-socket", "domus_controller.app:create_app()"]


def nginx_configuration(web: WebServer) -> str:
    """The text of nginx's configuration file."""
    temporary = "\n".join(
        f"    {name}_temp_path {_quoted(f'{web.run_directory}/nginx-{name}')};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    address = f"[{web.address}]" if ":" in web.address else web.address
    return _TEMPLATE.format(
        user=f"user {web.user};\n" if web.user else "",
        pid=_quoted(f"{web.run_directory}/nginx.pid"),
        temporary=temporary,
        listen=f"{address}:{web.port}",
        socket=_quoted(f"unix:{web.socket}"),
        certificate=_quoted(web.certificate),
        key=_quoted(web.key),
        authorities=_quoted(web.authorities),
        body=LARGEST_BODY_MIB,
        problems="\n".join(_problem(*problem) for problem in PROBLEMS),
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _problem(status: int, code: str, title: str, detail: str) -> str:
    body = json.dumps({"type": f"urn:domus:error:{code}", "title": title, "status": status, "detail": detail, "code": code})
    codes = "400 494 495 496 497 =400" if status == 400 else str(status)
    return f"        error_page {codes} /.problem/{status};\n        location = /.problem/{status} {{ internal; return {status} '{body}'; }}"


_TEMPLATE = """\
# Written by domus-manager nginx-conf. Changes are lost.
{user}worker_processes 2;
worker_rlimit_nofile 16384;
pid {pid};
error_log stderr warn;

events {{
    worker_connections 4096;
}}

http {{
    access_log off;
    server_tokens off;
    default_type application/problem+json;
{temporary}

    client_header_timeout 10s;
    client_body_timeout 10s;
    send_timeout 30s;
    keepalive_timeout 75s;
    client_max_body_size {body}m;
    client_body_buffer_size 64k;
    reset_timedout_connection on;

    limit_conn_zone $binary_remote_addr zone=addresses:4m;
    limit_conn addresses 512;
    limit_conn_status 429;

    map $http_upgrade $connection_header {{
        default close;
        websocket upgrade;
    }}

    upstream manager {{
        server {socket} fail_timeout=0;
    }}

    server {{
        listen {listen} ssl http2 backlog=1024;
        server_name _;

        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
        ssl_session_cache shared:domus:10m;
        ssl_session_tickets off;
        ssl_client_certificate {authorities};
        ssl_verify_client optional;
        ssl_verify_depth 2;

{problems}

        # These headers are always set here: what a client sends under their names never passes.
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header Connection $connection_header;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header X-Client-Verify $ssl_client_verify;
        proxy_set_header X-Client-Cert $ssl_client_escaped_cert;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto https;
        proxy_connect_timeout 5s;
        proxy_read_timeout 75s;

        location / {{
            proxy_pass http://manager;
        }}

        # Server-sent events and consoles last as long as somebody looks at them.
        location ~ /(stream|console)$ {{
            proxy_pass http://manager;
            proxy_buffering off;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"""
