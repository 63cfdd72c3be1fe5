#!/usr/bin/env python3
"""A distance between clients and a server on one machine: what is sent arrives later. Owns no other fault.

    distance.py serve TARGET_PORT MILLISECONDS...    prints a port for each round trip time, and serves until it is killed
    distance.py measure MILLISECONDS...              what it adds, and what it lets through, as lines of JSON

Each direction is a delay line of half a round trip. A connection costs a whole one more, as the handshake of TCP does:
the kernel's handshake with this process takes no time, so what the client says first is held back instead. Bytes are
delayed, never throttled: there is no slow start, no loss, and no bound of the bandwidth.
"""

import asyncio
import collections
import json
import os
import selectors
import signal
import socket
import statistics
import sys
import time

# What one direction holds before its source must wait: several segments on their way, more than a round trip needs here.
HELD_BYTES = 64 << 20

# A line that waits for a processor is late, and a real one takes none from those who use it. Only root may say so.
NICENESS = -15

MEASURED_BYTES = 256 << 20
MEASURED_BLOCK = 1 << 18
MEASURED_CONNECTIONS = 10


class Line:
    """One direction: what was read is written to `sink` when its time has come, and not before `opens`."""

    def __init__(self, loop, delay, opens):
        self.loop, self.delay, self.opens = loop, delay, opens
        self.source = self.sink = None  # transports
        self.waiting = collections.deque()  # (when, bytes; None ends the line)
        self.held = 0
        self.blocked = self.timer = None

    def take(self, data):
        self.waiting.append((max(self.loop.time(), self.opens) + self.delay, data))
        self.held += len(data or b"")
        if self.held > HELD_BYTES:
            self.source.pause_reading()
        self.wake_up()

    def deliver(self):
        self.timer = None
        while self.waiting and not self.blocked and self.waiting[0][0] <= self.loop.time():
            data = self.waiting.popleft()[1]
            if data is None:
                self.sink.close()
                return
            self.held -= len(data)
            self.sink.write(data)
        if self.held <= HELD_BYTES // 2 and not self.source.is_closing():
            self.source.resume_reading()
        self.wake_up()

    def wake_up(self):
        if self.waiting and self.sink and not self.timer and not self.blocked:
            self.timer = self.loop.call_at(self.waiting[0][0], self.deliver)


class End(asyncio.Protocol):
    """One end of a connection: what it hears goes into `out`, and `back` writes to it."""

    def __init__(self, out, back):
        self.out, self.back = out, back

    def connection_made(self, transport):
        self.out.source, self.back.sink = transport, transport
        self.back.wake_up()

    def data_received(self, data):
        self.out.take(data)

    def pause_writing(self):
        self.back.blocked = True

    def resume_writing(self):
        self.back.blocked = None
        self.back.deliver()

    def connection_lost(self, _):
        self.out.take(None)


async def connect(loop, end, target_port):
    try:
        await loop.create_connection(lambda: end, "127.0.0.1", target_port)
    except OSError:
        end.back.source.abort()


def accept(loop, round_trip, target_port):
    """The protocol of a client that has just connected; its way to the target is made at once, and opens later."""
    out = Line(loop, round_trip / 2, loop.time() + round_trip)
    back = Line(loop, round_trip / 2, 0)
    loop.create_task(connect(loop, End(back, out), target_port))
    return End(out, back)


def new_loop():
    # epoll waits whole milliseconds, select microseconds; a few connections need no more.
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def serve(target_port, round_trips, tell):
    if os.geteuid() == 0:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    loop = new_loop()

    async def start():
        ports = []
        for round_trip in round_trips:
            factory = lambda round_trip=round_trip: accept(loop, round_trip, target_port)
            server = await loop.create_server(factory, "127.0.0.1", 0, backlog=512)
            ports.append(server.sockets[0].getsockname()[1])
        tell(ports)

    loop.run_until_complete(start())
    loop.run_forever()


def in_child(work):
    """Runs `work(tell)` in a process of its own; its id, and what it told."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        work(lambda value: os.write(writer, json.dumps(value).encode()))
        os._exit(0)
    os.close(writer)
    return child, json.loads(os.read(reader, 4096))


def echo_and_sink(tell):
    """A server: a connection that begins with `e` is an echo, one with `s` swallows MEASURED_BYTES and says so."""
    listener = socket.create_server(("127.0.0.1", 0))
    tell(listener.getsockname()[1])
    buffer = bytearray(MEASURED_BLOCK)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mode, left = connection.recv(1), MEASURED_BYTES
        while mode == b"e" and (data := connection.recv(1)):
            connection.send(data)
        while mode == b"s" and left > 0:
            left -= connection.recv_into(buffer)
        if mode == b"s":
            connection.send(b".")
        connection.close()


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_one(port):
    """Seconds of a new connection's first echo and of a later one, and the bytes a second that pass."""
    first, later = [], []
    for _ in range(MEASURED_CONNECTIONS):
        with socket.socket() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            echo = lambda: (client.send(b"x"), client.recv(1))
            first.append(timed(lambda: (client.connect(("127.0.0.1", port)), client.send(b"e"), echo())))
            later += [timed(echo) for _ in range(4)]
    block = bytes(MEASURED_BLOCK)
    with socket.create_connection(("127.0.0.1", port)) as client:
        send = lambda: [client.sendall(block) for _ in range(MEASURED_BYTES // MEASURED_BLOCK)]
        seconds = timed(lambda: (client.send(b"s"), send(), client.recv(1)))
    return statistics.median(first), statistics.median(later), MEASURED_BYTES / seconds


def measure(round_trips):
    server, server_port = in_child(echo_and_sink)
    line, ports = in_child(lambda tell: serve(server_port, round_trips, tell))
    try:
        for round_trip, port in zip([None, *round_trips], [server_port, *ports]):
            first, later, rate = measure_one(port)
            figures = {"round_trip": round_trip, "first": first, "later": later, "bytes_per_second": rate}
            print(json.dumps(figures), flush=True)
    finally:
        for child in [line, server]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def main():
    verb, *numbers = sys.argv[1:]
    if verb == "serve":
        serve(int(numbers[0]), [float(number) / 1000 for number in numbers[1:]], lambda ports: print(*ports, flush=True))
    elif verb == "measure":
        measure([float(number) / 1000 for number in numbers])


if __name__ == "__main__":
    main()
