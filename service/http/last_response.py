"""The last response on a connection to a process that is about to stop."""

from starlette.types import Message, Send


def last_of_connection(send: Send) -> Send:
    """Makes the client reconnect, so that another instance can take its next request."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return closing
