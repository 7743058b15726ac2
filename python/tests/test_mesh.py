"""Peers, messages, state and events, as scripts use them, against a real broker."""

import os
import signal
import socket
import subprocess
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor

from support import MeshTest

import slm_mesh
from slm_mesh import ConnectionLost, Mesh, UsageError
from slm_mesh.rpc import RpcConnection


class Broker(MeshTest):
    def test_the_first_call_starts_the_broker(self):
        self.assertIsNone(self.broker_pid())
        with Mesh() as mesh:
            self.assertEqual(mesh.status().pid, self.broker_pid())
        self.assertEqual(slm_mesh.start_broker(), self.broker_pid())

    def test_a_data_directory_may_have_a_path_of_any_length_and_lie_behind_a_symlink(self):
        long = self.root / ("d" * 120) / ("e" * 60)
        long.mkdir(parents=True)
        (self.root / "short").symlink_to(long)
        (self.root / "short mesh").mkdir()
        (long / "link").symlink_to(self.root / "short mesh")
        for first, *others in ([long, self.root / "short"], [long / "link"], [self.root / "short mesh", long / "link"]):
            os.environ["SLM_MESH_DATA_DIR"] = str(first)
            try:
                with Mesh(name="ann") as ann:
                    ann.state_set("k", str(first))
                    for path in others:
                        self.assertEqual(Mesh(data_dir=path, start=False).state_get("k").value, str(first))
            finally:
                self.assertEqual(self.verb("stop")[0], 0)

    def test_without_start_a_missing_broker_is_said(self):
        with self.assertRaisesRegex(slm_mesh.Unavailable, "no broker is running"):
            Mesh(start=False).status()
        self.assertIsNone(self.broker_pid())

    def test_a_missing_program_is_said(self):
        before = os.environ["SLM_MESH_BIN"]
        self.addCleanup(os.environ.__setitem__, "SLM_MESH_BIN", before)
        os.environ["SLM_MESH_BIN"] = str(self.root / "nothing")
        with self.assertRaisesRegex(slm_mesh.Unavailable, "cannot start the broker"):
            Mesh().status()

    def test_a_broker_that_refuses_to_start_says_why(self):
        os.environ["SLM_MESH_PORT"] = "many"
        with self.assertRaisesRegex(slm_mesh.Unavailable, "SLM_MESH_PORT"):
            Mesh().status()
        os.environ["SLM_MESH_PORT"] = "20001"


