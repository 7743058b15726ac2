//! A fake web page that needs no browser. It opens a link, keeps its cookie and key, makes calls, and reads events.

use super::client::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// What an open page has to remember: the port of the broker, and the page's own cookie and key.
#[derive(Clone)]
pub struct Page {
    pub port: u16,
    pub cookie: String,
    pub key: String,
}

/// Makes a new link with `slm-mesh web`, and returns its path.
pub fn link(broker: &Broker) -> String {
    let url = word(&broker.place.json(&["web"])["url"]);
    let start = format!("http://127.0.0.1:{}", broker.port);
    url.strip_prefix(&start).unwrap_or_else(|| panic!("{url} is not at {start}")).to_owned()
}

/// The cookie in a response, in the form in which a browser sends it back.
pub fn cookie(reply: &Reply) -> Option<String> {
    let set = reply.head.lines().find_map(|line| line.strip_prefix("Set-Cookie: "))?;
    Some(set.split(';').next().unwrap().to_owned())
}

/// The value of a header in a response. The header must exist.
pub fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    let line = reply.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name} in {}", reply.head))
}

/// Connects to the broker's HTTP port. The connection sends no token.
pub fn bare(broker: &Broker) -> Http {
    broker.http().token("")
}

impl Page {
    /// Opens a new link, as a browser does, and gets the page's cookie and key.
    pub fn open(broker: &Broker) -> Page {
        let mut page = Page { port: broker.port, cookie: String::new(), key: String::new() };
        let reply = bare(broker).ask("GET", &link(broker), &page.host(), b"");
        page.cookie = cookie(&reply).unwrap_or_else(|| panic!("no cookie: {}", reply.head));
        let reply = bare(broker).ask("POST", "/web/key", &page.headers(), b"");
        page.key = word(&reply.body["key"]);
        page
    }

    pub fn host(&self) -> String {
        format!("Host: 127.0.0.1:{}\r\n", self.port)
    }

    /// The headers of the requests that the page's script makes.
    pub fn headers(&self) -> String {
        let (host, port, cookie, key) = (self.host(), self.port, &self.cookie, &self.key);
        format!(
            "{host}Origin: http://127.0.0.1:{port}\r\nSec-Fetch-Site: same-origin\r\nCookie: {cookie}\r\n\
             X-Mesh-Page: {key}\r\nContent-Type: application/json\r\n"
        )
    }

    /// Makes a call as the page's script does.
    pub fn ask(&self, broker: &Broker, method: &str, params: Value) -> Reply {
        let body = json!({ "method": method, "params": params }).to_string();
        bare(broker).ask("POST", "/web/call", &self.headers(), body.as_bytes())
    }

    /// Opens the page's stream of events.
    pub fn listen(&self, broker: &Broker) -> Stream {
        let mut stream = broker.raw();
        write!(stream, "POST /web/events HTTP/1.1\r\n{}Content-Length: 2\r\n\r\n{{}}", self.headers()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "no whole head: {head}");
        }
        Stream { lines, head }
    }
}

/// An open stream of events from the broker to a page.
pub struct Stream {
    pub lines: BufReader<TcpStream>,
    pub head: String,
}

impl Stream {
    /// The JSON of the next event in the stream; `None` at the end of the stream.
    pub fn frame(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).ok()?;
            // If the broker closes the stream, the last line of the stream may be incomplete.
            if !line.ends_with('\n') {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }

    /// Reads the stream until this list has a matching row, and returns the row.
    pub fn until(&mut self, list: &str, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.frame().unwrap_or_else(|| panic!("the stream ended before a row of {list} came"));
            if let Some(row) = frame[list].as_array().into_iter().flatten().find(|row| fits(row)) {
                return row.clone();
            }
        }
    }
}
