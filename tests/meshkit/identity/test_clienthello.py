"""ClientHellos: OpenSSL's own, and hand-made ones of every wrong shape."""

from __future__ import annotations

import random
import ssl
import struct

import pytest

from meshkit.identity.clienthello import (
    MAX_HELLO,
    ClientHello,
    ClientHelloError,
    missing_bytes,
    parse_client_hello,
)

NAME = "p9080.v1.reviews.default.svc.cluster.local"


def _vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size, "big") + data


def _extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + _vector(2, data)


def _sni(*names: bytes, kind: int = 0) -> bytes:
    return _extension(0, _vector(2, b"".join(bytes([kind]) + _vector(2, n) for n in names)))


def _alpn(*names: bytes) -> bytes:
    return _extension(16, _vector(2, b"".join(_vector(1, n) for n in names)))


def _versions(*numbers: int) -> bytes:
    return _extension(43, _vector(1, b"".join(struct.pack("!H", n) for n in numbers)))


def _message(*extensions: bytes, tail: bytes = b"", legacy: int = 0x0303) -> bytes:
    body = struct.pack("!H", legacy) + bytes(32) + _vector(1, b"") + _vector(2, b"\x13\x01")
    body += _vector(1, b"\0")
    if extensions:
        body += _vector(2, b"".join(extensions))
    return b"\x01" + _vector(3, body + tail)


def _records(message: bytes, piece: int = 16_384) -> bytes:
    pieces = [message[at : at + piece] for at in range(0, len(message), piece)]
    return b"".join(b"\x16\x03\x01" + _vector(2, piece) for piece in pieces)


PLAIN = _records(_message(_sni(NAME.encode()), _alpn(b"http/1.1", b"h2"), _versions(0x0304)))
EXPECTED = ClientHello(NAME, ("http/1.1", "h2"), (0x0304,))


def _openssl(name: str | None, protocols: list[str], **options: ssl.TLSVersion) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    for option, value in options.items():
        setattr(context, option, value)
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


# What is right


@pytest.mark.parametrize("protocols", [[], ["http/1.1"], ["h2", "http/1.1", "baremesh-tcp/1"]])
@pytest.mark.parametrize("name", [None, NAME, "Reviews.Example.ORG"])
def test_openssls_hello(name, protocols):
    hello = parse_client_hello(_openssl(name, protocols))
    assert hello is not None
    assert hello.sni == (None if name is None else name.lower())
    assert hello.alpn == tuple(protocols)
    assert 0x0304 in hello.versions


def test_a_tls_1_2_client_shows_its_version():
    hello = parse_client_hello(_openssl(NAME, [], maximum_version=ssl.TLSVersion.TLSv1_2))
    assert hello is not None and hello.versions == (0x0303,)


@pytest.mark.parametrize("data", [PLAIN, _openssl(NAME, ["http/1.1", "h2"])])
def test_byte_by_byte_and_with_a_tail(data):
    whole = parse_client_hello(data)
    assert whole is not None and whole.sni == NAME
    for size in range(len(data)):
        assert parse_client_hello(data[:size]) is None
    assert parse_client_hello(data + b"\x17\x03\x03garbage") == whole


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 50, 150])
def test_split_over_records(piece):
    data = _records(
        _message(_sni(NAME.encode()), _alpn(b"http/1.1", b"h2"), _versions(0x304)), piece
    )
    assert parse_client_hello(data) == EXPECTED
    for size in range(len(data)):
        assert parse_client_hello(data[:size]) is None


def test_who_waits_for_what_is_missing_parses_seldom():
    message = b"\x01" + (2600).to_bytes(3) + bytes(2600)
    data = b"".join(b"\x16\x03\x01\x00\x01" + bytes((byte,)) for byte in message)
    have = parses = 0
    while have < len(data):
        assert parse_client_hello(data[:have]) is None
        missing = missing_bytes(data[:have])
        assert 0 < missing <= len(data) - have
        have, parses = have + missing, parses + 1
    assert parses < 80
    with pytest.raises(ClientHelloError):  # it is no ClientHello, but it is all there
        parse_client_hello(data)


def test_without_extensions():
    assert parse_client_hello(_records(_message())) == ClientHello(None, (), (0x0303,))


def test_grease_is_left_out():
    data = _records(_message(_versions(0x3A3A, 0x0304, 0xFAFA, 0x0303), _extension(0x0A0A, b"")))
    assert parse_client_hello(data) == ClientHello(None, (), (0x0304, 0x0303))


def test_alpn_names_need_not_be_text():
    hello = parse_client_hello(_records(_message(_alpn(b"\xff\x00", b"h2"))))
    assert hello is not None and hello.alpn == ("\xff\x00", "h2")