class Peers(MeshTest):
    def test_a_named_script_is_a_peer_until_it_leaves(self):
        human = Mesh()
        with Mesh(name="builder") as builder:
            builder.set_summary("building")
            [peer] = human.peers()
            self.assertEqual((peer.name, peer.id, peer.agent_type), ("builder", builder.id, "python"))
            self.assertEqual((peer.summary, peer.pid, peer.status), ("building", os.getpid(), "active"))
            self.assertEqual(peer.project_path, os.getcwd())
            self.assertEqual(builder.whoami().kind, "session")
            self.assertEqual(builder.peers("directory"), [])
        self.assertEqual(human.peers(), [])
        self.assertEqual([peer.status for peer in human.peers(away=True) if peer.name == "builder"], ["away"])

    def test_a_name_that_is_taken_gets_a_number_and_a_free_one_is_taken_up_again(self):
        with Mesh(name="builder") as first, Mesh(name="builder") as second:
            self.assertEqual((first.name, second.name), ("builder", "builder-2"))
            before = first.id
        with Mesh(name="builder") as again:
            self.assertEqual(again.id, before)

    def test_without_a_name_it_is_the_human_or_the_peer_named_by_the_environment(self):
        with Mesh(name="builder") as builder:
            self.assertEqual(Mesh().whoami().kind, "human")
            self.assertEqual(Mesh(acting="builder").id, builder.id)
            os.environ["SLM_MESH_PEER"] = "builder"
            self.assertEqual(Mesh().name, "builder")
            with self.assertRaises(slm_mesh.NotFound):
                Mesh(acting="nobody").whoami()

    def test_in_the_shell_of_an_agent_a_script_acts_as_this_agent_as_the_verbs_do(self):
        Mesh().send("human", "for the human only")
        os.environ["AI_AGENT"] = "goose/1.2"
        script, verb = Mesh().whoami(), self.verb("whoami", "--json")[1]
        self.assertEqual((script.agent_type, script.name), ("goose", "goose-work"))
        self.assertIn(script.id, verb)
        self.assertEqual(Mesh().inbox(), [])
        del os.environ["AI_AGENT"]
        self.assertEqual(Mesh().whoami().kind, "human")
        self.assertEqual([mail.payload for mail in Mesh().inbox()], ["for the human only"])
        os.environ["SLM_MESH_SESSION"] = script.id
        self.assertEqual(Mesh().id, script.id)
        os.environ["SLM_MESH_SESSION"] = "no-session"
        with self.assertRaisesRegex(slm_mesh.Refused, "SLM_MESH_SESSION is no-session"):
            Mesh().inbox()
        os.environ["SLM_MESH_PEER"] = " human "
        self.assertEqual(Mesh().whoami().kind, "human")

    def test_peers_of_one_repository_find_each_other(self):
        subprocess.run(["git", "init", "-q", "."], check=True)
        with Mesh(name="a") as a, Mesh(name="b"):
            self.assertEqual([peer.name for peer in a.peers("repo")], ["b"])
            self.assertEqual(a.whoami().git_root, os.getcwd())
            self.assertEqual([peer.name for peer in Mesh().peers("repo")], ["a", "b"])
            self.assertEqual([to.name for to in Mesh().send("repo", "hello").recipients], ["a", "b"])
            self.assertEqual([to.name for to in a.send("directory", "hello").recipients], ["b"])


    def test_a_script_works_although_its_working_directory_is_gone(self):
        gone = self.root / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        with Mesh(name="ann") as ann:
            self.assertEqual([to.name for to in Mesh().send("ann", "hello").recipients], ["ann"])
            with ann.lock(f"{self.root}/a.py") as held:
                self.assertEqual(held.file_path, f"{self.root}/a.py")
            with self.assertRaisesRegex(UsageError, '"b.py" is relative, and the working directory is gone'):
                ann.lock("b.py")
            os.environ["SLM_MESH_DATA_DIR"] = "relative"
            with self.assertRaisesRegex(slm_mesh.Unavailable, "set SLM_MESH_DATA_DIR to an absolute path"):
                Mesh()
            os.environ["SLM_MESH_DATA_DIR"] = str(self.dir)

    def test_a_name_too_long_for_a_file_can_be_locked_as_by_the_verb(self):
        name = "x" * 300
        with Mesh().lock(name) as held:
            self.assertEqual(held.file_path, f"{os.getcwd()}/{name}")
            self.assertIn(name, self.verb("lock", "list")[1])


