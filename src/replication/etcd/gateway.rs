//! Sends requests to etcd's JSON gateway. If a member of the cluster does not answer in time, the next member gets the
//! request.

use super::EtcdSettings;
use super::tls::with_tls;
use crate::replication::LogError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use ureq::http::StatusCode;

/// How long one member may take to answer. A connection to a stopped process succeeds, but the process never answers. A
/// member that can't reach a majority answers only after seven seconds.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// If a watch receives nothing for this long, a new watch replaces it, because the member may have hung.
const WATCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of an answer, in bytes. etcd limits each request to 1.5 MiB, but an answer can contain many entries.
const ANSWER_MAX: u64 = 64 << 20;
/// Maximum length, in bytes, of the line that reports the end of a watch.
const CANCELLATION_MAX: usize = 1024;

/// The gRPC status codes that are handled specially.
const CANCELLED: i64 = 1;
const UNKNOWN: i64 = 2;
const DEADLINE: i64 = 4;
const EXHAUSTED: i64 = 8;
const ABORTED: i64 = 10;
const INTERNAL: i64 = 13;
const UNAVAILABLE: i64 = 14;
const UNAUTHENTICATED: i64 = 16;

/// A user account in etcd.
#[derive(Clone)]
pub struct EtcdUser {
    /// The name of the user.
    pub name: String,
    /// The password of the user.
    pub password: String,
}

/// The answer of one member.
enum Reply {
    Value(Value),
    /// The member refused the request, so it was not executed. Contains the gRPC status code and the reason.
    Refused(i64, String),
    /// The member could not be reached, so the request was not executed.
    Unreached(String),
    /// The member did not answer, or could not reach the other members. The request may have been executed, or may be
    /// executed later.
    Silent(String),
}

/// Stands for an unknown member.
const NO_MEMBER: usize = usize::MAX;

/// A client of one etcd cluster. Clones share the connections of the original, and what is known about etcd's own leader.
#[derive(Clone)]
pub(super) struct Gateway {
    members: Vec<String>,
    /// The index of the member that gets the next request.
    current: usize,
    /// The index of the member that is etcd's own leader, until [`Gateway::prefer_leader`] takes it.
    leader: Arc<AtomicUsize>,
    user: Option<EtcdUser>,
    token: Option<String>,
    agent: ureq::Agent,
    /// How long one member may take to answer.
    timeout: Duration,
    /// How long the most recent answer took, if there was one.
    last_answer_took: Option<Duration>,
}

impl Gateway {
    /// Makes a client. This does not send anything yet.
    ///
    /// # Errors
    /// When a certificate is missing or can't be read.
    pub(super) fn new(settings: &EtcdSettings) -> Result<Gateway, String> {
        let members = settings.address.members.clone();
        let config = ureq::Agent::config_builder().max_redirects(0).proxy(None).http_status_as_error(false);
        let mut config = config.user_agent("slm-mesh");
        if members.iter().any(|member| member.starts_with("https:")) {
            let tls = settings.tls.as_ref().ok_or(
                "etcds:// needs SLM_MESH_STORE_CA, the file with the certificate of the authority that signed etcd's \
                 certificates",
            )?;
            config = with_tls(config, tls)?;
        }
        let agent = config.build().into();
        let user = settings.user.clone();
        let timeout = ANSWER_TIMEOUT;
        let leader = Arc::new(AtomicUsize::new(NO_MEMBER));
        Ok(Gateway { members, current: 0, leader, user, token: None, agent, timeout, last_answer_took: None })
    }

    /// Returns this client with a different time limit for the answer of each member.
    pub(super) fn with_timeout(self, timeout: Duration) -> Gateway {
        Gateway { timeout, ..self }
    }

    /// Sends a request to one member after another, once to each, until a member answers.
    pub(super) fn ask(&mut self, method: &str, body: &Value) -> Result<Value, LogError> {
        self.ask_within(method, body, || ANSWER_TIMEOUT)
    }

