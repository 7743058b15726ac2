//! `web`: prints a link that opens the web page in a browser. The link works only once.

use super::{load_environment, print_line};
use crate::base::error::{Error, ErrorKind};
use crate::client::Client;
use serde_json::json;
use std::io::{self, IsTerminal};
use std::process::{Command, Stdio};

/// Prints the link, and opens it if there is a desktop.
pub fn open_page(only_print: bool, json: bool) -> Result<u8, Error> {
    let (places, _) = load_environment()?;
    let mut client = Client::connect_or_start(&places)?;
    let opened = client.call("web.open", &json!({})).map_err(|error| match error.kind {
        ErrorKind::UnknownMethod => Error::new(
            ErrorKind::Refused,
            "web: the running broker is older than this program; run slm-mesh stop, and then this command again",
        ),
        _ => error,
    })?;
    let link = format!("http://127.0.0.1:{}/open/{}", opened["port"], opened["code"].as_str().unwrap_or(""));
    if json {
        return print_line(&json!({ "ok": true, "url": link, "expiresInSeconds": 60 }).to_string());
    }
    print_line(&link)?;
    if !only_print && io::stdout().is_terminal() {
        let note = match desktop_opener().map(|program| open_link(program, &link)) {
            Some(Ok(())) => "Opening it in your browser. The link works once and expires in a minute.",
            // If there is no desktop, or the browser can't be started, the user can open the link by hand.
            _ => "Open it in a browser on this machine. The link works once and expires in a minute.",
        };
        crate::sys::print_error(note);
    }
    Ok(0)
}

/// Returns the program that opens links on this desktop. Returns `None` if there is no desktop.
fn desktop_opener() -> Option<&'static str> {
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match cfg!(target_os = "macos") {
        true => Some("open"),
        false => (has("DISPLAY") || has("WAYLAND_DISPLAY")).then_some("xdg-open"),
    }
}

fn open_link(program: &str, link: &str) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg(link).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(|_| ())
}
