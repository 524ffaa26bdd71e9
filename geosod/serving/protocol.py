"""Connections: how many, how long a request may take to arrive, and the envelope where HTTP itself is broken."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from geosod.serving.answers import error_bytes, new_log_id
from geosod.serving.options import Limits

_PHRASES = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


def protocol_for(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol of uvicorn with limits."""

    class Protocol(H11Protocol):
        """HTTP/1.1 with bounds that uvicorn does not have."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._refuse(503, "too many connections; try again later")
            else:
                self._timer = self.loop.call_later(limits.body_seconds, self._too_slow)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if self._busy():
                self._stop_timer()
            elif self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(limits.body_seconds, self._too_slow)

        def send_400_response(self, msg: str) -> None:
            if self._busy():
                # The body of a request is broken: what works on it learns that its client has gone.
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self._refuse(400, f"{msg} Send HTTP/1.1.")

        def _busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            if not self._busy() and not self.transport.is_closing():
                self._refuse(408, f"no request arrived within {limits.body_seconds:g} s")

        def _refuse(self, status: int, message: str) -> None:
            self._stop_timer()
            if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.close()
                return
            body = error_bytes(new_log_id(), status, message)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            events: tuple[Any, ...] = (
                h11.Response(status_code=status, headers=headers, reason=_PHRASES[status].encode()),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return Protocol