    /// Sends a request to one member after another, once to each, until a member answers or no time is left.
    pub(super) fn ask_within(
        &mut self,
        method: &str,
        body: &Value,
        time_left: impl Fn() -> Duration,
    ) -> Result<Value, LogError> {
        let mut silent = "no etcd member answered in time".to_owned();
        let mut may_be_executed = None;
        for _ in 0..self.members.len() {
            let left = time_left();
            if left.is_zero() {
                break;
            }
            let began = Instant::now();
            match self.ask_current(method, body, self.timeout.min(left)) {
                Reply::Value(value) => {
                    self.last_answer_took = Some(began.elapsed());
                    return Ok(value);
                }
                // This member has refused the request, but a member that was asked earlier may still execute it.
                Reply::Refused(_, why) => {
                    return Err(match may_be_executed {
                        None => LogError::Refused(why),
                        Some(earlier) => {
                            LogError::NoAnswer(format!("{why}; an earlier attempt got no clear answer: {earlier}"))
                        }
                    });
                }
                Reply::Unreached(why) => silent = why,
                Reply::Silent(why) => {
                    silent.clone_from(&why);
                    may_be_executed = Some(why);
                }
            }
            self.current = (self.current + 1) % self.members.len();
        }
        Err(LogError::NoAnswer(silent))
    }

    /// Records which member is etcd's own leader.
    pub(super) fn note_leader(&self, n: usize) {
        self.leader.store(n, Ordering::Relaxed);
    }

    /// Sends the next request to etcd's own leader, if [`Gateway::note_leader`] has been called since the last call of
    /// this function. Any other member would forward a write to the leader, which takes longer.
    pub(super) fn prefer_leader(&mut self) {
        let leader = self.leader.swap(NO_MEMBER, Ordering::Relaxed);
        if leader < self.members.len() {
            self.current = leader;
        }
    }

    /// How long the most recent answer took; `None` before the first answer.
    pub(super) fn last_answer_took(&self) -> Option<Duration> {
        self.last_answer_took
    }

    /// The URL of each member.
    pub(super) fn members(&self) -> &[String] {
        &self.members
    }

    /// Sends a request to one member only.
    pub(super) fn ask_member(&mut self, n: usize, method: &str, body: &Value) -> Result<Value, LogError> {
        let current = std::mem::replace(&mut self.current, n);
        let reply = self.ask_current(method, body, self.timeout);
        self.current = current;
        match reply {
            Reply::Value(value) => Ok(value),
            Reply::Refused(_, why) => Err(LogError::Refused(why)),
            Reply::Unreached(why) | Reply::Silent(why) => Err(LogError::NoAnswer(why)),
        }
    }

    fn ask_current(&mut self, method: &str, body: &Value, timeout: Duration) -> Reply {
        if let Err(refused) = self.log_in() {
            return refused;
        }
        match self.post(method, body, timeout) {
            Reply::Refused(code, why) if self.user.is_some() && is_token_stale(code, &why) => {
                self.token = None;
                self.log_in().map_or_else(|refused| refused, |()| self.post(method, body, timeout))
            }
            reply => reply,
        }
    }

    /// If this hub has a user account but no token, logs in to get a token.
    fn log_in(&mut self) -> Result<(), Reply> {
        let Some(user) = self.user.as_ref().filter(|_| self.token.is_none()) else { return Ok(()) };
        let credentials = json!({ "name": user.name, "password": user.password });
        match self.post("auth/authenticate", &credentials, ANSWER_TIMEOUT) {
            Reply::Value(answer) => self.token = answer["token"].as_str().map(str::to_owned),
            // Only the credentials have been sent, not the request itself.
            Reply::Silent(why) => return Err(Reply::Unreached(why)),
            refused => return Err(refused),
        }
        Ok(())
    }

