//! `web`: a link that opens the page in a browser, once.

use super::{say, surroundings};
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use serde_json::json;
use std::io::{self, IsTerminal};
use std::process::{Command, Stdio};

/// Prints the link, and opens it where somebody sits at a desktop.
pub fn web(only_print: bool, json: bool) -> Result<u8, Error> {
    let (places, _) = surroundings()?;
    let mut client = Client::connect_or_start(&places)?;
    let opened = client.call("web.open", &json!({})).map_err(|error| match error.text.starts_with("no method") {
        true => {
            Error::new(ErrorKind::Refused, "web: the running broker is older than this program; slm-mesh stop ends it")
        }
        false => error,
    })?;
    let link = format!("http://127.0.0.1:{}/open/{}", opened["port"], opened["code"].as_str().unwrap_or(""));
    if json {
        return say(&json!({ "ok": true, "url": link, "expiresInSeconds": 60 }).to_string());
    }
    say(&link)?;
    if !only_print && io::stdout().is_terminal() {
        let note = match opener().map(|program| open(program, &link)) {
            Some(Ok(())) => "It opens in your browser; the link works once, within a minute.",
            // It can be opened by hand.
            _ => "Open it in a browser on this machine; it works once, within a minute.",
        };
        crate::sys::complain(note);
    }
    Ok(0)
}

/// What opens links on this desktop, if there is one.
fn opener() -> Option<&'static str> {
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match cfg!(target_os = "macos") {
        true => Some("open"),
        false => (has("DISPLAY") || has("WAYLAND_DISPLAY")).then_some("xdg-open"),
    }
}

fn open(program: &str, link: &str) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg(link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(|_| ())
}
