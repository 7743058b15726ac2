//! Saves, on a guest, which hub led last. All sessions, commands and hooks of the guest try this hub first.
//!
//! **Invariant:** the saved address is not trusted. The hub at this address must still prove that it knows the secret,
//! and must say whether it leads.

use crate::sys::data_dir::DataDir;
use crate::sys::hubs_setting::HubAddress;
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
        let text = self.places.read(&self.places.leader())?;
        let (listed, leader) = text.trim_end().split_once('\n')?;
        HubAddress::parse(leader).ok().filter(|_| listed == self.listed)
    }

    /// Saves which hub leads. A failure is ignored, because it only makes the next search slower.
    pub fn write(&self, leader: &HubAddress) {
        if self.read().as_ref() != Some(leader) {
            let text = format!("{}\n{leader}\n", self.listed);
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
        let hubs = |text: &str| crate::sys::hubs_setting::parse_hubs(text).unwrap();
        let note = LastLeader::of(&places, &hubs("a,b"));
        assert_eq!(note.read(), None);
        note.write(&hubs("b")[0]);
        assert_eq!(note.read(), Some(hubs("b")[0].clone()));
        assert_eq!(LastLeader::of(&places, &hubs("a,c")).read(), None);
        for damage in ["", "a,b", "a,b\n", "a,b\n0:0:0\n", "\0\n\0"] {
            fs::write(places.leader(), damage).unwrap();
            assert_eq!(note.read(), None, "{damage:?}");
        }
        note.forget();
        note.forget();
        fs::remove_dir_all(&places.dir).unwrap();
    }
}