    fn post(&self, method: &str, body: &Value, timeout: Duration) -> Reply {
        let member = &self.members[self.current];
        let silent = |why: String| Reply::Silent(format!("etcd at {member} does not answer: {why}"));
        let request = self.request(member, method).config().timeout_global(Some(timeout)).build();
        let answer = request.send(body.to_string());
        let mut answer = match answer {
            Ok(answer) => answer,
            // This error happens only while connecting, so nothing has been sent.
            Err(ureq::Error::Io(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                return Reply::Unreached(format!("etcd at {member} does not answer: {error}"));
            }
            Err(error) => return silent(error.to_string()),
        };
        match answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec() {
            Ok(bytes) => read_reply(member, answer.status(), &bytes),
            Err(error) => silent(error.to_string()),
        }
    }

    fn request(&self, member: &str, method: &str) -> ureq::RequestBuilder<ureq::typestate::WithBody> {
        let request = self.agent.post(format!("{member}/v3/{method}")).header("Content-Type", "application/json");
        match &self.token {
            Some(token) => request.header("Authorization", token),
            None => request,
        }
    }

    /// Asks one member to report changes of all keys with a prefix, and calls `on_news` on each change. Returns when
    /// `on_news` returns false, or when nothing has arrived for some time.
    pub(super) fn watch(&mut self, prefix: &str, mut on_news: impl FnMut() -> bool) {
        let range =
            json!({ "create_request": { "key": encode(prefix), "range_end": encode_bytes(&end_of_prefix(prefix)) } });
        let member = self.members[self.current].clone();
        // The next watch uses the next member, because this one may have lost contact with the cluster.
        self.current = (self.current + 1) % self.members.len();
        if self.log_in().is_err() {
            return;
        }
        let request = self.request(&member, "watch").header("Grpc-Metadata-hasleader", "true");
        let request = request.config().timeout_connect(Some(ANSWER_TIMEOUT));
        let request =
            request.timeout_recv_response(Some(ANSWER_TIMEOUT)).timeout_recv_body(Some(WATCH_TIMEOUT)).build();
        let Ok(answer) = request.send(range.to_string()) else { return };
        let mut lines = BufReader::new(answer.into_body().into_reader()).take(ANSWER_MAX);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            if is_cancelled(&line) {
                // The member has ended the watch, for example because the token has expired or the member was
                // restarted.
                self.token = None;
                return;
            }
            line.clear();
            if !on_news() {
                return;
            }
        }
    }
}

/// Whether a refused request should be tried again with a new token. A token becomes invalid when it expires, when the
/// member is restarted, or when etcd's users or roles are changed. In some of these cases, etcd returns a general
/// status code, so the text of the refusal is compared as well.
fn is_token_stale(code: i64, why: &str) -> bool {
    code == UNAUTHENTICATED || why.contains("revision of auth store is old") || why.contains("user name is empty")
}

fn read_reply(member: &str, status: StatusCode, bytes: &[u8]) -> Reply {
    let value = first_value(bytes);
    let code = value["code"].as_i64().or_else(|| value["error"]["grpc_code"].as_i64());
    let text = ["error", "message"].iter().find_map(|name| value[name].as_str()).unwrap_or("");
    // If authentication is on, etcd refuses a certificate that has a common name. Only this refusal is plain text.
    if status == StatusCode::BAD_REQUEST && String::from_utf8_lossy(bytes).contains("CommonName") {
        let text = "while authentication is on, etcd's JSON gateway refuses client certificates that have a common \
                    name (CN); use a certificate without one";
        return Reply::Refused(0, text.into());
    }
    match (status, code) {
        (StatusCode::OK, None) if value.is_object() => Reply::Value(value),
        // A member that is shutting down cancels its requests.
        (_, Some(CANCELLED)) => Reply::Silent(format!("etcd at {member} is shutting down: {text}")),
        (_, Some(DEADLINE | UNAVAILABLE)) => {
            Reply::Silent(format!("etcd at {member} can't reach a majority of the cluster: {text}"))
        }
        // A member that stops while it handles a request may answer with a general code, such as "raft: stopped".
        (_, Some(UNKNOWN | ABORTED | INTERNAL)) => {
            Reply::Silent(format!("etcd at {member} does not say whether it has executed the request: {text}"))
        }
        // This member has no gateway. The next member is tried, because it may have a gateway.
        (StatusCode::NOT_FOUND, None) => Reply::Unreached(format!(
            "{member} has no JSON gateway; use etcd 3.4 or later, remove the flag --enable-grpc-gateway=false if it is \
             set there, and do not connect through grpc-proxy"
        )),
        (_, Some(EXHAUSTED)) if text.contains("space exceeded") => {
            let text = "etcd is full and refuses every write; compact and defragment it (etcdctl compact, etcdctl \
                        defrag), and then run etcdctl alarm disarm";
            Reply::Refused(EXHAUSTED, text.into())
        }
        (_, Some(code)) => Reply::Refused(code, format!("etcd refused the request: {text}")),
        (status, None) => Reply::Silent(format!(
            "{member} answered with status {status}, which etcd never uses; check the address in SLM_MESH_STORE"
        )),
    }
}

