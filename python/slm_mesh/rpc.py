"""One connection to the broker: JSON-RPC lines, from any thread.

A thread that waits for an answer reads the socket itself and hands over answers that belong to other
threads, so a call needs no switch between threads. A background thread reads only when no call does:
while the connection is attached as a peer or holds locks, it answers pings and notices a lost connection.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Set

from .errors import ConnectionLost, MeshError, TimedOut, Unavailable, UsageError, from_wire

Row = Dict[str, Any]

LINE_MAX = 1 << 20
"""The longest line, in bytes; the broker closes the connection after a longer one."""
_WRITE_WITHIN = 10.0
_PAUSE_MIN = 0.05
_PAUSE_MAX = 1.0
_LONG_NUMBER = re.compile(r"\d{19}")
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_decode = json.JSONDecoder().decode


def _line_of(message: Row) -> bytes:
    """The line for a message.

    :raises UsageError: the broker could not read the line, so it must not be sent.
    """
    try:
        text = _encode(message)
        if _LONG_NUMBER.search(text):
            _require_64_bits(message)
        return (text + "\n").encode("utf-8")
    except UnicodeEncodeError as error:
        where = repr(error.object[max(0, error.start - 20):error.end + 20])
        raise UsageError(f"the text {where} is not valid Unicode, so it can't be sent; replace its surrogates "
                         "(a file name that is not UTF-8 contains such surrogates)") from None
    except ValueError as error:
        raise UsageError(f"the call can't be written as JSON ({error}); JSON has no NaN and no infinity") from None
    except (TypeError, RecursionError) as error:
        raise UsageError(f"the call can't be written as JSON ({error})") from None


def _require_64_bits(message: Row) -> None:
    """Refuses a number that the broker would round."""
    found: List[Any] = [message]
    while found:
        item = found.pop()
        if isinstance(item, dict):
            found += item.values()
        elif isinstance(item, (list, tuple)):
            found += item
        elif isinstance(item, int) and not -1 << 63 <= item < 1 << 64:
            raise UsageError(f"the number {item} does not fit into 64 bits, so it would be rounded; send it as text")


class NotSent(Unavailable):
    """The connection was lost before the call was sent, or before the broker read it, so it had no effect."""


class _Slot:
    """A call that waits for its answer."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: Optional[Row] = None


