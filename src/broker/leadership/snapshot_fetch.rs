//! Fetches a copy of the leader's database. A standby needs the copy if its own database is too old to follow the log.

use super::HubConfig;
use crate::base::path_suffix::with_suffix;
use crate::remote::encrypted_stream_to_hub::HubStream;
use crate::remote::guest_handshake_with_hub;
use crate::sys;
use crate::sys::data_dir::DataDir;
use crate::sys::machine_name::machine_name;
use crate::wire::line_splitter::LineBuffer;
use crate::wire::rpc::{self, RpcMessage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file into which the copy of the leader's database is written.
pub const FETCHED_NAME: &str = "broker.db.fetched";
/// Maximum time to wait for a reply from the leader.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two requests while the leader is preparing the copy.
const PREPARING_PAUSE: Duration = Duration::from_millis(50);

/// Fetches a copy of the database from the hub at `leader`, and returns the path of the fetched file. The caller must
/// first store `ticket` in etcd. The ticket proves to the leader that the request comes from a hub.
///
/// # Errors
/// The error is a sentence that says what failed.
pub fn fetch(
    places: &DataDir,
    config: &HubConfig,
    leader: &str,
    ticket: &str,
    is_stopping: impl Fn() -> bool,
) -> Result<PathBuf, String> {
    let path = places.dir.join(FETCHED_NAME);
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let (host, port) = leader.rsplit_once(':').ok_or_else(|| format!("{leader} is not the address of a hub"))?;
    let port = port.parse().map_err(|_| format!("{leader} is not the address of a hub"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = guest_handshake_with_hub::connect(host, port, &config.secret, sys::random_u128() as u64, None);
    let stream = stream.map_err(|error| error.text)?;
    let mut leader = LeaderConnection::new(stream)?;
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&path).map_err(failed)?;
    let mut from = 0;
    while !is_stopping() {
        let piece = leader.ask(&json!({ "hub": config.address, "ticket": ticket, "from": from }))?;
        let (Some(size), Some(next)) = (piece["size"].as_u64(), piece["next"].as_u64()) else {
            std::thread::sleep(PREPARING_PAUSE);
            continue;
        };
        let bytes = STANDARD.decode(piece["bytes"].as_str().unwrap_or("")).map_err(|error| error.to_string())?;
        if next != from + bytes.len() as u64 || bytes.is_empty() {
            return Err("the leader sent a wrong part of the snapshot".into());
        }
        file.write_all(&bytes).map_err(failed)?;
        from = next;
        if next == size {
            file.sync_all().map_err(failed)?;
            return Ok(path);
        }
    }
    Err("this hub is being stopped".into())
}

/// Replaces the database with the fetched file. The database must be closed. If the process crashes in this function,
/// the old database may be missing. The hub then fetches a copy again, so nothing is lost.
///
/// # Errors
/// When the database can't be written.
pub fn install(places: &DataDir, fetched: &Path) -> io::Result<()> {
    let database = places.database();
    for suffix in ["-wal", "-shm", ""] {
        match fs::remove_file(with_suffix(&database, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(fetched, &database)?;
    File::open(&places.dir)?.sync_all()
}

struct LeaderConnection {
    stream: HubStream,
    lines: LineBuffer,
}

impl LeaderConnection {
    fn new(mut stream: HubStream) -> Result<LeaderConnection, String> {
        let origin =
            rpc::notification("origin", &json!({ "host": machine_name(), "user": sys::user(), "ancestors": [] }));
        stream.set_read_timeout(Some(ANSWER_TIMEOUT));
        stream.write_all(origin.as_bytes()).map_err(|error| error.to_string())?;
        Ok(LeaderConnection { stream, lines: LineBuffer::default() })
    }

    fn ask(&mut self, args: &Value) -> Result<Value, String> {
        let lost =
            |error: io::Error| format!("the connection was lost while the leader was sending the snapshot ({error})");
        let request = rpc::request(&json!(1), "hub.snapshot", args);
        self.stream.write_all(request.as_bytes()).map_err(lost)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            while let Some(line) = self.lines.next_line().map_err(|_| "the hub sent a line that is too long")? {
                match rpc::parse_line(line) {
                    Ok(RpcMessage::Response { result, .. }) => {
                        let refused = |error| {
                            format!("the hub that leads refused to send a snapshot: {}", rpc::decode_error(&error).text)
                        };
                        return result.map_err(refused);
                    }
                    Ok(_) => {}
                    Err(error) => return Err(error.text),
                }
            }
            match self.stream.read(&mut buffer).map_err(lost)? {
                0 => return Err("the connection was lost while the leader was sending the snapshot".into()),
                n => self.lines.push(&buffer[..n]),
            }
        }
    }
}