/// Whether a line says that the member has ended the watch. The member does not close the connection, so this line is
/// the only sign.
fn is_cancelled(line: &[u8]) -> bool {
    // The line that ends a watch is short. A longer line contains entries, so it is not parsed.
    line.len() < CANCELLATION_MAX && first_value(line)["result"]["canceled"] == true
}

/// The JSON value in the first line. Some methods return a stream with several lines.
fn first_value(bytes: &[u8]) -> Value {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
    serde_json::from_slice(line).unwrap_or(Value::Null)
}

/// Encodes a key or a value as base64 for the JSON gateway.
pub(super) fn encode(text: &str) -> String {
    encode_bytes(text.as_bytes())
}

/// Encodes bytes as base64 for the JSON gateway.
pub(super) fn encode_bytes(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes a key or a value from base64. Returns `None` if it is not valid base64.
pub(super) fn decode(value: &Value) -> Option<Vec<u8>> {
    STANDARD.decode(value.as_str().unwrap_or("")).ok()
}

/// The smallest key that is greater than all keys with this prefix. The range of these keys ends there.
pub(super) fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // All bytes of a prefix are ASCII, so the last byte is less than 255 and can be increased.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Reads a number from an answer. The gateway writes a number as text, and omits a number that is zero.
pub(super) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_helps_only_if_etcd_no_longer_accepts_the_old_one() {
        // These are the codes and the texts of etcd 3.4.
        for (code, why, is_stale) in [
            (UNAUTHENTICATED, "etcdserver: invalid auth token", true),
            (3, "etcdserver: revision of auth store is old", true),
            (3, "etcdserver: user name is empty", true),
            (7, "etcdserver: permission denied", false),
            (EXHAUSTED, "etcdserver: mvcc: database space exceeded", false),
        ] {
            assert_eq!(is_token_stale(code, why), is_stale, "{why}");
        }
    }
    use crate::replication::etcd::EtcdAddress;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener};

    /// Starts a fake member of etcd that sends the same answer to each request. Returns its URL.
    fn member(status: &'static str, body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all((head + body).as_bytes());
                // The whole request must be read. If a socket is closed with unread bytes, the client may lose the
                // answer.
                let _ =
                    stream.shutdown(Shutdown::Write).and_then(|()| std::io::copy(&mut stream, &mut std::io::sink()));
            }
        });
        address
    }

    fn gateway(members: &[String]) -> Gateway {
        let address = EtcdAddress::parse(&format!("etcd://{}/slm", members.join(","))).expect("a valid address");
        Gateway::new(&EtcdSettings { address, tls: None, user: None, lease_seconds: 3 }).expect("no certificates")
    }

    #[test]
    fn the_leader_of_etcd_is_asked_until_it_fails() {
        let members = [member("200 OK", "{\"member\":0}"), member("503 Service Unavailable", "{\"code\":14}")];
        let mut gateway = gateway(&members);
        let asked = |gateway: &mut Gateway| {
            let answer = gateway.ask("kv/range", &json!({})).expect("a member answers");
            (answer["member"].clone(), gateway.current)
        };
        assert_eq!(asked(&mut gateway), (json!(0), 0));
        gateway.clone().note_leader(1);
        assert_eq!(asked(&mut gateway), (json!(0), 0), "nobody has asked for the leader yet");
        gateway.prefer_leader();
        assert_eq!(gateway.current, 1);
        assert_eq!(asked(&mut gateway), (json!(0), 0), "the leader fails, so the next member is asked");
        gateway.prefer_leader();
        assert_eq!(gateway.current, 0, "the leader is not tried again until it is found again");
    }

    #[test]
    fn a_member_without_the_gateway_is_passed_over_and_named_if_none_has_it() {
        let (without, with) = (member("404 Not Found", "404 page not found\n"), member("200 OK", "{\"kvs\":[]}"));
        let answer = gateway(&[without.clone(), with]).ask("kv/range", &json!({}));
        assert_eq!(answer.expect("the second member answers")["kvs"], json!([]));
        match gateway(&[without]).ask("kv/range", &json!({})) {
            Err(LogError::NoAnswer(why)) => assert!(why.contains("has no JSON gateway"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
