"""Hashing processes that several service processes share."""

import asyncio
import socket

import bcrypt

from service.credentials.pin_shared import HashingProcesses

SALT = bcrypt.gensalt(4)


async def test_a_killed_service_process_ends_neither_the_parent_nor_the_hashes_of_others() -> None:
    hashing = HashingProcesses(1)
    await hashing.start()
    try:
        killed, channel = socket.socketpair()
        answering = asyncio.create_task(hashing.answer(channel))
        slow = bcrypt.gensalt(9)
        killed.sendall(b"0 %b 31\n1 %b 32\n" % (SALT, slow))
        await asyncio.to_thread(killed.recv, 1, socket.MSG_PEEK)
        killed.close()  # with an unread digest: the parent's end is reset
        await answering
        own, channel = socket.socketpair()
        own.setblocking(False)
        answering = asyncio.create_task(hashing.answer(channel))
        await asyncio.get_running_loop().sock_sendall(own, b"7 %b 33\n" % SALT)
        answer = await asyncio.get_running_loop().sock_recv(own, 1000)
        assert answer == b"7 %b\n" % bcrypt.hashpw(b"3", SALT)
        own.close()
        await answering
    finally:
        await hashing.stop()
