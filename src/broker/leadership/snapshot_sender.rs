//! Sends a copy of this hub's database to a standby, in pieces. The standby connects in the same way as a guest (a
//! machine that uses this hub).
//!
//! Only hubs may get the copy. So the standby must first store a ticket in etcd, to which guests have no access.

use crate::base::error::{Error, ErrorKind};
use crate::base::path_suffix::with_suffix;
use crate::broker::log;
use crate::core::Args;
use crate::replication::etcd::EtcdUpkeep;
use crate::store::Checkpointer;
use crate::sys;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// The name of the file from which a copy is sent. An extension with the number of the copy is appended.
const COPY_NAME: &str = "broker.db.copy";
/// Maximum size of one piece, in bytes. As base64, a piece fits into one line of the protocol.
const PIECE: u64 = 384 << 10;
/// If a hub requests no piece for this long, another hub may get a copy instead.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Disk space that must remain free after a copy is made, in bytes.
const ROOM_LEFT: u64 = 16 << 20;

/// Makes copies for other hubs, one at a time.
pub struct SnapshotSource {
    directory: PathBuf,
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
    Preparing(Receiver<Result<CopyFile, String>>),
    Ready(File, u64, CopyFile),
}

/// The file of a copy. Dropping this value removes the file. Each copy has a file of its own. So if a hub vanishes
/// while its copy is being made, another hub can get a copy even though the thread of the first copy is still running.
struct CopyFile(PathBuf);

impl CopyFile {
    fn new(directory: &Path) -> CopyFile {
        static COPIES: AtomicU64 = AtomicU64::new(0);
        let n = COPIES.fetch_add(1, Ordering::Relaxed);
        // `slm-mesh clean` removes files with this extension after a crash.
        CopyFile(directory.join(format!("{COPY_NAME}.new{n}")))
    }

    /// Removes the copies that an earlier broker left behind when it was killed.
    fn remove_old(directory: &Path) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let rest = name.strip_prefix(COPY_NAME).map(|rest| rest.strip_suffix("-journal").unwrap_or(rest));
            let number = rest.map(|rest| rest.strip_prefix(".new").unwrap_or(rest));
            if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
                remove(&entry.path());
            }
        }
    }
}

impl Drop for CopyFile {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

impl SnapshotSource {
    /// Makes a source that writes its copies into the data directory.
    pub fn new(directory: &Path) -> SnapshotSource {
        CopyFile::remove_old(directory);
        SnapshotSource { directory: directory.to_owned(), current: None }
    }

    /// Replies to a request for a piece of the copy. While the copy is being made, or another hub is being served, the
    /// reply is `{"ok":true}`. Otherwise, the reply contains the size of the copy and the piece that begins at `from`.
    ///
    /// # Errors
    /// When the request does not come from a hub, or copying fails.
    pub fn answer(
        &mut self,
        args: &Args,
        upkeep: &EtcdUpkeep,
        open: impl FnOnce() -> Result<Checkpointer, Error>,
    ) -> Result<Value, Error> {
        let (hub, ticket) = (args.word("hub"), args.word("ticket"));
        if self.current.as_ref().is_some_and(|copy| copy.ticket != ticket && copy.asked.elapsed() < IDLE_MAX) {
            return Ok(json!({ "ok": true }));
        }
        if self.current.as_ref().is_none_or(|copy| copy.ticket != ticket) {
            let file = CopyFile::new(&self.directory);
            let prepared = prepare(file, hub.to_owned(), ticket.to_owned(), upkeep.clone(), open()?)?;
            let state = CopyState::Preparing(prepared);
            self.current = Some(Copy { ticket: ticket.to_owned(), state, asked: Instant::now() });
        }
        let from = args.int("from").unwrap_or(0).cast_unsigned();
        let answer = self.current.as_mut().map_or(Ok(json!({ "ok": true })), |copy| copy.piece(from));
        if answer.as_ref().is_ok_and(|piece| piece["size"] == piece["next"] && piece["size"].is_u64())
            || answer.is_err()
        {
            self.current = None;
        }
        answer
    }
}

impl Copy {
    fn piece(&mut self, from: u64) -> Result<Value, Error> {
        self.asked = Instant::now();
        if let CopyState::Preparing(prepared) = &self.state {
            let copy = match prepared.try_recv() {
                Err(TryRecvError::Empty) => return Ok(json!({ "ok": true })),
                Ok(Ok(copy)) => copy,
                Ok(Err(why)) => return Err(Error::new(ErrorKind::Refused, why)),
                Err(TryRecvError::Disconnected) => return Err(Error::new(ErrorKind::Internal, "the copy failed")),
            };
            let failed = |error| storage_error(&copy, &error);
            let file = File::open(&copy.0).map_err(failed)?;
            let size = file.metadata().map_err(failed)?.len();
            self.state = CopyState::Ready(file, size, copy);
        }
        let CopyState::Ready(file, size, copy) = &mut self.state else { return Ok(json!({ "ok": true })) };
        let failed = |error| storage_error(copy, &error);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        file.take(PIECE).read_to_end(&mut bytes).map_err(failed)?;
        let next = from + bytes.len() as u64;
        Ok(json!({ "ok": true, "size": *size, "next": next, "bytes": STANDARD.encode(bytes) }))
    }
}

fn storage_error(copy: &CopyFile, error: &io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("{}: {error}", copy.0.display()))
}

