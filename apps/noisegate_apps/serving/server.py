"""The server's doors: who may enter, which dialect is spoken where, and how it starts and stops."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from noisegate_apps.serving.config import ServeConfig
from noisegate_apps.serving.connections import Connections, Serve
from noisegate_apps.serving.inference import Inference
from noisegate_apps.serving.openpi import OpenPI
from noisegate_apps.serving.xpolicylab import XPolicyLab

PATHS = ("/", "/v1/realtime/robot/openpi")
"""Where openpi's dialect is spoken; the second is vLLM-Omni's."""
Check = Callable[[ServerConnection, Request], Response | None]
"""Answers an HTTP request; None lets it become a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where a server listens, and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 8000
    """Of openpi's dialect; 0 takes a free one."""
    xpolicylab_port: int | None = None
    """Of XPolicyLab's dialect; None for none."""
    xpolicylab_host: str = "127.0.0.1"
    api_key: str | None = None
    """Which clients of openpi's dialect have to bring; None lets everybody in."""
    origins: tuple[str, ...] = ()
    """Web pages that may connect; a request of any other page is refused."""
    max_bytes: int = 64 << 20
    """Of one frame."""
    connections: int = 8
    """At once, on all ports."""
    sessions: int = 8
    """Of one connection."""
    ping_interval: float = 20.0
    """Seconds between two pings, which keep a connection open on its way through others' equipment."""
    idle_timeout: float | None = None
    """Seconds without a request after which a connection is ended; None for never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a running server listens."""

    openpi: int
    xpolicylab: int | None


def doors_of(config: ServeConfig) -> Doors:
    """Return where a configuration listens, and for whom."""
    return Doors(
        host=config.host,
        port=config.port,
        xpolicylab_port=config.xpolicylab_port,
        xpolicylab_host=config.host if config.no_auth else "127.0.0.1",
        api_key=config.api_key,
        origins=config.origins,
        max_bytes=config.max_mib << 20,
        connections=config.connections,
        sessions=config.sessions,
        idle_timeout=config.idle_timeout,
    )


@asynccontextmanager
async def serving(inference: Inference, doors: Doors) -> AsyncIterator[Ports]:
    """Open the doors of a warmed-up policy; leaving finishes what runs, and closes them.

    Args:
        inference: Warm.
        doors: Where, and for whom.

    Yields:
        The ports.
    """
    connections = Connections(doors.connections)
    async with AsyncExitStack() as open_doors:
        openpi = await _listen(
            connections,
            OpenPI(inference, sessions=doors.sessions).serve,
            doors,
            host=doors.host,
            port=doors.port,
            check=_entrance(PATHS, connections, doors.api_key),
        )
        open_doors.push_async_callback(openpi.wait_closed)
        servers = [openpi]
        if doors.xpolicylab_port is not None:
            other = await _listen(
                connections,
                XPolicyLab(inference, sessions=doors.sessions).serve,
                doors,
                host=doors.xpolicylab_host,
                port=doors.xpolicylab_port,
                check=_entrance(("/",), connections, None),
            )
            open_doors.push_async_callback(other.wait_closed)
            servers.append(other)
        try:
            yield Ports(openpi=_port(servers[0]), xpolicylab=_port(servers[1]) if len(servers) > 1 else None)
        finally:
            for server in servers:
                server.close(close_connections=False)
            await connections.leave()


async def _listen(
    connections: Connections, answer: Serve, doors: Doors, *, host: str, port: int, check: Check
) -> Server:
    return await serve(
        connections.handler(answer, idle_timeout=doors.idle_timeout),
        host,
        port,
        process_request=check,
        origins=[None, *doors.origins],  # type: ignore[list-item]  # an `Origin` is a text
        compression=None,
        max_size=doors.max_bytes,
        max_queue=1,
        ping_interval=doors.ping_interval,
        ping_timeout=None,  # simulators stall, and clients with them
        server_header="noisegate",
    )


def _entrance(paths: Sequence[str], connections: Connections, api_key: str | None) -> Check:
    """Return what every HTTP request passes before it becomes a connection."""

    def check(socket: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return socket.respond(HTTPStatus.OK, "OK\n")
        if path not in paths:
            return socket.respond(HTTPStatus.NOT_FOUND, f"there is nothing at this path; connect to {paths[0]}\n")
        if api_key is not None and not _has_key(request, api_key):
            return socket.respond(HTTPStatus.UNAUTHORIZED, "send the header `Authorization: Api-Key KEY`\n")
        if connections.full:
            return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "busy: all places are taken; try again later\n")
        return None

    return check


def _has_key(request: Request, api_key: str) -> bool:
    sent = request.headers.get_all("Authorization")
    return len(sent) == 1 and hmac.compare_digest(_bytes(sent[0]), _bytes(f"Api-Key {api_key}"))


def _bytes(text: str) -> bytes:
    """The bytes of a header or a variable, of which those that are no ASCII come as surrogates."""
    return text.encode(errors="surrogateescape")


def _port(server: Server) -> int:
    number: int = next(iter(server.sockets)).getsockname()[1]
    return number
