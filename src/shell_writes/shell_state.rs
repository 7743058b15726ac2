//! The state of a shell at one point in a script: its directory, variables and functions.

use super::syntax_tree::Command;
use std::collections::HashMap;
use std::rc::Rc;

/// A word after expansion.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Field {
    /// Its text.
    Known(String),
    /// A word whose text is unknown until the command runs.
    Unknown,
    /// Any number of unknown words.
    Many,
}

impl Field {
    /// The text, if it is known.
    pub(super) fn text(&self) -> Option<&str> {
        if let Field::Known(text) = self { Some(text) } else { None }
    }
}

/// The value of a variable.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A text.
    Text(String),
    /// An array.
    List(Vec<Field>),
    /// An unknown value.
    Unknown,
}

/// A variable.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variable {
    /// Its value.
    pub value: Value,
    /// Whether child processes see the variable.
    pub is_exported: bool,
}

/// The state of one shell.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The current directory, absolute; `None` if it is unknown.
    pub directory: Option<String>,
    /// The directory before the last `cd`.
    pub previous_directory: Option<String>,
    /// The directory stack of `pushd`.
    pub directories: Vec<Option<String>>,
    variables: Rc<HashMap<String, Variable>>,
    /// `$1` and the following parameters.
    pub arguments: Rc<Vec<Field>>,
    functions: Rc<HashMap<String, Rc<Command>>>,
}

impl State {
    /// The value of a variable, if the script has set it.
    pub(super) fn variable(&self, name: &str) -> Option<&Value> {
        self.variables.get(name).map(|variable| &variable.value)
    }

    /// Sets a variable. An exported variable stays exported.
    pub(super) fn set(&mut self, name: &str, value: Value) {
        let is_exported = self.variables.get(name).is_some_and(|old| old.is_exported);
        Rc::make_mut(&mut self.variables).insert(name.to_owned(), Variable { value, is_exported });
    }

    /// Exports a variable to child processes.
    pub(super) fn export(&mut self, name: &str) {
        if let Some(variable) = Rc::make_mut(&mut self.variables).get_mut(name) {
            variable.is_exported = true;
        }
    }

    /// The body of a function.
    pub(super) fn function(&self, name: &str) -> Option<Rc<Command>> {
        self.functions.get(name).cloned()
    }

    /// Defines a function.
    pub(super) fn define(&mut self, name: &str, body: Rc<Command>) {
        Rc::make_mut(&mut self.functions).insert(name.to_owned(), body);
    }

    /// The number of variables, which shows what a copy of the state costs.
    pub(super) fn size(&self) -> usize {
        self.variables.len() + self.functions.len() + self.arguments.len()
    }

    /// The initial state of a child shell.
    pub(super) fn child(&self) -> State {
        let exported = self.variables.iter().filter(|(_, variable)| variable.is_exported);
        State {
            directory: self.directory.clone(),
            variables: Rc::new(exported.map(|(name, variable)| (name.clone(), variable.clone())).collect()),
            ..State::default()
        }
    }

    /// Marks everything that differs between the two states as unknown, because either state may apply.
    pub(super) fn merge(&mut self, other: &State) {
        if self.directory != other.directory {
            self.directory = None;
        }
        if self.previous_directory != other.previous_directory {
            self.previous_directory = None;
        }
        if self.directories != other.directories {
            self.directories.clear();
        }
        if self.arguments != other.arguments {
            self.arguments = Rc::new(vec![Field::Many]);
        }
        if Rc::ptr_eq(&self.variables, &other.variables) {
            return;
        }
        let differing = self.variables.iter().filter(|(name, variable)| other.variables.get(*name) != Some(variable));
        let missing = other.variables.keys().filter(|name| !self.variables.contains_key(*name));
        let names: Vec<String> = differing.map(|(name, _)| name).chain(missing).cloned().collect();
        for name in names {
            self.set(&name, Value::Unknown);
        }
    }
}
