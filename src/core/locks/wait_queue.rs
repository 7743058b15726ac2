//! The queue for locks: who waits for whom, and why some may not wait.

use crate::base::error::{Error, ErrorKind};
use crate::core::locks::request::{LockMatcher, LockRequest, is_soft};
use crate::core::{CallContext, Mesh, WaitReason};
use crate::store::{LockRow, Message};
use serde_json::{Value, json};

impl Mesh {
    /// Takes a lock away, for the human, and says so to its holder.
    pub(crate) fn steal(&mut self, ctx: &CallContext, want: &LockRequest) -> Result<(), Error> {
        if !self.is_human(ctx.me()) {
            return Err(Error::new(
                ErrorKind::Refused,
                "steal: only the human may take a lock from its holder; wait, or ask the holder",
            ));
        }
        self.in_the_way(want).iter().try_for_each(|lock| self.take_from(ctx, lock))
    }

    /// Takes one grant from its holder, who is told; false if it has fallen by itself.
    pub(crate) fn take(&mut self, ctx: &CallContext, path: &str, token: i64) -> Result<bool, Error> {
        if !self.is_human(ctx.me()) {
            return Err(Error::new(ErrorKind::Refused, "token: only the human may take a lock from its holder"));
        }
        let found = self.locks.iter().find(|lock| lock.token == token && lock.path == path).cloned();
        match found {
            Some(own) if own.holder == ctx.me() => self.unlock(path, &own.holder, &own.bound, ctx.now),
            Some(lock) => self.take_from(ctx, &lock).map(|()| true),
            None => Ok(false),
        }
    }

    fn take_from(&mut self, ctx: &CallContext, lock: &LockRow) -> Result<(), Error> {
        self.free_locks(|other| other == lock, "stolen by the human", ctx.now)?;
        if self.peer(&lock.holder).is_some() && lock.holder != ctx.me() {
            let body = format!(
                "{} took your lock on {} away. Do not write there before you hold it again.",
                self.name_of(ctx.me()),
                lock.path
            );
            let note = Message { sender: ctx.me().to_owned(), kind: "alert".into(), body, ..Message::default() };
            self.post(note, std::slice::from_ref(&lock.holder), ctx.now)?;
        }
        Ok(())
    }

    /// Refuses to wait for somebody who, over any number of others, waits for the caller.
    pub(crate) fn refuse_cycle(&self, want: &LockRequest, in_the_way: &[LockRow]) -> Result<(), Error> {
        let me: LockParty = (&want.holder, &want.bound);
        let mut ways: Vec<Vec<LockParty>> = in_the_way.iter().map(|lock| vec![owner(lock)]).collect();
        let mut seen: Vec<LockParty> = Vec::new();
        while let Some(way) = ways.pop() {
            let Some(last) = way.last().filter(|last| !seen.contains(last)).copied() else { continue };
            if is_one(last, me) && way.len() > 1 {
                let names: Vec<_> = way.iter().map(|(id, _)| self.name_of(id)).collect();
                let text = format!(
                    "waiting would never end: {} waits for {}; give back what you hold, or ask {}",
                    names[..names.len() - 1].join(" waits for "),
                    self.name_of(me.0),
                    names[0]
                );
                return Err(Error::new(ErrorKind::Refused, text).with(json!({ "cycle": names })));
            }
            seen.push(last);
            for wish in self.wishes().filter(|wish| is_one(last, (&wish.holder, &wish.bound))) {
                for lock in self.obstacles(wish) {
                    ways.push(way.iter().copied().chain([owner(lock)]).collect());
                }
            }
        }
        Ok(())
    }

    /// What the calls in line want, first come first.
    fn wishes(&self) -> impl Iterator<Item = &LockRequest> {
        self.waits.iter().filter_map(|wait| match &wait.on {
            Some(WaitReason::Locks(want)) => Some(want.as_ref()),
            _ => None,
        })
    }

    /// The locks in force with who waits for them, at most so many; for who looks on.
    pub fn seen_locks(&self, max: usize, now: i64) -> Vec<Value> {
        let line = self.line();
        let seen = |lock: &LockRow| {
            let mut row = self.lock_value(lock, now);
            row["host"] = json!(lock.host);
            row["queue"] = json!(self.queue_for(lock, &line));
            row
        };
        self.locks.iter().take(max).map(seen).collect()
    }

    /// The line, ready to be compared with locks.
    pub(crate) fn line(&self) -> Vec<LockMatcher<'_>> {
        self.wishes().map(LockMatcher::new).collect()
    }

    /// Names of those in line who wait for a lock, first come first.
    pub(crate) fn queue_for(&self, lock: &LockRow, line: &[LockMatcher]) -> Vec<String> {
        let waiting = line.iter().filter(|wish| wish.want.holder != lock.holder && wish.collides(lock));
        waiting.map(|wish| self.name_of(&wish.want.holder)).take(8).collect()
    }
}

/// Who holds or wants a lock: a peer, and which of its commands.
type LockParty<'a> = (&'a str, &'a str);

fn owner(lock: &LockRow) -> LockParty<'_> {
    (&lock.holder, &lock.bound)
}

/// Whether one could wait for what the other has to do first: two running commands of one peer are
/// two, but the peer itself is behind both.
fn is_one(a: LockParty, b: LockParty) -> bool {
    a.0 == b.0 && (a.1 == b.1 || is_soft(a.1) || is_soft(b.1))
}
