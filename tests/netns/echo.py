"""ICMP echo requests to each address given; fails unless every one comes back with its data.

A number among the addresses is one more size of the data, for those after it."""

import socket
import struct
import sys

ECHO = {socket.AF_INET: (8, 0, "icmp"), socket.AF_INET6: (128, 129, "ipv6-icmp")}


def checksum(data):
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


more = []
for address in sys.argv[1:]:
    if address.isdigit():
        more.append(int(address))
        continue
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    request, reply, protocol = ECHO[family]
    sock = socket.socket(family, socket.SOCK_RAW, socket.getprotobyname(protocol))
    sock.settimeout(5)
    usual = (0, 1, 56, 1451, 1452) if family == socket.AF_INET6 else (0, 1, 56, 1471, 1472)
    for sequence, size in enumerate([*usual, *more]):
        data = bytes(index % 251 for index in range(size))
        body = struct.pack("!HH", 0x5A5A, sequence) + data
        head = struct.pack("!BBH", request, 0, 0)
        if family == socket.AF_INET:  # the kernel fills in that of ICMPv6
            head = struct.pack("!BBH", request, 0, checksum(head + body))
        sock.sendto(head + body, (address, 0))
        while True:
            packet = sock.recv(65535)
            if family == socket.AF_INET:
                packet = packet[(packet[0] & 15) * 4 :]
            if packet[0] == reply and packet[4:] == body:
                break
    print(address, "answers")
