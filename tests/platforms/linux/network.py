"""In a network namespace of its own: `network.py DIRECTORY [EMULATOR] PROGRAM` prints one line for each thing that worked.

10.77.0.1 is here alone. A name server tells `login.practice.example` and `proxy.practice.example` for it, a TLS server
plays the provider, and a proxy passes connections on. The program runs in an empty root, with the certificates of a
certificate authority made here.
"""

import os
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
from provider import Provider  # noqa: E402

ADDRESS, HOST, PROXY = "10.77.0.1", "login.practice.example", "proxy.practice.example"
directory, programs = Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]]
asked, tunnels = [], []


def quietly(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Names(socketserver.BaseRequestHandler):
    """Answers the type A for the two names; for anything else there is no such name."""

    def handle(self):
        query, reply_to = self.request
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        kind, question = int.from_bytes(query[at + 1 : at + 3], "big"), query[12 : at + 5]
        name = ".".join(labels).lower()
        asked.append(name)
        known = name in (HOST, PROXY)
        answer = b""
        if known and kind == 1:
            answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(ADDRESS)
        flags = b"\x81\x80" if known else b"\x81\x83"
        head = query[:2] + flags + b"\0\x01" + (b"\0\x01" if answer else b"\0\0") + b"\0\0\0\0"
        reply_to.sendto(head + question + answer, self.client_address)


class Tunnel(socketserver.StreamRequestHandler):
    """CONNECT, and then bytes both ways."""

    def handle(self):
        line = self.rfile.readline().decode()
        while self.rfile.readline().strip():
            pass
        tunnels.append(line.split()[1])
        with socket.create_connection((ADDRESS, 443)) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self.pump, args=(there, self.connection), daemon=True)
            back.start()
            self.pump(self.connection, there)
            back.join(10)

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class Threads(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = allow_reuse_address = True


def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()


def certificate():
    """A certificate authority and a certificate of it for the host."""
    work = directory / "tls"
    work.mkdir()
    ca, key, request, signed, names = (work / name for name in ("ca.pem", "key.pem", "request", "signed.pem", "names"))
    names.write_text(f"subjectAltName=DNS:{HOST}\n")
    new = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    quietly(*new, "-x509", "-days", "2", "-subj", "/CN=practice", "-keyout", work / "ca.key", "-out", ca)
    quietly(*new, "-subj", f"/CN={HOST}", "-keyout", key, "-out", request)
    quietly(
        "openssl", "x509", "-req", "-days", "2", "-in", request, "-CA", ca, "-CAkey", work / "ca.key",
        "-CAcreateserial", "-extfile", names, "-out", signed,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed, key)
    return ca, context


class Remote(Provider):
    """A provider whose API is not on loopback."""

    def _issue(self):
        return super()._issue() | {"resource_url": "https://portal.qwen.ai"}


def main():
    quietly("ip", "link", "set", "lo", "up")
    quietly("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    serve(socketserver.ThreadingUDPServer((ADDRESS, 53), Names))
    serve(Threads((ADDRESS, 3128), Tunnel))
    authority, context = certificate()
    provider = Remote()
    backend = ("127.0.0.1", int(provider.url.rsplit(":", 1)[1]))

    class Tls(socketserver.BaseRequestHandler):
        def handle(self):
            try:
                with context.wrap_socket(self.request, server_side=True) as here, socket.create_connection(backend) as there:
                    back = threading.Thread(target=Tunnel.pump, args=(there, here), daemon=True)
                    back.start()
                    Tunnel.pump(here, there)
                    back.join(10)
            except (ssl.SSLError, OSError):
                pass

    serve(Threads((ADDRESS, 443), Tls))
    root = directory / "root"
    (root / "etc" / "ssl" / "certs").mkdir(parents=True)
    for program in programs:
        shutil.copy(program, root / program.name)
    command = [f"/{program.name}" for program in programs]
    (root / "etc" / "resolv.conf").write_text(f"nameserver {ADDRESS}\n")
    # Where an image has the certificates of Debian.
    shutil.copy(authority, root / "etc" / "ssl" / "certs" / "ca-certificates.crt")

    def log_in(**variables):
        shutil.rmtree(root / "home", ignore_errors=True)
        (root / "home").mkdir(mode=0o700)
        environment = {"HOME": "/home", "QWENAUTH_QWEN_OAUTH_URL": f"https://{HOST}"} | variables
        return subprocess.run(
            ["chroot", str(root), *command, "login", "qwen", "--no-browser", "--qr", "never", "--no-verify"],
            env=environment | {"PATH": "/usr/sbin:/usr/bin"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=90,
        )  # fmt: skip

    done = log_in()
    assert done.returncode == 0, done.stdout.decode()
    assert HOST in asked and len(provider.of_kind("device")) == 1 and not tunnels, (asked, tunnels)
    print("resolved")

    asked.clear()
    done = log_in(HTTPS_PROXY=f"http://{PROXY}:3128")
    assert done.returncode == 0, done.stdout.decode()
    assert set(tunnels) == {f"{HOST}:443"} and set(asked) == {PROXY}, (tunnels, asked)
    assert len(provider.of_kind("device")) == 2
    print("proxied")

    (root / "etc" / "ssl" / "certs" / "ca-certificates.crt").write_bytes(
        Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
    )
    done = log_in()
    assert done.returncode == 3 and len(provider.of_kind("device")) == 2, done.stdout.decode()
    print("refused")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
