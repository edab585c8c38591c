"""Carry Ethernet frames between two interfaces, each later by a fixed time; for kernels without netem.

python tests/hosts/wire.py IFACE IFACE DELAY_SECONDS
"""

import queue
import socket
import sys
import threading
import time

ALL_PROTOCOLS = 3
SOL_PACKET, IGNORE_OUTGOING, RECEIVE_BUFFER_FORCE = 263, 23, 33
BUFFER_BYTES, FRAME_BYTES = 64 << 20, 1 << 17


def tap(interface: str) -> socket.socket:
    """A socket that reads each frame that arrives at an interface."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    found.bind((interface, 0))
    found.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
    found.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER_FORCE, BUFFER_BYTES)
    return found


def carry(source: socket.socket, target: socket.socket, delay_seconds: float) -> None:
    """Hand on frames for ever; one thread receives, so that no frame waits for the sending of another."""
    waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def receive() -> None:
        while True:
            frame = source.recv(FRAME_BYTES)
            waiting.put((time.monotonic() + delay_seconds, frame))

    threading.Thread(target=receive, daemon=True).start()
    while True:
        due, frame = waiting.get()
        time.sleep(max(0.0, due - time.monotonic()))
        target.send(frame)


def main(one: str, other: str, delay_seconds: float) -> None:
    """Carry both ways."""
    left, right = tap(one), tap(other)
    way_back = threading.Thread(target=carry, args=(right, left, delay_seconds), daemon=True)
    way_back.start()
    print("carries", flush=True)
    carry(left, right, delay_seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
