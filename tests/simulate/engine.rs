//! A log in memory that replaces etcd in the simulation, and that can fail in the same ways as etcd.

use slm_mesh::base::id_types::Term;
use slm_mesh::replication::{Append, Election, LogEntry, LogError, Position, ReplicatedLog};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// What happens to the next entry that a hub appends to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The entry is refused, because the hub's lease has just ended.
    Refused,
    /// The entry is stored, but the hub gets no answer.
    UnknownButWritten,
    /// The entry is not stored, and the hub gets no answer.
    UnknownNotWritten,
    /// The entry is refused, because the log is full.
    Full,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<u64, Vec<u8>>,
    leader: Option<(u64, String)>,
    last_term: u64,
    fault: Option<Fault>,
}

/// The log in memory. All hubs of a run share it.
#[derive(Debug, Clone, Default)]
pub struct Engine(Rc<RefCell<State>>);

impl Engine {
    pub fn log(&self) -> MemoryLog {
        MemoryLog { engine: self.clone(), term: 0 }
    }

    pub fn set_fault(&self, fault: Fault) {
        self.0.borrow_mut().fault = Some(fault);
    }

    /// The position of the last entry, or 0 if there is none.
    pub fn end(&self) -> u64 {
        self.0.borrow().entries.last_key_value().map_or(0, |(at, _)| *at)
    }

    /// Removes all entries after this position, as if the log were restored from an old backup.
    pub fn restore(&self, end: u64) {
        self.0.borrow_mut().entries.retain(|at, _| *at <= end);
    }

    /// Ends the leader's lease, and cancels the fault for the next entry.
    pub fn reset(&self) {
        let mut state = self.0.borrow_mut();
        (state.leader, state.fault) = (None, None);
    }
}

/// One hub's access to the log in memory.
#[derive(Debug)]
pub struct MemoryLog {
    engine: Engine,
    term: u64,
}

/// The maximum number of entries that a hub gets from one read. It is so small that a standby often has only a part of
/// the log.
const PAGE: usize = 7;

impl ReplicatedLog for MemoryLog {
    fn lead(&mut self, address: &str) -> Result<Election, LogError> {
        let mut state = self.engine.0.borrow_mut();
        if let Some((_, leader)) = &state.leader {
            return Ok(Election::Lost(leader.clone()));
        }
        state.last_term += 1;
        self.term = state.last_term;
        state.leader = Some((self.term, address.to_owned()));
        Ok(Election::Won(Term(self.term)))
    }

    fn still_leads(&self) -> bool {
        self.engine.0.borrow().leader.as_ref().is_some_and(|(term, _)| *term == self.term)
    }

    fn step_down(&mut self) {
        if self.still_leads() {
            self.engine.0.borrow_mut().leader = None;
        }
    }

    fn leader(&mut self) -> Result<Option<String>, LogError> {
        Ok(self.engine.0.borrow().leader.as_ref().map(|(_, address)| address.clone()))
    }

    fn append(&mut self, at: Position, entry: &LogEntry) -> Append {
        let is_leading = self.still_leads();
        let mut state = self.engine.0.borrow_mut();
        let bytes = entry.to_bytes();
        if !is_leading || state.entries.get(&at.0).is_some_and(|stored| *stored != bytes) {
            return Append::Deposed;
        }
        let fault = state.fault.take();
        if matches!(fault, None | Some(Fault::UnknownButWritten)) {
            state.entries.insert(at.0, bytes);
        }
        match fault {
            None => return Append::Stored,
            Some(Fault::Full) => return Append::Refused("the engine is full".into()),
            _ => state.leader = None,
        }
        if fault == Some(Fault::Refused) { Append::Deposed } else { Append::Unknown("no member answers".into()) }
    }

    fn follow(&mut self, from: Position) -> Result<Vec<(Position, LogEntry)>, LogError> {
        let state = self.engine.0.borrow();
        let page = state.entries.range(from.0..).take(PAGE);
        let read = |(at, bytes): (&u64, &Vec<u8>)| (Position(*at), LogEntry::from_bytes(bytes).expect("an entry"));
        let page: Vec<_> = page.map(read).collect();
        assert!(page.first().is_none_or(|(at, _)| *at == from), "the log has a gap at {from:?}");
        Ok(page)
    }

    fn wait_for_news(&mut self, _: Duration) {}

    fn report_position(&mut self, _: &str, _: Position) -> Result<(), LogError> {
        Ok(())
    }

    fn last(&mut self) -> Result<Option<(Position, LogEntry)>, LogError> {
        let state = self.engine.0.borrow();
        let last = state.entries.last_key_value();
        Ok(last.map(|(at, bytes)| (Position(*at), LogEntry::from_bytes(bytes).expect("an entry"))))
    }
}
