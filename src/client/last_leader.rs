//! Saves, on a guest, which hub led last, and which log the guest has joined. All sessions, commands and hooks of the
//! guest try this hub first.
//!
//! **Invariant:** the saved address is not trusted. The hub at this address must still prove that it knows the secret,
//! and must say whether it leads.

use crate::base::id_types::LogId;
use crate::sys::data_dir::DataDir;
use crate::sys::parse_hub_addresses::HubAddress;
use std::fs;

/// The file in a guest's data directory that contains the address of the last leader.
#[derive(Debug, Clone)]
pub struct LastLeader {
    places: DataDir,
    /// The hubs in the settings, separated by commas. If the file was written for other hubs, it is ignored.
    listed: String,
}

impl LastLeader {
    /// Creates a handle to the file in the data directory `places`. `hubs` are the hubs in the settings.
    pub fn of(places: &DataDir, hubs: &[HubAddress]) -> LastLeader {
        let listed = hubs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        LastLeader { places: places.clone(), listed }
    }

    /// The hub that led last, if that is known.
    pub fn read(&self) -> Option<HubAddress> {
        self.read_both().map(|(leader, _)| leader)
    }

    /// The log that this guest has joined, if that is known.
    pub fn joined_log(&self) -> Option<LogId> {
        self.read_both()?.1
    }

    /// Reads the file. Its lines are the hubs in the settings, the leader, and the log. A file of an older version has
    /// no line for the log.
    fn read_both(&self) -> Option<(HubAddress, Option<LogId>)> {
        let text = self.places.read(&self.places.leader())?;
        let mut lines = text.lines();
        let (listed, leader) = (lines.next()?, lines.next()?);
        let leader = HubAddress::parse(leader).ok().filter(|_| listed == self.listed)?;
        Some((leader, lines.next().and_then(|log| log.parse().ok())))
    }

    /// Saves the address of the leading hub, and the id of its log. If the id is not known, the file keeps the id that
    /// it contains.
    pub fn write(&self, leader: &HubAddress, log: Option<LogId>) {
        let saved = self.read_both();
        let log = log.or(saved.as_ref().and_then(|(_, log)| *log));
        let new = (leader.clone(), log);
        if saved.as_ref() != Some(&new) {
            let log = log.map_or(String::new(), |log| format!("{log}\n"));
            let text = format!("{}\n{leader}\n{log}", self.listed);
            // If this fails, the next search merely takes longer, and joins the first hub that shares a log.
            let _ = self.places.prepare().and_then(|()| self.places.write(&self.places.leader(), &text));
        }
    }

    /// Removes the file, because the address in it is wrong or not needed.
    pub fn forget(&self) {
        // If there is no file, this fails. That does no harm.
        let _ = fs::remove_file(self.places.leader());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_only_for_the_hubs_that_it_was_made_for() {
        let places = DataDir { dir: std::env::temp_dir().join(format!("slm-mesh-leader-{}", std::process::id())) };
        let hubs = |text: &str| crate::sys::parse_hub_addresses::parse_hubs(text).unwrap();
        let note = LastLeader::of(&places, &hubs("a,b"));
        assert_eq!(note.read(), None);
        note.write(&hubs("b")[0], None);
        assert_eq!((note.read(), note.joined_log()), (Some(hubs("b")[0].clone()), None));
        note.write(&hubs("b")[0], Some(LogId(7)));
        note.write(&hubs("a")[0], None);
        assert_eq!((note.read(), note.joined_log()), (Some(hubs("a")[0].clone()), Some(LogId(7))), "the log stays");
        assert_eq!(LastLeader::of(&places, &hubs("a,c")).read(), None);
        assert_eq!(LastLeader::of(&places, &hubs("a,c")).joined_log(), None);
        for damage in ["", "a,b", "a,b\n", "a,b\n0:0:0\n", "\0\n\0"] {
            fs::write(places.leader(), damage).unwrap();
            assert_eq!(note.read(), None, "{damage:?}");
        }
        note.forget();
        note.forget();
        fs::remove_dir_all(&places.dir).unwrap();
    }
}
