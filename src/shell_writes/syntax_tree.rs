//! The syntax tree of a shell script, reduced to what matters for finding the files that the script writes.

use std::cell::OnceCell;
use std::rc::Rc;

/// A word before expansion.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Word(pub Vec<Part>);

/// A piece of a word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// Text outside quotes, where braces, `~` and wildcards are special.
    Bare(String),
    /// Literal text.
    Quoted(String),
    /// `$name` or `${name…}`.
    Variable {
        /// The variable's name, or the character of a special parameter.
        name: String,
        /// The operation on the variable's value.
        change: Expansion,
        /// Whether the expansion is in double quotes.
        quoted: bool,
    },
    /// `$(script)` or backquotes.
    Output {
        /// The script that runs.
        script: Rc<Command>,
        /// Whether the substitution is in double quotes.
        quoted: bool,
    },
    /// `<(script)` or `>(script)`, which expands to a path below /dev.
    Process(Rc<Command>),
    /// An expansion that this module does not evaluate, such as arithmetic.
    Unknown,
}

/// What `${name…}` does with the value of the variable.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expansion {
    /// The plain value.
    Plain,
    /// `${name[@]}` or `$@`: every element as a separate word.
    Every,
    /// `${name[n]}`: the element with this index.
    Element(usize),
    /// `${name:-word}` and `${name:=word}`.
    Default(Word),
    /// `${name#pattern}`; `longest` means `##`.
    CutStart { pattern: Word, longest: bool },
    /// `${name%pattern}`; `longest` means `%%`.
    CutEnd { pattern: Word, longest: bool },
    /// `${name/from/to}`; `everywhere` means `//`.
    Replace { from: Word, to: Word, everywhere: bool },
    /// Any other form.
    Unknown,
}

/// A command, simple or compound.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// Assignments, words and redirections.
    Simple(Simple),
    /// Commands one after the other.
    Sequence(Vec<Command>),
    /// `a && b || c`: the first command, and each other command with the operator before it.
    AndOr(Box<Command>, Vec<(Joint, Command)>),
    /// `a | b | c`.
    Pipeline(Vec<Command>),
    /// `( a )`, or a command in the background.
    Subshell(Box<Command>),
    /// `if`: the conditions, each with its body, and the `else` branch.
    If(Vec<(Command, Command)>, Option<Box<Command>>),
    /// `while`. `until a` is parsed as `while ! a`.
    While(Box<Command>, Box<Command>),
    /// `for name in words`. Without words, the loop uses the positional parameters.
    For { name: String, words: Option<Vec<Word>>, body: Box<Command> },
    /// `case word in`: the patterns and the body of each arm.
    Case(Word, Vec<(Vec<Word>, Command)>),
    /// The definition of a function.
    Function(String, Rc<Command>),
    /// A compound command with redirections.
    Redirected(Box<Command>, Vec<Redirect>),
    /// `! a`, which succeeds if the command fails.
    Not(Box<Command>),
    /// `[[ words ]]`.
    Condition(Vec<Word>),
}

/// The operator between two commands of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// `&&`: the second command runs if the first succeeds.
    And,
    /// `||`: the second command runs if the first fails.
    Or,
}

impl Joint {
    /// The status of two joined commands, given the status of each command. A status is true if a command succeeds, and
    /// `None` if that is unknown.
    pub(super) fn status(self, first: Option<bool>, second: Option<bool>) -> Option<bool> {
        let decisive = self == Joint::Or;
        if first == Some(decisive) || second == Some(decisive) {
            return Some(decisive);
        }
        first.and(second).map(|_| !decisive)
    }
}

/// A simple command.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Simple {
    /// `name=value` in front of the words.
    pub assignments: Vec<Assignment>,
    /// The name of the command and its arguments.
    pub words: Vec<Word>,
    /// The redirections, in the order of the script.
    pub redirects: Vec<Redirect>,
}

/// `name=value`, `name+=value` or `name=(values)`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assignment {
    /// The variable.
    pub name: String,
    /// Whether the value is appended to the old one (`+=`).
    pub appends: bool,
    /// The new value.
    pub value: AssignedValue,
}

/// The right side of an assignment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AssignedValue {
    /// A plain value.
    Text(Word),
    /// An array.
    List(Vec<Word>),
}

/// A redirection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Redirect {
    /// `>` and similar operators, which do not replace an existing file after `set -o noclobber`.
    Create(Word),
    /// `>>` and other operators that write to an existing file even after `set -o noclobber`.
    Write(Word),
    /// `< file`, which replaces standard input.
    Read(Word),
    /// `<< end`. The body is set once the parser has reached the end of the line.
    HereDocument(Rc<OnceCell<Word>>),
    /// `<<< word`.
    HereString(Word),
    /// `2>&1`, `<&3` and the like, which open no file.
    Descriptor,
}
