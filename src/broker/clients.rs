//! The clients on the Unix socket: taken in, read, answered, asked whether they still live.

use super::{Broker, CLIENTS_MAX, End, is_newer, log};
use crate::base::error::{Error, ErrorKind};
use crate::broker::connection::{Connection, Whence};
use crate::core::{self, Args, Auth, Call};
use crate::sys::process;
use crate::wire::rpc::{self, Message};
use mio::{Interest, Token};
use serde_json::{Map, Value, json};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// After a client could not be taken in, the next try is this much later.
const ACCEPT_AGAIN_MS: i64 = 100;
/// Requests that one client has served in one turn, so that others get theirs.
const LINES_MAX: usize = 16;

impl Broker {
    /// Takes new clients of this user; those of others are closed unheard.
    pub(super) fn accept(&mut self, now: i64) {
        if !self.accept_again {
            return;
        }
        while self.conns.len() < CLIENTS_MAX || self.drop_silent(now) {
            let (mut stream, _) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.accept_again = false;
                    if error.kind() != io::ErrorKind::WouldBlock {
                        // Effect of file descriptors, most likely: no event will tell when one is free.
                        self.drop_silent(now);
                        self.accept_at = Some(now + ACCEPT_AGAIN_MS);
                    }
                    return;
                }
            };
            let Some(who) = process::credentials(&stream).filter(|who| who.uid == crate::sys::uid()) else {
                log("refused a connection of another user");
                continue;
            };
            let token = self.next_conn;
            self.next_conn += 1;
            if self.poll.registry().register(&mut stream, Token(token as usize), Interest::READABLE).is_ok() {
                self.conns.insert(token, Connection::new(stream, who.pid, now));
                self.mesh.on_connected(token);
            }
        }
        (self.accept_again, self.accept_at) = (false, Some(now + ACCEPT_AGAIN_MS));
    }

    /// Makes room by dropping the client that has been silent for longest and speaks for nobody; false
    /// where all are sessions, or have said something of late.
    fn drop_silent(&mut self, now: i64) -> bool {
        let idle = self.conns.iter().filter(|(token, conn)| !self.mesh.is_in_use(**token) && conn.is_idle(now));
        let Some(token) = idle.min_by_key(|(token, conn)| (conn.last_heard(), **token)).map(|(token, _)| *token) else {
            return false;
        };
        self.drop_client(token, now);
        true
    }

    /// Takes in guests from other machines. They have proven themselves, and say from where they come.
    pub(super) fn receive_guests(&mut self, now: i64) {
        while let Ok(guest) = self.guests.try_recv() {
            let mut stream = guest.stream;
            let token = self.next_conn;
            self.next_conn += 1;
            if guest.listens {
                self.pushes.listen(self.poll.registry(), token, stream);
                continue;
            }
            if self.poll.registry().register(&mut stream, Token(token as usize), Interest::READABLE).is_ok() {
                let mut conn = Connection::new(stream, 0, now);
                conn.come_from(Whence { host: guest.address.to_string(), ..Whence::default() });
                self.conns.insert(token, conn);
                self.mesh.on_connected(token);
            }
        }
    }

    /// Reads one buffer from each client that has something, and runs what it asks.
    pub(super) fn serve_clients(&mut self, now: i64) {
        let mut ready: Vec<u64> =
            self.conns.iter().filter(|(_, conn)| conn.readable || conn.has_more).map(|(token, _)| *token).collect();
        // Oldest first, and each one's end at once: who comes back finds its old seat free.
        ready.sort_unstable();
        for token in ready {
            let Some(mut conn) = self.conns.remove(&token) else { continue };
            let served = catch_unwind(AssertUnwindSafe(|| self.serve_client(token, &mut conn, now)));
            if served.is_err() {
                log("a bug: one connection was closed after a panic");
                conn.closed = true;
            }
            let is_gone = conn.is_done();
            self.conns.insert(token, conn);
            if is_gone {
                self.hang_up(token, now);
            }
        }
        let gone: Vec<u64> = self.conns.iter().filter(|(_, conn)| conn.is_done()).map(|(token, _)| *token).collect();
        for token in gone {
            self.hang_up(token, now);
        }
    }

    /// Frees the seat of who hung up. What it asked in this very turn is answered by the flush, in case
    /// it closed its own side alone; only then the connection is dropped.
    fn hang_up(&mut self, token: u64, now: i64) {
        let Some(conn) = self.conns.get_mut(&token).filter(|conn| !conn.left) else { return };
        conn.left = true;
        self.mesh.on_disconnected(token, now);
        self.last_call = now;
    }

    /// Drops those that hung up and have been told all that there was.
    pub(super) fn drop_left(&mut self) {
        for (_, mut conn) in self.conns.extract_if(|_, conn| conn.left && conn.is_done()) {
            // The stream is dropped right after; that it was registered until now does no harm.
            let _ = self.poll.registry().deregister(&mut conn.stream);
        }
    }

    fn drop_client(&mut self, token: u64, now: i64) {
        let Some(mut conn) = self.conns.remove(&token) else { return };
        // The stream is dropped right after; that it was registered until now does no harm.
        let _ = self.poll.registry().deregister(&mut conn.stream);
        self.mesh.on_disconnected(token, now);
        self.pages.stir();
        self.last_call = now;
    }

    fn serve_client(&mut self, token: u64, conn: &mut Connection, now: i64) {
        if conn.is_stuffed() || conn.closed && !conn.has_more {
            return;
        }
        while !conn.has_more && conn.fill(&mut self.buffer) {
            if conn.heard(now) {
                self.mesh.set_unresponsive(token, false, now);
            }
            // Who hung up is read to its end at once: who comes back in this very turn finds its seat free.
            if !conn.ends {
                break;
            }
        }
        conn.has_more = false;
        let mut n_lines = 0;
        while !conn.closed || !conn.input.is_empty() {
            if n_lines == LINES_MAX {
                conn.has_more = true;
                return;
            }
            n_lines += 1;
            match conn.input.next_line() {
                Ok(None) => break,
                Ok(Some([])) => {}
                Ok(Some(line)) => {
                    let message = rpc::read(line);
                    self.take(token, conn, message, now);
                }
                Err(_) => {
                    let text =
                        format!("the line is longer than {} bytes; this connection ends", crate::wire::lines::LINE_MAX);
                    conn.write(&rpc::protocol_error(None, rpc::INVALID, &text));
                    conn.closed = true;
                    return;
                }
            }
        }
    }

    fn take(&mut self, token: u64, conn: &mut Connection, message: Result<Message, rpc::Bad>, now: i64) {
        match message {
            Ok(Message::Request { id, method, params }) => self.take_request(token, conn, id, &method, params, now),
            Ok(Message::Notice { method, params }) if method == "cancel" => {
                self.mesh.cancel(token, params.get("id").unwrap_or(&Value::Null), now);
            }
            Ok(Message::Notice { method, params }) if method == "far" => {
                let whence = Whence::read(&params);
                let told = self.mesh.set_origin(token, &whence.host, &whence.user, now);
                match told {
                    Ok(()) => conn.come_from(whence),
                    Err(error) => conn.write(&rpc::error(&Value::Null, &error)),
                }
            }
            Ok(Message::Notice { method, params }) => {
                // An operation without an id: done, and nobody wants to hear how it went.
                if let Some(op) = core::op(&method) {
                    self.call(token, conn, Value::Null, op, params, now);
                }
            }
            Ok(Message::Response { .. }) => {}
            Err(bad) => conn.write(&rpc::protocol_error(bad.id.as_ref(), bad.code, &bad.text)),
        }
    }

    fn take_request(
        &mut self,
        token: u64,
        conn: &mut Connection,
        id: Value,
        method: &str,
        mut params: Map<String, Value>,
        now: i64,
    ) {
        match method {
            "ping" => return conn.write(&rpc::answer(&id, &json!({}))),
            "broker.info" => return conn.write(&rpc::answer(&id, &self.info())),
            "web.open" => {
                let opened = self.open_page(conn.is_far());
                return conn
                    .write(&opened.map_or_else(|error| rpc::error(&id, &error), |value| rpc::answer(&id, &value)));
            }
            "broker.stop" if conn.is_far() => {
                let text = "stop: a broker is stopped on its own machine";
                return conn.write(&rpc::error(&id, &Error::new(ErrorKind::Refused, text)));
            }
            "broker.stop" => {
                self.end = Some(End::Stopped);
                return conn.write(&rpc::answer(&id, &json!({ "ok": true, "pid": std::process::id() })));
            }
            _ => {}
        }
        if let Some(version) = params.remove("v").as_ref().and_then(Value::as_str)
            && is_newer(version, env!("CARGO_PKG_VERSION"))
            && !conn.is_far()
        {
            log(&format!("slm-mesh {version} is here: making room for it"));
            self.end = Some(End::MadeRoom);
        }
        match core::op(method) {
            Some(op) => self.call(token, conn, id, op, params, now),
            None => {
                let method: String = method.chars().take(60).collect();
                conn.write(&rpc::protocol_error(
                    Some(&id),
                    rpc::NO_METHOD,
                    &format!("no method {method}; slm-mesh help protocol lists them"),
                ));
            }
        }
    }

    fn call(
        &mut self,
        token: u64,
        conn: &mut Connection,
        id: Value,
        op: &'static core::Op,
        mut params: Map<String, Value>,
        now: i64,
    ) {
        self.last_call = now;
        self.pages.stir();
        let acting = match params.remove("as") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) if name.len() <= 256 => Some(name),
            Some(_) => return conn.write(&rpc::error(&id, &Error::usage("as", "want the name or id of a peer"))),
        };
        // Who asks to be told who it is, or must be known, is looked up in the process tree: there,
        // and only there, the caller can't claim what it is not.
        let named = acting.is_some() || self.mesh.is_attached(token);
        let wanted = params.remove("whoami").is_some() || op.actor == Auth::Required;
        if op.name == "attach" {
            // A session is nobody's child on the mesh: what stands above it is noted, not asked. A
            // script is no agent's server: what it runs acts as it, and what else its shell runs does not.
            match conn.process().filter(|_| params.get("script") == Some(&Value::Bool(true))) {
                Some(process) => self.mesh.set_ancestors(token, &[process]),
                None => self.mesh.set_ancestors(token, conn.chain(true)),
            }
        }
        let is_inside = !named && wanted && self.mesh.has_sessions() && op.name != "attach";
        let is_hook = op.actor == Auth::Hook;
        let chain = if is_hook || is_inside { conn.chain(is_hook).to_vec() } else { Vec::new() };
        let args: Args = match op.check(params) {
            Ok(args) => args,
            Err(error) => return conn.write(&rpc::error(&id, &error)),
        };
        self.mesh.call(Call { conn: token, id, op, args, acting, ancestors: chain }, now);
    }

    /// A code that opens the page in a browser on this machine, once.
    fn open_page(&mut self, is_far: bool) -> Result<Value, Error> {
        let port = self.mesh.settings().port;
        let host = self.settings.text("SLM_MESH_HOST");
        let no = |text: String| Err(Error::new(ErrorKind::Refused, text));
        if is_far {
            return no(format!(
                "web: the page is served on the hub's own machine: there run slm-mesh web --print, here \
                 ssh -L {port}:127.0.0.1:{port}, and open the link here"
            ));
        }
        if port == 0 {
            return no("web: this broker serves no HTTP, since its ports were taken; see SLM_MESH_PORT".into());
        }
        let is_any = ["0.0.0.0", "::", "localhost"].contains(&host);
        if !is_any && !host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()) {
            return no(format!("web: the page is served on 127.0.0.1 only, and this hub on {host}; 0.0.0.0 has both"));
        }
        self.last_call = self.clock.now();
        Ok(json!({ "ok": true, "port": port, "code": self.keys.code(Instant::now()) }))
    }

    fn info(&self) -> Value {
        let settings = self.mesh.settings();
        json!({
            "ok": true, "version": settings.version, "pid": settings.pid, "port": settings.port,
            "settings": self.settings.fingerprint(),
        })
    }

    /// Asks quiet sessions whether they still answer, and counts as away those that don't.
    pub(super) fn watch_quiet(&mut self, now: i64) {
        for (token, conn) in &mut self.conns {
            if !self.mesh.is_attached(*token) {
                continue;
            }
            conn.watched = true;
            if conn.is_mute(self.dead_ms, now) {
                self.mesh.set_unresponsive(*token, true, now);
            } else if conn.is_quiet(self.heartbeat_ms, now) {
                conn.asked = Some(now);
                conn.write(&rpc::request(&json!(0), "ping", &json!({})));
            }
        }
    }
}
