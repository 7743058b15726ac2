//! The records of the servers that an agent's own command has registered. Environment variables tell such a command
//! which file to change. `setup --remove` may run without these variables, so the records contain the variables.

use super::{Records, real_path, text_of};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The key that marks the record of a registration. Its value is the id of the agent.
const REGISTERED: &str = "registered";
/// The key that contains the environment variables.
const VARIABLES: &str = "variables";

/// A server that an agent's own command has registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The file that contains the server.
    pub path: PathBuf,
    /// The environment variables that lead the agent's command to this file. If a variable's value is `None`, the
    /// variable must not be set.
    pub variables: Vec<(String, Option<String>)>,
}

impl Records {
    /// The servers that this agent's own command has registered.
    pub fn registrations_of(&self, agent: &str) -> Vec<Registration> {
        let theirs = self.files.iter().filter(|(_, record)| record[REGISTERED] == json!(agent));
        let variable = |(name, value): (&String, &Value)| (name.clone(), value.as_str().map(str::to_owned));
        let registration = |(path, record): (&String, &Value)| Registration {
            path: PathBuf::from(path),
            variables: record[VARIABLES].as_object().into_iter().flatten().map(variable).collect(),
        };
        theirs.map(registration).collect()
    }

    /// Records a server that an agent's own command is about to register. [`Records::forget`] removes the record.
    ///
    /// # Errors
    /// If the records can't be written.
    pub fn set_registration(&mut self, agent: &str, registration: &Registration) -> Result<(), String> {
        let variable = |(name, value): &(String, Option<String>)| (name.clone(), json!(value));
        let variables: Map<String, Value> = registration.variables.iter().map(variable).collect();
        self.files.insert(text_of(&real_path(&registration.path)), json!({ REGISTERED: agent, VARIABLES: variables }));
        self.save()
    }
}
