//! The queue for locks: who waits for whom, and why some may not wait.

use super::locks::{Want, wanted_paths};
use super::{Ctx, Fault, Kind, Mesh, Stir, paths};
use crate::store::{LockRow, Message};
use serde_json::json;

impl Mesh {
    /// Takes a lock away, for the human, and says so to its holder.
    pub(super) fn steal(&mut self, ctx: &Ctx, want: &Want) -> Result<(), Fault> {
        if !self.is_human(ctx.me()) {
            return Err(Fault::new(
                Kind::Refused,
                "steal: only the human may take a lock from its holder; wait, or ask the holder",
            ));
        }
        for lock in self.in_the_way(want) {
            self.free_locks(|other| *other == lock, "stolen by the human", ctx.now)?;
            let body = format!(
                "{} took your lock on {} away. Do not write there before you hold it again.",
                self.name_of(ctx.me()),
                lock.path
            );
            let note = Message { sender: ctx.me().to_owned(), kind: "alert".into(), body, ..Message::default() };
            if self.peer(&lock.holder).is_some() && lock.holder != ctx.me() {
                self.post(note, std::slice::from_ref(&lock.holder), ctx.now)?;
            }
        }
        Ok(())
    }

    /// Refuses to wait for somebody who, over any number of others, waits for the caller.
    pub(super) fn refuse_cycle(&self, me: &str, in_the_way: &[LockRow]) -> Result<(), Fault> {
        let mut ways: Vec<Vec<String>> = in_the_way.iter().map(|lock| vec![lock.holder.clone()]).collect();
        let mut seen: Vec<String> = Vec::new();
        while let Some(way) = ways.pop() {
            let Some(last) = way.last().filter(|last| !seen.contains(last)).cloned() else { continue };
            if last == me && way.len() > 1 {
                let names: Vec<_> = way.iter().map(|id| self.name_of(id)).collect();
                let text = format!(
                    "waiting would never end: {} waits for {}; give back what you hold, or ask {}",
                    names[..names.len() - 1].join(" waits for "),
                    self.name_of(me),
                    names[0]
                );
                return Err(Fault::new(Kind::Refused, text).with(json!({ "cycle": names })));
            }
            seen.push(last.clone());
            for wait in self.waits.iter().filter(|wait| wait.on == Stir::Locks && wait.ctx.me() == last) {
                for lock in self.waited_for(wait) {
                    ways.push(way.iter().cloned().chain([lock.holder.clone()]).collect());
                }
            }
        }
        Ok(())
    }

    /// The locks for which a waiting call waits.
    fn waited_for(&self, wait: &super::Wait) -> Vec<&LockRow> {
        let asked = wanted_paths(&wait.args);
        let hits =
            |lock: &&LockRow| asked.iter().any(|path| paths::overlap(path, &lock.path)) && lock.holder != wait.ctx.me();
        self.locks.iter().filter(hits).collect()
    }

    /// Names of those who wait for a lock, first come first.
    pub(super) fn queue_for(&self, lock: &LockRow) -> Vec<String> {
        let wants = |wait: &super::Wait| wanted_paths(&wait.args).iter().any(|path| paths::overlap(path, &lock.path));
        let in_line = self.waits.iter().filter(|wait| wait.on == Stir::Locks && wait.ctx.me() != lock.holder);
        let waiting = in_line.filter(|wait| wants(wait));
        waiting.map(|wait| self.name_of(wait.ctx.me())).take(8).collect()
    }
}
