//! The state of a shell at one point in a script: its directory, variables and functions.

use super::syntax_tree::Command;
use std::collections::HashMap;
use std::rc::Rc;

/// A word that results from the expansion of a word in the script.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Field {
    /// One word with this text.
    Known(String),
    /// One word whose text is unknown.
    Unknown,
    /// An unknown number of unknown words.
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
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Field>),
    /// An unknown value.
    Unknown,
}

/// A variable.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Variable {
    /// The value of the variable.
    pub value: Value,
    /// Whether child processes see the variable.
    pub is_exported: bool,
}

/// The shell that runs a script.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Shell {
    /// bash. This is the default, because agents are assumed to use bash.
    #[default]
    Bash,
    /// zsh.
    Zsh,
    /// `sh` and other shells, which may lack the extensions of bash.
    Posix,
}

/// How `cd` treats symbolic links in a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum CdLinks {
    /// The path keeps its links, so `cd ..` leads to the folder that contains the link.
    #[default]
    Kept,
    /// The links are resolved (`cd -P`).
    Resolved,
    /// It is unknown whether links are kept or resolved.
    Unknown,
}

/// The amount of standard input that a shell has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputTaken {
    /// This many bytes.
    Bytes(usize),
    /// An unknown number of bytes.
    Unknown,
}

impl Default for InputTaken {
    fn default() -> InputTaken {
        InputTaken::Bytes(0)
    }
}

impl InputTaken {
    /// The sum of this amount and `more`.
    pub(super) fn then(self, more: InputTaken) -> InputTaken {
        match (self, more) {
            (InputTaken::Bytes(first), InputTaken::Bytes(second)) => InputTaken::Bytes(first + second),
            _ => InputTaken::Unknown,
        }
    }
}

/// The options that `set` changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ShellOptions {
    /// Whether `>` refuses to overwrite an existing file (`set -C`).
    pub no_clobber: bool,
    /// Whether wildcards are not expanded (`set -f`).
    pub no_glob: bool,
    /// Whether the shell ends when a command fails (`set -e`).
    pub exits_on_error: bool,
    /// How `cd` treats symbolic links (`set -P`).
    pub cd_links: CdLinks,
}

impl ShellOptions {
    /// Sets the option with this letter, such as `e` in `set -e`.
    pub(super) fn set_letter(&mut self, letter: char, value: bool) {
        match letter {
            'C' => self.no_clobber = value,
            'f' => self.no_glob = value,
            'e' => self.exits_on_error = value,
            'P' => self.cd_links = if value { CdLinks::Resolved } else { CdLinks::Kept },
            _ => {}
        }
    }

    /// Sets the option with this name, such as `errexit`. Zsh allows underscores in the name.
    pub(super) fn set_name(&mut self, name: &str, value: bool) {
        match name.replace('_', "").to_ascii_lowercase().as_str() {
            "noclobber" => self.no_clobber = value,
            "noglob" => self.no_glob = value,
            "errexit" => self.exits_on_error = value,
            // Zsh calls this option `chaselinks`.
            "physical" | "chaselinks" => self.set_letter('P', value),
            _ => {}
        }
    }
}

/// The state of one shell, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The absolute path of the current directory. `None` if the directory is unknown.
    pub directory: Option<String>,
    /// Whether the last `cd` is known to have failed.
    pub has_cd_failed: bool,
    /// The directory before the last `cd`.
    pub previous_directory: Option<String>,
    /// The directory stack of `pushd`.
    pub directories: Vec<Option<String>>,
    variables: Rc<HashMap<String, Variable>>,
    /// The program that runs the script.
    pub shell: Shell,
    /// The options that are set.
    pub options: ShellOptions,
    /// The value of `$0`, if it is known.
    pub name: Option<String>,
    /// The values of `$1`, `$2` and so on.
    pub arguments: Rc<Vec<Field>>,
    functions: Rc<HashMap<String, Rc<Command>>>,
    /// The amount of the shell's standard input that the commands have read so far.
    pub taken: InputTaken,
    /// Whether this shell was started without the variables of the environment (`env -i`).
    has_empty_environment: bool,
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

    /// The body of the function with this name, if the script has defined it.
    pub(super) fn function(&self, name: &str) -> Option<Rc<Command>> {
        self.functions.get(name).cloned()
    }

    /// Defines a function.
    pub(super) fn define(&mut self, name: &str, body: Rc<Command>) {
        Rc::make_mut(&mut self.functions).insert(name.to_owned(), body);
    }

    /// The number of variables, functions and arguments. A copy of the state costs evaluation steps in proportion to
    /// this number.
    pub(super) fn size(&self) -> usize {
        self.variables.len() + self.functions.len() + self.arguments.len()
    }

    /// Removes all variables that a child would inherit, as `env -i` does: exported variables and environment
    /// variables.
    pub(super) fn forget_exported(&mut self) {
        Rc::make_mut(&mut self.variables).retain(|_, variable| !variable.is_exported);
        self.has_empty_environment = true;
    }

    /// Whether the script gets the values of variables from the environment if it has not set them itself.
    pub(super) fn sees_environment(&self) -> bool {
        !self.has_empty_environment
    }

    /// Replaces all variables with the variables of `other`, except the variables in `except`.
    pub(super) fn adopt_variables<'n>(&mut self, other: State, except: impl Iterator<Item = &'n str>) {
        let own = std::mem::replace(&mut self.variables, other.variables);
        let variables = Rc::make_mut(&mut self.variables);
        for name in except {
            match own.get(name) {
                Some(variable) => variables.insert(name.to_owned(), variable.clone()),
                None => variables.remove(name),
            };
        }
    }

    /// The state in which a child shell starts.
    pub(super) fn child(&self, shell: Shell) -> State {
        let exported = self.variables.iter().filter(|(_, variable)| variable.is_exported);
        State {
            shell,
            directory: self.directory.clone(),
            variables: Rc::new(exported.map(|(name, variable)| (name.clone(), variable.clone())).collect()),
            has_empty_environment: self.has_empty_environment,
            ..State::default()
        }
    }

    /// Merges this state with the state at the end of another branch. A value that differs becomes unknown, because
    /// either branch may have run.
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
        if self.options != other.options {
            // An option that is set in one of the two states is also set in the merged state. This is safe, because
            // each of these options can only reduce the number of files that a script writes.
            self.options.no_clobber |= other.options.no_clobber;
            self.options.no_glob |= other.options.no_glob;
            self.options.exits_on_error |= other.options.exits_on_error;
            if self.options.cd_links != other.options.cd_links {
                self.options.cd_links = CdLinks::Unknown;
            }
        }
        if self.taken != other.taken {
            self.taken = InputTaken::Unknown;
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
