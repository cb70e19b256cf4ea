"""Who may open a websocket: browsers from Fleet's own pages, and programs that bring a token."""

from __future__ import annotations

from typing import Any

from channels.security.websocket import AllowedHostsOriginValidator


class OriginCheck:
    """A browser always says where its page is from, and cannot send a token of its own; a program says nothing and must bring one."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._for_browsers = AllowedHostsOriginValidator(application)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        names = {name for name, _ in scope["headers"]}
        inner = self._application if b"authorization" in names and b"origin" not in names else self._for_browsers
        return await inner(scope, receive, send)