/// Removes the copy, and the journal that a failed copy leaves behind. Errors are ignored, because a leftover file only
/// takes up space.
fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(with_suffix(path, "-journal"));
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
    file: CopyFile,
    hub: String,
    ticket: String,
    mut upkeep: EtcdUpkeep,
    database: Checkpointer,
) -> Result<Receiver<Result<CopyFile, String>>, Error> {
    let (done, prepared) = channel();
    let work = move || {
        let is_hub = upkeep.ticket(&hub).map_err(|error| error.to_string());
        let copied = match is_hub {
            Ok(Some(known)) if known == ticket => check_room(&file.0, &database)
                .and_then(|()| database.copy_to(&file.0).map_err(|error| error.to_string()))
                .map(|()| file),
            Ok(_) => Err("only a hub of this mesh can get a snapshot, and the caller did not prove through etcd that \
                          it is such a hub"
                .into()),
            Err(why) => Err(why),
        };
        match &copied {
            Ok(_) => log(&format!("{hub} gets a snapshot of the database")),
            Err(why) => log(&format!("{hub} gets no snapshot: {why}")),
        }
        // Sending fails only if the event loop no longer waits for the result. In that case, the copy is removed.
        let _ = done.send(copied);
    };
    let thread = std::thread::Builder::new().name("snapshot".into()).spawn(work);
    thread.map_err(|error| {
        Error::new(ErrorKind::Internal, format!("no thread can be started to copy the database ({error})"))
    })?;
    Ok(prepared)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::object;
    use crate::core::operations_on_broker_itself::SNAPSHOT;
    use crate::replication::etcd::{EtcdAddress, EtcdLog, EtcdSettings};
    use crate::store::Store;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::Sender;

    /// Starts a fake member of etcd. The ticket of each hub is the hub's name. For the hub `vanished`, the answer waits
    /// until the returned sender is dropped.
    fn etcd() -> (EtcdUpkeep, Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("etcd://{}/slm", listener.local_addr().unwrap());
        let (release, released) = channel::<()>();
        let mut released = Some(released);
        let slow_key = STANDARD.encode("slm/ticket/vanished");
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = String::new();
                while !request.ends_with('}') {
                    let mut chunk = [0; 4096];
                    let n = stream.read(&mut chunk).unwrap();
                    assert!(n > 0, "a request is cut off");
                    request.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
                }
                match released.take_if(|_| request.contains(&slow_key)) {
                    None => send_ticket(stream, "next"),
                    Some(released) => drop(std::thread::spawn(move || {
                        let _ = released.recv();
                        send_ticket(stream, "vanished");
                    })),
                }
            }
        });
        let address = EtcdAddress::parse(&address).unwrap();
        let log = EtcdLog::new(EtcdSettings { address, tls: None, user: None, lease_seconds: 60 }).unwrap();
        (log.upkeep(), release)
    }

    fn send_ticket(mut stream: TcpStream, ticket: &str) {
        let body = json!({ "kvs": [{ "value": STANDARD.encode(ticket) }] }).to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).unwrap();
    }

    fn files(directory: &Path) -> Vec<String> {
        let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with(COPY_NAME)).collect()
    }

    #[test]
    fn a_hub_that_vanishes_does_not_take_away_the_copy_of_the_next_hub() {
        let directory = std::env::temp_dir().join(format!("slm-mesh-copies-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(COPY_NAME), "a copy that a killed broker left").unwrap();
        let paths = ["broker.db", "bad.db"].map(|name| directory.join(name));
        let [store, bad] = paths.each_ref().map(|path| Store::open(path, false).unwrap());
        let (upkeep, release) = etcd();
        let mut source = SnapshotSource::new(&directory);
        assert_eq!(files(&directory), [""; 0]);
        let ask = |source: &mut SnapshotSource, hub: &str, store: &Store| {
            let args = SNAPSHOT.check(object(json!({ "hub": hub, "ticket": hub }))).unwrap();
            source.answer(&args, &upkeep, || Ok(store.checkpointer().unwrap()))
        };
        assert_eq!(ask(&mut source, "vanished", &bad).unwrap(), json!({ "ok": true }));
        assert_eq!(ask(&mut source, "next", &store).unwrap(), json!({ "ok": true }), "one at a time");
        drop(bad);
        std::fs::write(&paths[1], "no database ".repeat(1000)).unwrap();
        // The first hub has sent no request for so long that the next hub is served.
        let Some(Copy { state: CopyState::Preparing(vanished), .. }) = source.current.take() else { panic!() };
        let mut answer = json!({ "ok": true });
        let mut release = Some(release);
        while answer["bytes"].is_null() {
            answer = ask(&mut source, "next", &store).unwrap();
            // As soon as the copy for the next hub exists, the copy for the first hub fails.
            if release.take_if(|_| !files(&directory).is_empty()).is_some() {
                assert!(vanished.recv().unwrap().is_err());
            }
        }
        assert!(STANDARD.decode(answer["bytes"].as_str().unwrap()).unwrap().starts_with(b"SQLite format 3"));
        assert_eq!(files(&directory), [""; 0], "each copy is removed");
        drop(store);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
