"""Locks and lost connections: which peer holds what after failures, against a real broker."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import unittest
from unittest import mock

from support import MeshTest

import slm_mesh
from slm_mesh import Mesh


class Locks(MeshTest):
    def test_a_lock_is_held_inside_the_with_and_freed_after_it(self):
        mesh = Mesh()
        with mesh.lock("a.py", reason="renaming") as held:
            self.assertEqual((held.file_path, held.reason, held.lost), (os.path.abspath("a.py"), "renaming", None))
            self.assertEqual((held.locked_by, held.holder), (mesh.id, mesh.name))
            self.assertGreater(held.token, 0)
            [lock] = mesh.locks("a.py")
            self.assertEqual((lock.file_path, lock.token, lock.reason), (held.file_path, held.token, "renaming"))
            self.assertEqual((lock.locked_at, lock.expires_at), (held.locked_at, held.expires_at))
            held.check()
        self.assertEqual(mesh.locks(), [])
        held.release()
        with self.assertRaises(slm_mesh.LockLost):
            held.check()

    def test_an_error_frees_the_lock_and_is_the_one_to_be_heard(self):
        mesh = Mesh()
        with self.assertRaises(ZeroDivisionError):
            with mesh.lock("a.py"):
                raise ZeroDivisionError
        self.assertEqual(mesh.locks(), [])

    def test_who_else_holds_it_is_said(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob, ann.lock("src/", reason="moving", ttl_minutes=5):
            with self.assertRaises(slm_mesh.LockedError) as caught:
                bob.lock("src/a.py")
            error = caught.exception
            self.assertEqual((error.holder, error.reason, error.queue), ("ann", "moving", []))
            self.assertEqual(error.file_path, os.path.abspath("src") + "/")
            self.assertIn(error.expires_in, range(280, 301))
            with self.assertRaises(slm_mesh.LockedError):
                bob.lock("src/a.py", wait=1)

    def test_two_locks_of_one_script_exclude_each_other(self):
        mesh = Mesh()
        with mesh.lock("a.py"):
            with self.assertRaises(slm_mesh.LockedError):
                mesh.lock("a.py")

    def test_who_waits_in_line_gets_it_when_it_is_free(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            held = ann.lock("a.py")
            waiting = self.behind(lambda: bob.lock("a.py", wait=20))
            self.until("it is in line", lambda: ann.locks()[0].queue == ["bob"])
            held.release()
            with waiting.get() as mine:
                self.assertGreater(mine.token, held.token)

    def test_who_gives_up_waiting_holds_nothing_later(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            held = ann.lock("a.py")
            link, call = bob._link, bob._link.call
            # No answer arrives in time, as if the broker were stopped.
            link.call = lambda method, params, timeout: call(method, params, min(timeout, 0.2))
            with self.assertRaises(slm_mesh.TimedOut):
                bob.lock("a.py", wait=20)
            held.release()
            link.call = call
            self.assertEqual(bob.locks(), [])

    def test_whatever_ends_the_wait_leaves_no_lock(self):
        class Alarm(Exception):
            pass

        def ring():
            self.until("it is in line", lambda: ann.locks()[0].queue == ["bob"])
            os.kill(os.getpid(), signal.SIGALRM)

        self.addCleanup(signal.signal, signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            for kind in (Alarm, SystemExit, KeyboardInterrupt):
                signal.signal(signal.SIGALRM, lambda *_, kind=kind: raise_(kind()))
                held = ann.lock("a.py")
                ringing = self.behind(ring)
                with self.assertRaises(kind):
                    bob.lock("a.py", wait=20)
                ringing.get()
                held.release()
                self.until(f"it falls after {kind}", lambda: ann.locks() == [])
            # The exception arrives when the lock was just granted.
            with mock.patch.object(bob, "_keep", side_effect=Alarm), self.assertRaises(Alarm):
                bob.lock("a.py")
            self.until("it falls after the grant", lambda: ann.locks() == [])

    def test_renewing_and_releasing_at_once_leaves_no_lock(self):
        mesh = Mesh()
        for _ in range(50):
            held = mesh.lock("a.py")
            renewing = self.behind(held._renew)
            held.release()
            renewing.get()
            self.assertEqual(mesh.locks(), [])

    def test_several_files_come_together_or_not_at_all(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            with ann.lock(["a.py", "b.py"]) as held:
                self.assertEqual(held.file_paths, [os.path.abspath("a.py"), os.path.abspath("b.py")])
                with self.assertRaises(slm_mesh.LockedError):
                    bob.lock(["b.py", "c.py"])
                self.assertEqual(len(ann.locks()), 2)
            self.assertEqual(ann.locks(), [])

    def test_a_symlink_and_its_target_are_one_file(self):
        os.mkdir("real")
        os.symlink("real", "link")
        mesh = Mesh()
        with mesh.lock("link/a.py") as held:
            self.assertEqual(held.file_path, os.path.abspath("real/a.py"))

    def test_a_lock_is_renewed_while_it_is_held(self):
        mesh = Mesh()
        with mesh.lock("a.py") as held:
            before = held.expires_at

            def is_renewed():
                # Makes the renewal due. This is repeated, in case the lock was taken in this very millisecond.
                with mesh._changed:
                    held._renew_at = time.monotonic()
                    mesh._changed.notify_all()
                return held.expires_at > before

            self.until("it is renewed", is_renewed)
            self.assertIsNone(held.lost)

    def test_a_stolen_lock_is_known_at_the_end_of_the_with(self):
        with Mesh(name="ann") as ann:
            human = Mesh()
            with self.assertRaisesRegex(slm_mesh.LockLost, "a.py"):
                with ann.lock("a.py") as held:
                    human._call("lock.lock", {"filePath": held.file_path, "steal": True})
                    with self.assertRaises(slm_mesh.LockLost):
                        held.check()
                    self.assertIsNotNone(held.lost)
            self.assertEqual([lock.holder for lock in ann.locks()], [human.name])

    def test_a_lock_that_fell_unnoticed_is_known_at_the_end_of_the_with(self):
        with Mesh(name="ann") as ann:
            human = Mesh()
            with self.assertRaisesRegex(slm_mesh.LockLost, "a.py was lost before its release: .* by you"):
                with ann.lock("a.py") as held:
                    human._call("lock.lock", {"filePath": held.file_path, "steal": True})
            self.assertEqual([lock.holder for lock in human.locks()], [human.name])

    def test_a_broker_that_cannot_be_reached_leaves_the_lock_in_doubt(self):
        slm_mesh.start_broker()
        mesh = Mesh(start=False)
        with self.assertRaisesRegex(slm_mesh.LockLost, "a.py may have been lost: the broker can't be reached"):
            with mesh.lock("a.py") as held:
                self.assertEqual(self.verb("stop")[0], 0)
                with self.assertRaisesRegex(slm_mesh.Unavailable, "no broker is running"):
                    held.check()
                self.assertIsNone(held.lost)

    def test_no_block_runs_under_a_lock_that_was_given_back(self):
        slm_mesh.start_broker()
        old = slm_mesh.SLMMeshClient(port=self.port())
        peer = old.register(os.getpid(), str(self.root))["peerId"]
        closed = Mesh()
        with Mesh() as mesh:
            released = [mesh.lock("a.py"), old.lock(f"{self.root}/b.py", peer), closed.lock("c.py")]
            for lock in released[:2]:
                with lock:
                    pass
            closed.close()
            for lock in released:
                with self.assertRaisesRegex(slm_mesh.LockLost, "already released"):
                    with lock:
                        self.fail("nothing is locked here")
            with self.assertRaisesRegex(slm_mesh.LockLost, "already released"):
                released[2].check()
            self.assertEqual(mesh.locks(), [])

    def test_a_killed_script_loses_its_locks(self):
        mesh = Mesh()
        script = "import slm_mesh; held = slm_mesh.Mesh().lock('a.py'); print('held', flush=True); input()"
        package = os.path.dirname(os.path.dirname(slm_mesh.__file__))
        child = subprocess.Popen(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": package},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self.assertEqual(child.stdout.readline(), b"held\n")
        self.assertEqual(len(mesh.locks()), 1)
        child.kill()
        child.communicate()
        self.until("the lock falls", lambda: mesh.locks() == [])

    def in_child(self, work):
        """Runs a function in a forked child, which must succeed."""
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_a_forked_child_has_its_own_connection_and_frees_no_lock_of_its_parent(self):
        def use_and_leave():
            with self.assertRaisesRegex(slm_mesh.LockLost, "belongs to the parent"):
                held.check()
            with self.assertRaisesRegex(slm_mesh.LockLost, "belongs to the parent"):
                with held:
                    self.fail("the child has no lock")
            held.__exit__(None, None, None)
            held.release()
            ann.state_set("child", ann.name)
            ann.close()

        with Mesh(name="ann") as ann, ann.lock("a.py") as held:
            for work in (ann.close, held.release, use_and_leave):
                self.in_child(work)
                self.assertEqual([lock.token for lock in Mesh().locks()], [held.token])
                self.assertEqual([peer.name for peer in Mesh().peers()], ["ann"])
                held.check()
            self.assertEqual(ann.state_get("child").value, "ann")

    def test_a_lock_that_a_forked_child_takes_is_renewed(self):
        mesh = Mesh()
        mesh.lock("a.py").release()
        self.in_child(lambda: mesh.lock("a.py") and self.assertTrue(mesh._keeper.is_alive()))
        self.until("it falls with the child", lambda: mesh.locks() == [])

    def test_a_list_that_does_not_fit_into_one_answer_comes_whole(self):
        mesh = Mesh()
        folder = "d" * 200
        names = [[f"{folder}/{folder}/{n}-{i}.py" for i in range(60)] for n in range(2)]
        for some in names:
            mesh.lock(some)
        found = [lock.file_path.rsplit("/", 1)[1] for lock in mesh.locks()]
        self.assertEqual(sorted(found), sorted(name.rsplit("/", 1)[1] for some in names for name in some))

    def test_what_a_script_runs_acts_as_the_script_and_its_shell_does_not(self):
        with Mesh(name="builder") as builder:
            status, said = self.verb("whoami", "--json")
            self.assertEqual(status, 0, said)
            self.assertIn(builder.id, said)
            self.assertEqual(Mesh().whoami().kind, "human")


class Reconnecting(MeshTest):
    def kill_broker(self):
        pid = self.broker_pid()
        os.kill(pid, signal.SIGKILL)
        self.until("it is gone", lambda: not lives(pid))

    def test_a_script_outlives_its_broker(self):
        with Mesh(name="ann") as ann:
            before = ann.id
            ann.state_set("k", "v")
            self.kill_broker()
            self.assertEqual(ann.state_get("k").value, "v")
            self.assertEqual(ann.whoami().id, before)
            self.kill_broker()
            ann.send("ann", "once")
            self.assertEqual([mail.payload for mail in ann.inbox()], ["once"])

    def test_a_peer_comes_back_without_a_call(self):
        with Mesh(name="ann") as ann:
            self.kill_broker()
            human = Mesh()
            self.until("it is back", lambda: [peer.name for peer in human.peers()] == ["ann"])
            self.assertEqual(human.peers()[0].id, ann.id)

    def test_a_lock_outlives_the_broker(self):
        mesh = Mesh()
        with mesh.lock("a.py") as held:
            self.kill_broker()
            held.check()
            self.assertEqual([lock.token for lock in mesh.locks()], [held.token])

    def test_a_wait_goes_on_after_the_broker_died(self):
        with Mesh(name="ann") as ann:
            waiting = self.behind(lambda: ann.wait_for_message(20))
            self.until("it waits", lambda: ann._call("status", {})["waiting"] == 1)
            self.kill_broker()
            Mesh().send("ann", "still here?")
            self.assertEqual(waiting.get().payload, "still here?")

    def test_following_loses_no_event_over_a_crash(self):
        mesh = Mesh()
        events = mesh.follow(types=["a.b"])
        mesh.emit("a.b", {"n": 1})
        self.assertEqual(next(events).data["n"], 1)
        self.kill_broker()
        Mesh().emit("a.b", {"n": 2})
        self.assertEqual(next(events).data["n"], 2)

    def call_ending_broker(self, deed, call):
        """Calls a broker that ends with this deed; the next broker is a real one."""
        self.dir.mkdir(exist_ok=True)
        path = self.dir / "mesh.sock"

        def end(server):
            # Peeking leaves the call unread.
            with server.accept()[0] as connection:
                connection.recv(1, socket.MSG_PEEK)
                path.unlink()
                server.close()
                if deed != "leaves it unread":
                    received = b""
                    while not received.endswith(b"\n"):
                        received += connection.recv(4096)
                if deed == "reads it and says that it ends":
                    connection.sendall(b'{"jsonrpc":"2.0","method":"shutdown","params":{"reason":"stopping"}}\n')

        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            ending = self.behind(lambda: end(server))
            try:
                return call()
            finally:
                ending.get()

    def test_a_call_that_an_ending_broker_did_not_run_is_answered_by_the_next(self):
        for deed in ("leaves it unread", "reads it and says that it ends"):
            for name in (None, "ann"):
                def call(key=f"{deed} {name}", name=name):
                    with Mesh(name) as mesh:
                        return mesh.state_set(key, "v", expect=0).version
                self.assertEqual(self.call_ending_broker(deed, call), 1)
                self.assertEqual(self.verb("stop")[0], 0)
        # Attaching may have happened, but it is safe to repeat.
        self.assertEqual(self.call_ending_broker("reads it and dies", lambda: Mesh("ann").name), "ann")

    def test_a_call_that_an_ending_broker_may_have_run_is_not_repeated(self):
        mesh = Mesh()
        with self.assertRaisesRegex(slm_mesh.ConnectionLost, "it is unknown whether state.set took effect"):
            self.call_ending_broker("reads it and dies", lambda: mesh.state_set("k", "v"))
        self.assertIsNone(mesh.state_get("k"))

    def test_a_write_that_the_broker_did_not_read_is_repeated_once(self):
        mesh = Mesh()
        mesh.state_set("n", "1")
        pid = self.broker_pid()
        os.kill(pid, signal.SIGSTOP)
        sent, write = threading.Event(), mesh._link._write
        mesh._link._write = lambda message: (write(message), sent.set())
        writing = self.behind(lambda: mesh.state_set("n", "2"))
        # The broker is stopped, so it can't read the call.
        self.assertTrue(sent.wait(20))
        os.kill(pid, signal.SIGKILL)
        self.assertEqual(writing.get().version, 2)
        self.assertEqual(mesh.state_get("n").value, "2")

    def test_a_call_that_takes_too_long_is_called_off(self):
        mesh = Mesh(timeout=20)
        mesh.status()
        pid = self.broker_pid()
        os.kill(pid, signal.SIGSTOP)
        mesh.timeout = 0.2
        try:
            with self.assertRaisesRegex(slm_mesh.TimedOut, "status: the broker did not answer"):
                mesh.status()
        finally:
            os.kill(pid, signal.SIGCONT)
        mesh.timeout = 20
        self.assertEqual(mesh.status().pid, pid)

    def test_a_stopped_broker_stays_stopped_until_somebody_calls(self):
        with Mesh(name="ann") as ann:
            link = ann._link
            self.assertEqual(self.verb("stop")[0], 0)
            self.until("it is noticed", lambda: link.lost is not None)
            self.assertTrue(link.was_stopped)
            self.assertEqual(ann.whoami().name, "ann")

    def test_a_closed_mesh_says_so(self):
        mesh = Mesh()
        mesh.status()
        mesh.close()
        with self.assertRaisesRegex(slm_mesh.Unavailable, "closed"):
            mesh.status()


def raise_(error):
    raise error


def lives(pid):
    """Whether a process is alive. A zombie is not alive once its last thread has ended."""
    try:
        n_threads = len(os.listdir(f"/proc/{pid}/task"))
        with open(f"/proc/{pid}/stat") as stat:
            return n_threads > 1 or ") Z " not in stat.read()
    except OSError:
        return False


if __name__ == "__main__":
    unittest.main()