def test_the_largest_hello_that_fits():
    padding = MAX_HELLO - 5 - len(_message(_extension(21, b"")))
    data = _records(_message(_extension(21, bytes(padding))))
    assert len(data) == MAX_HELLO
    assert parse_client_hello(data) is not None
    assert parse_client_hello(data[:-1]) is None


# What is wrong

WRONG = {
    "plaintext HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "SSL 2 hello": b"\x80\x2e\x01\x03\x01" + bytes(40),
    "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "application data": b"\x17\x03\x03\x00\x01x",
    "a record version that never was": b"\x16\x04\x00\x00\x01\x01",
    "an empty record": b"\x16\x03\x01\x00\x00",
    "a record too long": b"\x16\x03\x01\x40\x01",
    "a ServerHello": b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
    "a hello too long": b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
    "an alert between two pieces": _records(_message(_sni(b"a.b")), 20)[:25]
    + b"\x15\x03\x01\x00\x02\x02\x28",
    "an empty body": _records(b"\x01\x00\x00\x00"),
    "a body cut in the random": _records(b"\x01" + _vector(3, b"\x03\x03" + bytes(20))),
    "bytes after the extensions": _records(_message(_sni(b"a.b"), tail=b"x")),
    "an extension beyond the block": _records(_message(struct.pack("!HH", 0, 9) + b"abc")),
    "half an extension header": _records(_message(b"\x00\x00\x00")),
    "two SNI extensions": _records(_message(_sni(b"a.b"), _sni(b"c.d"))),
    "two unknown extensions of a kind": _records(_message(*[_extension(999, b"")] * 2)),
    "two names": _records(_message(_sni(b"a.b", b"c.d"))),
    "an empty name": _records(_message(_sni(b""))),
    "an empty list of names": _records(_message(_extension(0, b"\0\0"))),
    "an empty SNI extension": _records(_message(_extension(0, b""))),
    "a name of another type": _records(_message(_sni(b"a.b", kind=1))),
    "a name with NUL": _records(_message(_sni(b"good.example\0.evil"))),
    "a name with a space": _records(_message(_sni(b"a b"))),
    "a name that is not ASCII": _records(_message(_sni("ä.b".encode()))),
    "a name too long": _records(_message(_sni(b"a" * 256))),
    "a name length beyond its list": _records(_message(_extension(0, b"\0\4\0\0\x09a"))),
    "bytes after the list of names": _records(_message(_extension(0, b"\0\4\0\0\1aXX"))),
    "an empty ALPN name": _records(_message(_alpn(b"h2", b""))),
    "an ALPN name beyond its list": _records(_message(_extension(16, b"\0\3\x09h2"))),
    "half a version": _records(_message(_extension(43, b"\x03\x03\x04\x03"))),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_refused_whole_byte_by_byte_and_with_a_tail(data):
    with pytest.raises(ClientHelloError):
        parse_client_hello(data)
    with pytest.raises(ClientHelloError):
        parse_client_hello(data + bytes(100))
    # Once refused, more bytes never make it acceptable; before, it is only unfinished.
    refused = False
    for size in range(len(data) + 1):
        try:
            assert parse_client_hello(data[:size]) is None
            assert not refused
        except ClientHelloError:
            refused = True
    assert refused


@pytest.mark.parametrize("piece", [1, 100])
def test_a_hello_that_never_ends_is_refused_at_the_limit(piece):
    endless = _records(b"\x01" + (16_000).to_bytes(3, "big") + bytes(16_000), piece)[:MAX_HELLO]
    assert parse_client_hello(endless[:-1]) is None
    with pytest.raises(ClientHelloError, match="no whole ClientHello"):
        parse_client_hello(endless)


def test_no_bytes_make_it_fail_otherwise():
    rng = random.Random(5)
    for _ in range(3000):
        data = bytearray(PLAIN)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            hello = parse_client_hello(bytes(data))
        except ClientHelloError:
            continue
        assert hello is None or isinstance(hello, ClientHello)


# The ssl module cannot pass on a name that is not ASCII, and says so as "unraisable".
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_openssl_and_the_parser_never_read_different_names():
    """Whatever OpenSSL accepts, the parser gives the same name or refuses."""
    rng = random.Random(6)
    original = _openssl("name.example", ["http/1.1"])
    agreed = 0
    for _ in range(400):
        data = bytearray(original)
        for _ in range(rng.randint(1, 2)):
            data[rng.randrange(5, len(data))] = rng.randrange(256)
        seen = _name_by_openssl(bytes(data))
        try:
            hello = parse_client_hello(bytes(data))
        except ClientHelloError:
            continue
        if hello is not None and seen:
            assert hello.sni == (seen[0].lower() if seen[0] else None)
            agreed += 1
    assert agreed > 50


def _name_by_openssl(data: bytes) -> list[str | None]:
    """What OpenSSL's SNI callback is told; empty if it does not get that far."""
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _sock, name, _context: seen.append(name)
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    try:
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    except ssl.SSLError:
        pass
    return seen
