//! The names of the fields of hook inputs, of all agents together. The compiler collects these names, because each hook
//! needs them, and a hook must be quick.

use super::AGENTS;
use super::hook_dialect::InputFields;

/// Maximum number of different names for one field.
const NAMES_MAX: usize = 16;

/// The names that the agents use for one field, without duplicates.
struct FieldNames {
    all: [&'static str; NAMES_MAX],
    n: usize,
}

impl FieldNames {
    const NONE: FieldNames = FieldNames { all: [""; NAMES_MAX], n: 0 };

    const fn add(mut self, more: &[&'static str]) -> FieldNames {
        let mut i = 0;
        while i < more.len() {
            if !self.contains(more[i]) {
                self.all[self.n] = more[i];
                self.n += 1;
            }
            i += 1;
        }
        self
    }

    const fn contains(&self, name: &str) -> bool {
        let mut i = 0;
        while i < self.n {
            if is_same(self.all[i].as_bytes(), name.as_bytes()) {
                return true;
            }
            i += 1;
        }
        false
    }

    const fn as_slice(&self) -> &[&'static str] {
        self.all.split_at(self.n).0
    }
}

/// Compares two texts. The compiler cannot run `==`.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut i = 0;
    while i < one.len() && i < other.len() && one[i] == other[i] {
        i += 1;
    }
    i == one.len() && i == other.len()
}

/// Collects the names of each field. If a field of `InputFields` is missing here, the program does not compile.
macro_rules! collect {
    ($($field:ident)*) => {
        struct Collected {
            $($field: FieldNames,)*
        }

        static COLLECTED: Collected = Collected {
            $($field: {
                let mut names = FieldNames::NONE;
                let mut i = 0;
                while i < AGENTS.len() {
                    if let Some(dialect) = &AGENTS[i].dialect {
                        names = names.add(dialect.fields.$field);
                    }
                    i += 1;
                }
                names
            },)*
        };

        impl InputFields {
            /// The lists of names and values, one for each field.
            pub fn lists(&self) -> Vec<&'static [&'static str]> {
                vec![$(self.$field),*]
            }
        }

        /// The names of all agents, in the order of the agents.
        pub static ALL_INPUT_FIELDS: InputFields = InputFields {
            $($field: COLLECTED.$field.as_slice(),)*
        };
    };
}

collect! {
    event
    session
    directory
    directories
    subagent
    transcript
    call
    tool
    arguments
    start_reason
    continuing_reasons
    continued_flags
    continued_counters
    tasks
    task_id
    task_state
    running_states
    wait_message
    files
    edit_lists
    file_lists
    edit_commands
    read_only_commands
    commands
    command_directory
}
