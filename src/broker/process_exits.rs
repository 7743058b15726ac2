//! Watches agent processes. The kernel reports when a process ends. The sessions of the process then go offline.
//!
//! **Invariant:** a watched process wakes the event loop only when it ends.

use super::clients::client_machine_and_ancestors::from_mesh;
use super::event_loop::LoopContext;
use super::log;
use crate::base::id_types::CountedMap;
use crate::base::process_identity::Process;
use crate::sys::process::ExitWatch;
use mio::unix::SourceFd;
use mio::{Interest, Token};
use std::os::fd::AsRawFd;

/// Maximum number of watched processes. The number is limited because each process needs a file descriptor. The session
/// of a process that is not watched is online only while it is connected.
const WATCHED_MAX: usize = 512;

/// The agent processes that are watched.
#[derive(Debug, Default)]
pub struct ProcessExits {
    watches: CountedMap<(Process, ExitWatch)>,
    /// Changes that have not been passed to the mesh yet.
    news: Vec<ProcessNews>,
}

#[derive(Debug)]
enum ProcessNews {
    Ended(Process),
    Unwatched(Process),
}

impl ProcessExits {
    /// Begins to watch a process.
    pub fn watch(&mut self, context: &mut LoopContext, process: Process) {
        if self.watches.values().any(|(known, _)| known.is_same(&process)) {
            return;
        }
        let watch = if self.watches.len() < WATCHED_MAX {
            ExitWatch::new(process.pid, from_mesh(process).start)
        } else {
            Err(std::io::Error::other("too many agent processes are already being watched"))
        };
        let registered = watch.and_then(|watch| {
            let Some(watch) = watch else { return Ok(None) };
            let token = context.tokens.next_token();
            let source = watch.as_raw_fd();
            context.poll.registry().register(&mut SourceFd(&source), Token(token as usize), Interest::READABLE)?;
            Ok(Some((token, watch)))
        });
        match registered {
            Ok(Some((token, watch))) => drop(self.watches.insert(token, (process, watch))),
            Ok(None) => self.news.push(ProcessNews::Ended(process)),
            Err(error) => {
                log(&format!("the broker can't watch for the end of process {}: {error}", process.pid));
                self.news.push(ProcessNews::Unwatched(process));
            }
        }
    }

    /// Records that the poll reported a watched process. Returns false if the token belongs to no watched process.
    pub fn note_ready(&mut self, token: u64) -> bool {
        let Some((process, watch)) = self.watches.get(&token) else { return false };
        if watch.has_ended() {
            self.news.push(ProcessNews::Ended(*process));
        }
        true
    }

    /// Whether there are changes to pass to the mesh.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Tells the mesh which processes have ended, and which can't be watched.
    pub fn serve(&mut self, context: &mut LoopContext) {
        for news in std::mem::take(&mut self.news) {
            context.pages.mark_dirty();
            context.shutdown.note_use(context.now);
            match news {
                ProcessNews::Unwatched(process) => context.mesh.on_unwatched_process(&process, context.now),
                ProcessNews::Ended(process) => {
                    context.mesh.on_process_exit(&process, context.now);
                    for (_, (_, watch)) in self.watches.extract_if(|_, (known, _)| known.is_same(&process)) {
                        // A failure is harmless. Dropping the watch closes the file descriptor, and the kernel then
                        // removes it from the poll.
                        let _ = context.poll.registry().deregister(&mut SourceFd(&watch.as_raw_fd()));
                    }
                }
            }
        }
    }
}
