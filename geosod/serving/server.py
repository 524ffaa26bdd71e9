"""Run the service with uvicorn until it is interrupted; requests in progress are finished first."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from geosod.errors import ConfigError
from geosod.serving.app import make_app
from geosod.serving.guard import Guard
from geosod.serving.options import ServeOptions
from geosod.serving.protocol import protocol_for
from geosod.serving.service import Service

#: Connections that the system keeps while the service accepts none.
BACKLOG = 512
#: Bytes of a request's line and headers.
MAX_HEADER_BYTES = 32 << 10


class _Server(uvicorn.Server):
    """Says where it listens, which with port 0 the system chooses."""

    on_listening: Callable[[str], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                host, port = listening.getsockname()[:2]
                self.on_listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def serve(
    options: ServeOptions,
    *,
    on_start: Callable[[Service], None] = lambda _: None,
    on_listening: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        options: how it runs.
        on_start: called with the service when the model is loaded, before it listens.
        on_listening: called with the address when it listens.

    Raises:
        UsageError: the model, a setting, the folder of jobs or the port is unusable.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    # Anybody could fill the log with what GDAL says of damaged images.
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    server = make_server(options, make_app(options, on_start=on_start), on_listening)
    try:
        # Once it has ended, uvicorn raises the signal that ended it again, which would kill the process.
        with _handled(signal.SIGINT), _handled(signal.SIGTERM):
            server.run()
    except SystemExit as ended:
        raise ConfigError(
            f"port {options.port} of {options.host} cannot be listened on; is it in use? choose another --port"
        ) from ended


@contextmanager
def _handled(number: int) -> Iterator[None]:
    before = signal.signal(number, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(number, before)


def make_server(
    options: ServeOptions, app: Guard, on_listening: Callable[[str], None] = lambda _: None
) -> uvicorn.Server:
    """The server of an application, which listens once it is run."""
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        http=protocol_for(options.limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=round(options.limits.seconds),
    )
    server = _Server(config)
    server.on_listening = on_listening
    return server
