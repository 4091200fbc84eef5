"""uml_proxy.py FROM TO: passes one vhost-user session on, with SET_MEM_TABLE cut to the regions that it says it has.

User-Mode Linux 6.1 sends the whole array; the `vhost` crate takes no bytes that nobody counted.
"""
import socket, struct, sys, threading

HEADER, SET_MEM_TABLE, REGION = 12, 5, 32


def exactly(stream, length):
    data, files = b"", []
    while len(data) < length:
        part, more, _, _ = socket.recv_fds(stream, length - len(data), 16)
        if not part:
            sys.exit()
        data, files = data + part, files + list(more)
    return data, files


def answers(back, front):
    while data := back.recv(4096):
        front.sendall(data)
    front.shutdown(socket.SHUT_RDWR)


listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
front, _ = listener.accept()
back = socket.socket(socket.AF_UNIX)
back.connect(sys.argv[2])
threading.Thread(target=answers, args=(back, front), daemon=True).start()
while True:
    header, files = exactly(front, HEADER)
    request, flags, size = struct.unpack("<III", header)
    body, more = exactly(front, size) if size else (b"", [])
    files += more
    if request == SET_MEM_TABLE:
        body = body[: 8 + REGION * struct.unpack_from("<I", body)[0]]
    socket.send_fds(back, [struct.pack("<III", request, flags, len(body)) + body], files)
    for file in files:
        socket.close(file)
