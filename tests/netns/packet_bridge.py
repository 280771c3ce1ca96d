"""Frames between an interface and this process's standard streams, each behind its length (16 bits, network order)."""

import errno
import socket
import struct
import sys
import threading

ETH_P_ALL = 3
PACKET_OUTGOING = 4

sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
sock.bind((sys.argv[1], ETH_P_ALL))


def receive():
    while True:
        frame, address = sock.recvfrom(65535)
        if address[2] != PACKET_OUTGOING:
            sys.stdout.buffer.write(struct.pack("!H", len(frame)) + frame)
            sys.stdout.buffer.flush()


threading.Thread(target=receive, daemon=True).start()
while head := sys.stdin.buffer.read(2):
    frame = sys.stdin.buffer.read(struct.unpack("!H", head)[0])
    try:
        sock.send(frame)
    except OSError as error:
        # A wire may lose frames, above all one whose other end is being taken down.
        if error.errno not in (errno.ENOBUFS, errno.ENETDOWN):
            raise
