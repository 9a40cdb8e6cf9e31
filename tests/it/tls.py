"""A server of TLS on 127.0.0.1 before another server, with a certificate of an authority of its own.

Usage: tls.py PORT FILE, the port of the other server and the file that the authority is written to.
Prints the port it listens on, and serves until its standard input ends.
"""

import datetime
import pathlib
import socket
import ssl
import sys
import tempfile
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(name, key, issuer, issuer_key, *extensions):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def named(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    finally:
        sink.close()


def serve(context, listener, port):
    while True:
        stream, _ = listener.accept()
        try:
            stream = context.wrap_socket(stream, server_side=True)
            upstream = socket.create_connection(("127.0.0.1", port))
        except OSError:
            continue
        for ends in ((stream, upstream), (upstream, stream)):
            threading.Thread(target=copy, args=ends, daemon=True).start()


def main():
    port, authority_file = int(sys.argv[1]), pathlib.Path(sys.argv[2])
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = named("tests' authority")
    constraints = (x509.BasicConstraints(ca=True, path_length=None), True)
    authority_file.write_bytes(certificate(authority, authority_key, authority, authority_key, constraints))
    names = (x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
    pem = certificate(named("localhost"), key, authority, authority_key, names)
    pem += key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=serve, args=(context, listener, port), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