class RpcConnection:
    """One connection. Once broken, it stays broken. A forked child can't use the connection of its parent."""

    def __init__(self, sock: socket.socket, is_local: bool = False) -> None:
        self._is_local = is_local
        self._pid = os.getpid()
        self._sock = sock
        try:
            # Writing uses a second object for the same socket, because it needs its own timeout.
            self._out = self._sock.dup()
        except BaseException:
            self._sock.close()
            raise
        self._out.settimeout(_WRITE_WITHIN)
        self._writing = threading.Lock()
        self._state = threading.Condition()
        self._callers: Set[int] = set()
        """The threads that are in a call. A signal handler runs in such a thread, and would wait for itself."""
        self._slots: Dict[int, _Slot] = {}
        self._last_id = 0
        self._rest = b""
        self._reading = False
        self._listening = False
        self._n_waiting = 0
        self._n_calls = 0
        self._wake: Optional[socket.socket] = None
        self._last_sent: Optional[Row] = None
        self._is_reset = False
        self._is_ending = False
        self.lost: Optional[str] = None
        """Why the connection ended, or None."""
        self.was_stopped = False
        """Whether the broker said that somebody stopped it."""
        self._on_lost: Optional[Callable[[], None]] = None

    def call(self, method: str, params: Row, timeout: float) -> Row:
        """Sends a call and waits for its answer.

        :raises NotSent: the connection was already lost, or the broker did not read the call; it had no effect.
        :raises ConnectionLost: the connection broke during the wait.
        :raises TimedOut: no answer arrived in time; the call is cancelled in the broker.
        :raises UsageError: this is called by a signal handler that interrupts another call.
        """
        self.refuse_in_call()
        until = time.monotonic() + timeout
        slot = _Slot()
        with self._state:
            self._last_id += 1
            self._n_calls += 1
            n = self._last_id
            if self.lost is None:
                self._slots[n] = slot
        if self.lost is not None:
            raise NotSent(self.lost)
        me = threading.get_ident()
        message = {"jsonrpc": "2.0", "id": n, "method": method, "params": params}
        try:
            self._callers.add(me)
            self._write(message)
            while slot.answer is None:
                self._advance(slot, until)
        except TimedOut:
            self._cancel(n)
            raise TimedOut(f"{method}: the broker did not answer in {timeout:g} s") from None
        except ConnectionLost as lost:
            if self._is_unread(message):
                raise NotSent(f"{lost}; {method} had no effect, because the broker ended before it read it") from None
            raise ConnectionLost(f"{lost}; it is unknown whether {method} took effect") from None
        except NotSent:
            raise
        except BaseException:
            # A signal handler has ended the wait, with KeyboardInterrupt or any other exception.
            self._cancel(n)
            raise
        finally:
            self._callers.discard(me)
            self._slots.pop(n, None)
        answer = slot.answer
        if "error" in answer:
            raise from_wire(answer["error"])
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def _is_unread(self, message: Row) -> bool:
        """Whether the broker has certainly not run a call that it has not answered. If a broker of this machine leaves
        something unread, the kernel resets the connection instead of just ending it, so the last line is unread. And a
        broker that ends by itself sends all answers before it says that it is ending."""
        return self._is_local and (self._is_ending or self._is_reset and self._last_sent is message)

    def refuse_in_call(self) -> None:
        """Refuses a call by a signal handler that interrupts another call in this thread."""
        if threading.get_ident() in self._callers:
            raise UsageError("a signal handler can't use the Mesh whose call it interrupts; set a flag in the handler "
                             "and act on it later, or use another Mesh there, such as Mesh(acting=mesh.id)")

    def notify(self, method: str, params: Row) -> None:
        """Sends a notification, but not in a signal handler that interrupts a call."""
        if threading.get_ident() not in self._callers:
            self._send({"jsonrpc": "2.0", "method": method, "params": params})

    def _cancel(self, n: int) -> None:
        self._send({"jsonrpc": "2.0", "method": "cancel", "params": {"id": n}})

    def watch(self, on_lost: Callable[[], None]) -> None:
        """Starts a thread that reads while no call does, and calls ``on_lost`` when the connection ends."""
        with self._state:
            self._on_lost = on_lost
            if self._wake is not None or self.lost is not None:
                return
            wake_reader, self._wake = socket.socketpair()
            wake_reader.setblocking(False)
            self._wake.setblocking(False)
        threading.Thread(target=self._listen, args=(wake_reader,), name="slm-mesh", daemon=True).start()

    def close(self) -> None:
        """Closes the connection; waiting calls fail."""
        self._break("the connection was closed")

    def _send(self, message: Row) -> None:
        try:
            self._write(message)
        except MeshError:
            # If the connection is broken, the next read notices that. If a message can't be sent for another reason,
            # the call to which it belongs could not be sent, either.
            pass

    def _write(self, message: Row) -> None:
        line = _line_of(message)
        if len(line) > LINE_MAX:
            raise UsageError(f"the call is longer than {LINE_MAX} bytes")
        if self._pid != os.getpid():
            raise NotSent("the connection belongs to the parent of this process")
        rest = memoryview(line)
        with self._writing:
            self._last_sent = message
            try:
                while rest:
                    rest = rest[self._out.send(rest):]
            except OSError as error:
                # The broker ignores an incomplete line, so the call had no effect.
                self._break(f"the connection to the broker was lost ({error})")
                raise NotSent(str(self.lost)) from error
            except BaseException:
                # A signal handler has ended the call. If only a part of the line was sent, the broker would take the
                # next line for the end of this line.
                if 0 < len(rest) < len(line):
                    self._break("a call was interrupted while it was being sent")
                raise

    def _advance(self, slot: _Slot, until: float) -> None:
        """Waits for the answer, and reads the socket if no other thread does."""
        is_reader = False
        try:
            with self._state:
                while slot.answer is None:
                    if self.lost is not None:
                        raise ConnectionLost(self.lost)
                    if not self._reading:
                        is_reader = self._reading = True
                        break
                    if self._listening and self._wake is not None:
                        self._wake_up(self._wake)
                    left = until - time.monotonic()
                    self._n_waiting += 1
                    woken = left > 0 and self._state.wait(left)
                    self._n_waiting -= 1
                    if not woken and slot.answer is None:
                        raise TimedOut("")
            while slot.answer is None:
                self._read(until - time.monotonic())
        finally:
            if is_reader:
                self._stop_reading()

    @staticmethod
    def _wake_up(bell: socket.socket) -> None:
        try:
            bell.send(b"!")
        except OSError:
            pass  # The connection is ending, or the socket is full, so the thread will wake up in any case.

    def _stop_reading(self) -> None:
        with self._state:
            self._reading = False
            if self._n_waiting:
                self._state.notify_all()

    def _read(self, left: float) -> None:
        """Reads what arrives within ``left`` seconds. The caller must be the reading thread."""
        if left <= 0:
            raise TimedOut("")
        try:
            self._sock.settimeout(left)
            data = self._sock.recv(64 * 1024)
        except (socket.timeout, BlockingIOError):
            raise TimedOut("") from None
        except OSError as error:
            self._is_reset = isinstance(error, ConnectionResetError)
            self._break(f"the connection to the broker was lost ({error})")
            raise ConnectionLost(str(self.lost)) from None
        if not data:
            self._break("the broker closed the connection")
            raise ConnectionLost(str(self.lost))
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line:
                self._handle_line(line)

    def _handle_line(self, line: bytes) -> None:
        try:
            message = _decode(line.decode("utf-8"))
        except ValueError:
            self._break("the broker sent a line that is not JSON")
            raise ConnectionLost(str(self.lost)) from None
        method = message.get("method")
        if method is None:
            with self._state:
                n = message.get("id")
                if n is None and len(self._slots) == 1:
                    # The broker could not read the line of a call, so the answer has no id. But only one call is
                    # waiting.
                    slot = next(iter(self._slots.values()))
                else:
                    slot = self._slots.get(n)
                if slot is not None:
                    slot.answer = message
                if self._n_waiting:
                    self._state.notify_all()
            if n is None and slot is None and self._slots:
                # Without an id it is unknown which of the calls the broker could not read.
                self._break("the broker could not read one of several calls")
                raise ConnectionLost(str(self.lost))
        elif method == "ping" and "id" in message:
            self._send({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        elif method == "shutdown":
            self._is_ending = True
            self.was_stopped = message.get("params", {}).get("reason") != "making_room"

    def _listen(self, wake_reader: socket.socket) -> None:
        """Reads while no call does, until the connection ends."""
        with selectors.DefaultSelector() as ready, wake_reader:
            ready.register(self._sock, selectors.EVENT_READ)
            ready.register(wake_reader, selectors.EVENT_READ, data=wake_reader)
            pause, n_calls = _PAUSE_MIN, self._n_calls
            while self.lost is None:
                with self._state:
                    # A thread that has just called will probably call again, and then reads the socket itself.
                    is_quiet = not self._reading and n_calls == self._n_calls
                    n_calls = self._n_calls
                    if is_quiet:
                        self._reading = self._listening = True
                if is_quiet:
                    self._read_until_woken(ready)
                    pause = _PAUSE_MIN
                else:
                    pause = min(2 * pause, _PAUSE_MAX)
                time.sleep(pause)

    def _read_until_woken(self, ready: selectors.BaseSelector) -> None:
        try:
            while self.lost is None:
                for key, _ in ready.select():
                    if key.data is not None:
                        key.data.recv(4096)
                        return
                    self._read(_PAUSE_MAX)
        except MeshError:
            pass  # `_break` has recorded the loss, and an incomplete notification is of no use.
        finally:
            with self._state:
                self._listening = False
            self._stop_reading()

    def _break(self, why: str) -> None:
        if self._pid != os.getpid():
            return
        with self._state:
            if self.lost is not None:
                return
            self.lost = why
            self._state.notify_all()
            on_lost = self._on_lost
        try:
            # This wakes the reading thread; closing the socket would not.
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The other side closed it first.
        if self._wake is not None:
            self._wake_up(self._wake)
        if on_lost is not None:
            on_lost()

    def __del__(self) -> None:
        for sock in (getattr(self, "_sock", None), getattr(self, "_out", None), getattr(self, "_wake", None)):
            if sock is not None:
                sock.close()
