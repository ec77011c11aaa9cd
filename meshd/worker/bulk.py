"""Reading in bulk, for the pump: into a buffer that is there, several TLS records at once.

One SSL_read gives one record, so that a large piece is gathered from many; it then goes on in one
send.  And when that has filled the buffer twice, OpenSSL reads ahead (readahead.py): the bytes
come in bulk then, and the memory and the failing read at the end of each piece are worth it.

These functions are a part of `Stream` that only the pump uses, and reach into it like methods.
"""

from __future__ import annotations

import ssl
from fcntl import ioctl
from termios import FIONREAD
from typing import TYPE_CHECKING

from meshd.worker.duplex import READ_COST, RECORD, _unread, without_frames
from meshd.worker.edges import closed_error
from meshd.worker.readahead import enable

if TYPE_CHECKING:
    from meshd.worker.duplex import Stream


def fill(stream: Stream, view: memoryview) -> int | None:
    """`Stream.try_recv` into `view` of RECORD bytes at least: how many, 0 at the end, or None.

    Nothing else may read the stream afterwards.
    """
    if not stream.readable or stream.credit <= 0:
        if stream.closed:
            raise closed_error()
        return None
    try:
        if stream.tls is not None:
            size = _fill_tls(stream, view)
        else:
            size = stream.sock.recv_into(view)
            if 0 < size < len(view) and stream._short_proves:
                stream.readable = False
    except (BlockingIOError, ssl.SSLWantReadError):
        stream.readable = False
        return None
    except ssl.SSLWantWriteError:
        stream.writable = False
        stream._read_wants_write = True
        return None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
        stream._late = without_frames(error)
        stream._end_of_tls(error)
        return 0
    except OSError as error:
        stream._failed(error)
        raise
    stream.bytes_in += size
    stream.credit -= size if size > READ_COST else READ_COST
    if not size:
        stream.eof = True
    return size


def _fill_tls(stream: Stream, view: memoryview) -> int:
    """As many records as are there; what stops it is raised only if there are none."""
    if stream._stash:
        piece = stream._recv(len(view))
        view[: len(piece)] = piece
        return len(piece)
    if stream._late is not None:
        raise stream._late
    read, room, size = stream.tls.read, len(view) - RECORD, 0
    try:
        while size <= room:
            got: int = read(RECORD, view[size:])
            size += got
            if got < RECORD and (not got or _emptied(stream)):
                return size
    except ssl.SSLWantReadError:
        stream.readable = False
        if not size:
            raise
    except OSError as error:
        if not size:
            raise
        if not isinstance(error, ssl.SSLWantWriteError):
            stream._late = without_frames(error)
    else:
        if not stream._ahead and stream._bulk:
            stream._ahead = enable(stream.tls)
        stream._bulk = True
    return size


def _emptied(stream: Stream) -> bool:
    """After a short record: whether the kernel proves that there is nothing more."""
    if stream._short_proves and not stream._ahead and not stream.tls.pending():
        ioctl(stream.fd, FIONREAD, _unread)
        if not _unread[0]:
            stream.readable = False
            return True
    return False