class Messages(MeshTest):
    def test_a_message_is_read_once_and_its_sender_learns_how_far_it_got(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            sent = ann.send("bob", "hello ☃", type="command")
            self.assertEqual([(to.name, to.here, to.receipt) for to in sent.recipients], [("bob", True, "accepted")])
            self.assertEqual([mail.receipt for mail in ann.receipts(sent)], ["accepted"])
            [mail] = bob.inbox()
            self.assertEqual((mail.id, mail.payload, mail.msg_type), (sent.id, "hello ☃", "command"))
            self.assertEqual((mail.from_peer, mail.from_name, mail.whole), (ann.id, "ann", True))
            self.assertEqual(bob.inbox(), [])
            self.assertEqual([mail.receipt for mail in ann.receipts(sent.id)], ["read"])
            bob.send("ann", "hello yourself", reply_to=mail)
            self.assertEqual([mail.receipt for mail in ann.receipts(sent)], ["acked"])
            self.assertEqual(ann.wait_for_message(20).reply_to, sent.id)
            self.assertEqual([mail.payload for mail in bob.history()], ["hello ☃"])

    def test_waiting_ends_with_a_message_or_with_the_time(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            waiting = self.behind(lambda: bob.wait_for_message(20))
            # While one call waits, the same connection answers other calls.
            self.until("it waits", lambda: bob._call("status", {})["waiting"] == 1)
            ann.send("bob", "now")
            self.assertEqual(waiting.get().payload, "now")
            with self.assertRaises(slm_mesh.TimedOut):
                bob.wait_for_message(0)

    def test_a_message_whose_reader_failed_is_offered_again(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            ann.send("bob", "one")
            ann.send("bob", "two")
            with self.assertRaises(ZeroDivisionError):
                for mail in bob.messages():
                    if mail.payload == "two":
                        raise ZeroDivisionError
            [mail] = bob.messages(wait=0)
            self.assertEqual((mail.payload, mail.redelivered), ("two", True))
            self.assertEqual(list(bob.messages(wait=0)), [])

    def test_a_long_message_comes_whole_in_its_order(self):
        text = "".join(f"{n} ☃\n" for n in range(9000))[:60_000]
        self.assertGreater(len(text.encode()), 60_000)
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            for message in ("before", text[:20_000], "after"):
                ann.send("bob", message)
            found = bob.inbox()
            found += bob.inbox()
            self.assertEqual([mail.payload for mail in found], ["before", text[:20_000], "after"])
            self.assertEqual([mail.whole for mail in found], [True, True, True])
            self.assertEqual(bob.inbox(), [])
            self.assertFalse(bob.history(after=found[0].seq, limit=1)[0].whole)

    def test_a_long_message_whose_reader_failed_is_offered_again_as_a_whole(self):
        text = "A" * 20_000 + "B" * 20_000 + "C" * 10_000
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            ann.send("bob", text)
            ann.send("bob", "short")
            for _ in range(2):
                mail = next(bob.messages())
                self.assertEqual((mail.payload, mail.whole), (text, True))
                self.assertEqual([mail.receipt for mail in ann.sent()], ["offered", "accepted"])
            # Another program has read the first part of the message.
            bob._call("inbox.mark_read", {"items": [f"{mail.id}@20000"]})
            self.assertEqual([(mail.payload, mail.whole) for mail in bob.inbox()], [(text, True), ("short", True)])
            self.assertEqual([mail.receipt for mail in ann.sent()], ["read", "read"])

    def test_the_log_shows_conversations_and_takes_nothing(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob, Mesh(name="cat") as cat:
            sent = ann.send("bob", "is the Lexer done?")
            bob.send("ann", "nearly", reply_to=sent.id)
            cat.send("all", "lexer lunch")
            human = Mesh()
            self.assertEqual([mail.payload for mail in human.log(thread=sent.id)], ["is the Lexer done?", "nearly"])
            self.assertEqual([mail.payload for mail in human.log(2)], ["nearly", "lexer lunch"])
            self.assertEqual([mail.copies for mail in human.log(search="LUNCH lexer")], [3])
            self.assertEqual([mail.payload for mail in human.log(grep="Lexer", since="1h")], ["is the Lexer done?"])
            self.assertEqual([mail.payload for mail in cat.log(search="lexer")], ["lexer lunch"])
            self.assertEqual([mail.payload for mail in human.log(with_peer="cat", search='" OR *')], [])
            self.assertEqual([mail.payload for mail in ann.inbox()], ["nearly", "lexer lunch"])

    def test_the_same_key_sends_once(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob:
            first, second = ann.send("bob", "x", key="k"), ann.send("bob", "x", key="k")
            self.assertEqual((second.ids, second.repeated), (first.ids, True))
            self.assertEqual(len(bob.inbox()), 1)

    def test_all_hear_a_broadcast_and_each_has_its_receipt(self):
        with Mesh(name="ann") as ann, Mesh(name="bob") as bob, Mesh(name="cid") as cid:
            sent = ann.broadcast("to all")
            bob.inbox()
            self.assertEqual({mail.to_name: mail.receipt for mail in ann.receipts(sent)}["bob"], "read")
            self.assertEqual([mail.group for mail in cid.inbox()], ["all"])
            self.assertEqual(len(ann.receipts(sent)), 3)

    def test_faults_have_types(self):
        with Mesh(name="ann") as ann, Mesh(name="anton") as anton:
            with self.assertRaises(slm_mesh.NotFound):
                ann.send("nobody", "x")
            with self.assertRaises(slm_mesh.Ambiguous):
                ann.send("an", "x")
            with self.assertRaises(slm_mesh.UsageError):
                ann.send("anton", "")
            with self.assertRaises(slm_mesh.UsageError):
                ann.send("anton", "x" * (1 << 20))
            with self.assertRaises(slm_mesh.Refused):
                ann.ack(anton.send("anton", "to myself").id)
            with self.assertRaises(slm_mesh.RateLimited) as caught:
                for _ in range(200):
                    ann.send("anton", "x")
            self.assertIn(caught.exception.retry_after, range(1, 11))
            self.assertIsInstance(caught.exception, slm_mesh.SLMMeshError)


class SignalHandlers(MeshTest):
    def during_a_wait(self, mesh, act):
        """Lets a signal handler act while the mesh waits for a message, and returns the error of the handler."""
        errors = []

        def handle(*_):
            try:
                act()
            except slm_mesh.MeshError as error:
                errors.append(error)

        def ring():
            self.until("it waits", lambda: Mesh()._call("status", {})["waiting"] == 1)
            os.kill(os.getpid(), signal.SIGALRM)
            self.until("it was handled", lambda: errors or mesh._closed)
            Mesh().send(mesh.id, "go on")

        self.addCleanup(signal.signal, signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        signal.signal(signal.SIGALRM, handle)
        ringing = self.behind(ring)
        try:
            return mesh.wait_for_message(20).payload, errors
        except slm_mesh.MeshError as error:
            return str(error), errors
        finally:
            ringing.get()

    def test_a_handler_that_would_wait_for_itself_is_told_so(self):
        with Mesh(name="ann", timeout=5) as ann, ann.lock("a.py") as held:
            for act in (lambda: ann.set_summary("ending"), held.check, held.release, lambda: ann.lock("b.py")):
                got, errors = self.during_a_wait(ann, act)
                self.assertEqual(got, "go on")
                self.assertRegex(str(errors), "UsageError.*use another Mesh")
            held.check()
            self.assertEqual([lock.token for lock in ann.locks()], [held.token])

    def test_a_handler_may_close_the_mesh(self):
        ann = Mesh(name="ann")
        got, errors = self.during_a_wait(ann, ann.close)
        self.assertEqual((got, errors), ("this Mesh is closed", []))
        self.assertEqual(Mesh().peers(), [])


class UnreadableCalls(MeshTest):
    def test_what_is_not_json_or_utf_8_is_refused_at_once(self):
        with Mesh() as mesh:
            for call in (
                lambda: mesh.send("human", "a\ud800b"),
                lambda: mesh.emit("a.b", {"x": float("nan")}),
                lambda: mesh.emit("a.b", {"x": [float("-inf")]}),
                lambda: mesh.lock(os.fsdecode(b"caf\xe9.txt")),
                lambda: mesh.state_set("k", b"bytes"),
                lambda: mesh.emit("a.b", nested(100_000)),
            ):
                with self.assertRaisesRegex(UsageError, "can't be (sent|written as JSON)"):
                    call()
            with self.assertRaisesRegex(UsageError, "payload: expected a JSON object"):
                mesh.emit("a.b", ["x"])
            with self.assertRaisesRegex(UsageError, "wait: expected a number of seconds"):
                mesh.wait_for_message(float("nan"))
            for number in (1 << 64, -(1 << 63) - 1, 10 ** 400):
                with self.assertRaisesRegex(UsageError, "64 bits"):
                    mesh.emit("a.b", {"x": [{"y": number}]})
            exact = {"x": [(1 << 64) - 1, -(1 << 63), 1e300], "y": "1" * 20}
            mesh.emit("a.b", exact)
            self.assertEqual(mesh.events(limit=1)[0].data, exact)
            mesh.send("human", "a\U0001f600b")

    def test_an_error_without_an_id_ends_the_call_that_waits(self):
        ours, theirs = socket.socketpair()
        connection = RpcConnection(ours)
        self.addCleanup(connection.close)
        error = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"not valid JSON"}}\n'
        theirs.sendall(error)
        with self.assertRaisesRegex(UsageError, "not valid JSON"):
            connection.call("status", {}, 20)
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(connection.call, "status", {}, 20) for _ in range(2)]
            lines = b""
            while lines.count(b"\n") < 3:
                lines += theirs.recv(4096)
            theirs.sendall(error)
            for call in calls:
                with self.assertRaisesRegex(ConnectionLost, "could not read one of several calls"):
                    call.result()
        theirs.close()


def nested(depth):
    """A dictionary in a dictionary, and so on."""
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


class State(MeshTest):
    def test_values_have_versions(self):
        mesh = Mesh()
        self.assertIsNone(mesh.state_get("k"))
        self.assertEqual(mesh.state_set("k", "one", expect=0).version, 1)
        entry = mesh.state_set("k", "two", expect=1)
        self.assertEqual((entry.value, entry.version, entry.updated_by), ("two", 2, mesh.id))
        self.assertEqual(mesh.state_get("k"), entry)
        with self.assertRaises(slm_mesh.VersionConflict) as caught:
            mesh.state_set("k", "three", expect=1)
        self.assertEqual(caught.exception.version, 2)
        with self.assertRaises(slm_mesh.VersionConflict):
            mesh.state_delete("k", expect=1)
        self.assertTrue(mesh.state_delete("k", expect=2))
        self.assertFalse(mesh.state_delete("k"))
        self.assertIsNotNone(mesh.state_set("gone soon", "x", ttl_minutes=1).expires_at)

    def test_counting_from_many_threads_loses_nothing(self):
        mesh = Mesh()
        mesh.state_set("n", "0")

        def count():
            for _ in range(10):
                while True:
                    entry = mesh.state_get("n")
                    try:
                        mesh.state_set("n", str(int(entry.value) + 1), expect=entry.version)
                        break
                    except slm_mesh.VersionConflict:
                        pass

        threads = [self.behind(count) for _ in range(4)]
        for thread in threads:
            thread.get()
        self.assertEqual(mesh.state_get("n").value, "40")

    def test_a_list_is_whole_however_long(self):
        mesh = Mesh()
        wanted = {f"k{n:03}": "v" * 400 for n in range(130)}
        wanted["long"] = "☃" * 20_000
        for key, value in wanted.items():
            self.assertEqual(mesh.state_set(key, value, namespace="many").value, value)
        self.assertEqual({entry.key: entry.value for entry in mesh.state_list("many")}, wanted)
        self.assertEqual(len(mesh.state_list("many", prefix="k12")), 10)


class Events(MeshTest):
    def test_following_starts_now_and_misses_nothing(self):
        mesh = Mesh()
        mesh.emit("old.news")
        events = mesh.follow(wait=0)
        mesh.state_set("k", "v")
        mesh.emit("deploy.done", {"n": 1})
        found = list(events)
        self.assertEqual([event.event_type for event in found], ["state_changed", "deploy.done"])
        self.assertEqual((found[1].data, found[1].seq), ({"n": 1}, events.cursor))
        self.assertEqual([event.seq for event in mesh.follow(after=found[0].seq, wait=0)], [found[1].seq])
        self.assertEqual([event.seq for event in mesh.follow(after=0, types=["old.news"], wait=0)], [1])

    def test_following_waits_for_what_comes(self):
        mesh = Mesh()
        events = mesh.follow(types=["deploy.done"])
        coming = self.behind(lambda: next(events))
        self.until("it waits", lambda: mesh._call("status", {})["waiting"] == 1)
        mesh.emit("other.thing")
        mesh.emit("deploy.done", {"n": 2})
        self.assertEqual(coming.get().data, {"n": 2})

    def test_a_gap_is_raised_once_and_passed(self):
        mesh = Mesh()
        events = mesh.follow(wait=0)
        mesh.emit("a.b", {"n": 1})
        # Events are kept for two days, so the broker's answer about deleted ones is simulated.
        call = mesh._call
        mesh._call = lambda *args, **kwargs: {**call(*args, **kwargs), "gap": True}
        with self.assertRaises(slm_mesh.EventGap):
            next(events)
        mesh._call = call
        self.assertEqual([event.data for event in events], [{"n": 1}])

    def test_more_events_than_one_answer_holds_come_in_order(self):
        mesh = Mesh()
        events = mesh.follow(wait=0)
        for n in range(60):
            mesh.emit("a.b", {"n": n, "text": "x" * 600})
        self.assertEqual([event.data["n"] for event in events], list(range(60)))
        self.assertEqual(len(mesh.events(["a.b"], limit=5)), 5)

    def test_one_connection_serves_many_threads(self):
        mesh = Mesh()
        ready = threading.Barrier(8)

        def work(n):
            ready.wait(20)
            for i in range(30):
                mesh.state_set(f"{n}", f"{n}-{i}")
                self.assertEqual(mesh.state_get(f"{n}").value, f"{n}-{i}")

        threads = [self.behind(lambda n=n: work(n)) for n in range(8)]
        for thread in threads:
            thread.get()
        self.assertEqual(mesh._call("status", {})["connections"], 1)


if __name__ == "__main__":
    unittest.main()
