//! Sends a copy of this hub's database to a standby, in pieces. The standby connects in the same way as a guest (a
//! machine that uses this hub).
//!
//! Only hubs may get the copy. So the standby must first store a ticket in etcd, to which guests have no access.

use crate::base::error::{Error, ErrorKind};
use crate::broker::log;
use crate::replication::etcd::EtcdUpkeep;
use crate::store::Checkpointer;
use crate::sys;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// The file that contains the copy while it is sent.
pub const COPY_NAME: &str = "broker.db.copy";
/// Maximum size of one piece, in bytes. As base64, a piece fits into one line of the protocol.
const PIECE: u64 = 384 << 10;
/// If a hub requests no piece for this long, another hub may get a copy instead.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Disk space that must remain free after a copy is made, in bytes.
const ROOM_LEFT: u64 = 16 << 20;
/// Maximum length of a ticket or of the name of a hub, in bytes.
const WORD_MAX: usize = 300;

/// Makes copies for other hubs, one at a time.
pub struct SnapshotSource {
    path: PathBuf,
    current: Option<Copy>,
}

/// The copy for the hub that is being served.
struct Copy {
    ticket: String,
    state: CopyState,
    asked: Instant,
}

enum CopyState {
    /// A thread is checking the ticket and writing the copy.
    Preparing(Receiver<Result<(), String>>),
    Ready(File, u64),
}

impl SnapshotSource {
    /// Makes a source that writes its copies into the data directory.
    pub fn new(directory: &Path) -> SnapshotSource {
        let path = directory.join(COPY_NAME);
        // If an earlier broker was killed, its copy may still be there.
        remove(&path);
        SnapshotSource { path, current: None }
    }

    /// Replies to a request for a piece of the copy. While the copy is being made, or another hub is being served, the
    /// reply is `{"ok":true}`. Otherwise, the reply contains the size of the copy and the piece that begins at `from`.
    ///
    /// # Errors
    /// When the request does not come from a hub, or copying fails.
    pub fn answer(
        &mut self,
        args: &Map<String, Value>,
        upkeep: &EtcdUpkeep,
        open: impl FnOnce() -> Result<Checkpointer, Error>,
    ) -> Result<Value, Error> {
        let word = |name: &str| args.get(name).and_then(Value::as_str).filter(|word| word.len() <= WORD_MAX);
        let (Some(hub), Some(ticket)) = (word("hub"), word("ticket")) else {
            return Err(Error::usage("hub.snapshot", "expected the fields `hub` and `ticket`"));
        };
        if self.current.as_ref().is_some_and(|copy| copy.ticket != ticket && copy.asked.elapsed() < IDLE_MAX) {
            return Ok(json!({ "ok": true }));
        }
        if self.current.as_ref().is_none_or(|copy| copy.ticket != ticket) {
            let prepared = prepare(&self.path, hub.to_owned(), ticket.to_owned(), upkeep.clone(), open()?)?;
            let state = CopyState::Preparing(prepared);
            self.current = Some(Copy { ticket: ticket.to_owned(), state, asked: Instant::now() });
        }
        let from = args.get("from").and_then(Value::as_u64).unwrap_or(0);
        let answer = self.current.as_mut().map_or(Ok(json!({ "ok": true })), |copy| copy.piece(&self.path, from));
        if answer.as_ref().is_ok_and(|piece| piece["size"] == piece["next"] && piece["size"].is_u64())
            || answer.is_err()
        {
            self.current = None;
            remove(&self.path);
        }
        answer
    }
}

impl Drop for SnapshotSource {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

impl Copy {
    fn piece(&mut self, path: &Path, from: u64) -> Result<Value, Error> {
        self.asked = Instant::now();
        let failed = |error: io::Error| Error::new(ErrorKind::Storage, format!("{}: {error}", path.display()));
        if let CopyState::Preparing(prepared) = &self.state {
            match prepared.try_recv() {
                Err(TryRecvError::Empty) => return Ok(json!({ "ok": true })),
                Ok(Ok(())) => {}
                Ok(Err(why)) => return Err(Error::new(ErrorKind::Refused, why)),
                Err(TryRecvError::Disconnected) => return Err(Error::new(ErrorKind::Internal, "the copy failed")),
            }
            let file = File::open(path).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            self.state = CopyState::Ready(file, size);
        }
        let CopyState::Ready(file, size) = &mut self.state else { return Ok(json!({ "ok": true })) };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        file.take(PIECE).read_to_end(&mut bytes).map_err(failed)?;
        let next = from + bytes.len() as u64;
        Ok(json!({ "ok": true, "size": *size, "next": next, "bytes": STANDARD.encode(bytes) }))
    }
}

/// Removes the copy, and the journal that a failed copy leaves behind. Errors are ignored, because a leftover file only
/// takes up space.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(format!("{}-journal", path.display()));
}

/// Checks that the disk has room for a copy. If the disk were full, this hub could store nothing more.
fn check_room(path: &Path, database: &Checkpointer) -> Result<(), String> {
    let free = sys::free_bytes(path.parent().unwrap_or(path)).map_err(|error| error.to_string())?;
    let wanted = database.size().map_err(|error| error.to_string())? + ROOM_LEFT;
    if free >= wanted {
        return Ok(());
    }
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(format!(
        "the disk of the leading hub has too little room for a copy of its database: {} MiB are free, and {} MiB are \
         needed",
        mb(free),
        mb(wanted)
    ))
}

/// Checks the ticket and writes the copy, on a separate thread.
fn prepare(
    path: &Path,
    hub: String,
    ticket: String,
    mut upkeep: EtcdUpkeep,
    database: Checkpointer,
) -> Result<Receiver<Result<(), String>>, Error> {
    let (done, prepared) = channel();
    let path = path.to_owned();
    let work = move || {
        let is_hub = upkeep.ticket(&hub).map_err(|error| error.to_string());
        let copied = match is_hub {
            Ok(Some(known)) if known == ticket => {
                remove(&path);
                let copied = check_room(&path, &database)
                    .and_then(|()| database.copy_to(&path).map_err(|error| error.to_string()));
                if copied.is_err() {
                    remove(&path);
                }
                copied
            }
            Ok(_) => Err("only a hub of this mesh can get a snapshot, and the caller did not prove through etcd that \
                          it is one"
                .into()),
            Err(why) => Err(why),
        };
        match &copied {
            Ok(()) => log(&format!("{hub} gets a snapshot of the database")),
            Err(why) => log(&format!("{hub} gets no snapshot: {why}")),
        }
        // Sending fails only if the event loop no longer waits for the result.
        let _ = done.send(copied);
    };
    let thread = std::thread::Builder::new().name("snapshot".into()).spawn(work);
    thread.map_err(|error| {
        Error::new(ErrorKind::Internal, format!("no thread can be started to copy the database ({error})"))
    })?;
    Ok(prepared)
}
