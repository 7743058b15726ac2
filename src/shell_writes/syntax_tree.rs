//! The syntax tree of a shell script. The tree contains only the parts of the script that can write files.

use std::cell::OnceCell;
use std::rc::Rc;

/// A word of the script, before expansion.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Word(pub Vec<Part>);

/// A piece of a word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// Text outside quotes. Braces, `~` and wildcards are special in such text.
    Bare(String),
    /// Literal text, such as text in single quotes.
    Quoted(String),
    /// `$name` or `${name…}`.
    Variable {
        /// The name of the variable, or a special parameter such as `@`.
        name: String,
        /// How the expansion changes the variable's value.
        change: Expansion,
        /// Whether the expansion is in double quotes.
        quoted: bool,
    },
    /// The output of a script, as in `$(script)`.
    Output {
        /// The script whose output is used.
        script: Rc<Command>,
        /// Whether the substitution is in double quotes.
        quoted: bool,
    },
    /// `<(script)` or `>(script)`. The shell replaces it with a path below /dev.
    Process(Rc<Command>),
    /// An expansion whose result is unknown, such as arithmetic.
    Unknown,
}

/// How an expansion such as `${name#pattern}` changes the variable's value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expansion {
    /// `${name}`: the value itself.
    Plain,
    /// `${name[@]}` or `$@`: every element as a separate word.
    Every,
    /// `${name[n]}`: the element with this index.
    Element(usize),
    /// `${name:-word}` or `${name:=word}`: the word is used if the variable has no value.
    Default(Word),
    /// `${name#pattern}`: cuts the shortest match from the start. `longest` means `##`, which cuts the longest match.
    CutStart { pattern: Word, longest: bool },
    /// `${name%pattern}`: cuts the shortest match from the end. `longest` means `%%`, which cuts the longest match.
    CutEnd { pattern: Word, longest: bool },
    /// `${name/from/to}`: replaces the first match. `everywhere` means `//`, which replaces all matches.
    Replace { from: Word, to: Word, everywhere: bool },
    /// Any other expansion.
    Unknown,
}

/// A command, simple or compound.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// A command name with arguments, assignments and redirections.
    Simple(Simple),
    /// Commands that run one after the other.
    Sequence(Vec<Command>),
    /// `a && b || c`: the first command, and then each operator with the command after it.
    AndOr(Box<Command>, Vec<(Joint, Command)>),
    /// `a | b | c`: each command reads the output of the command before it.
    Pipeline(Vec<Command>),
    /// `( a )`, or a command in the background. Such a command does not change the state of the outer shell.
    Subshell(Box<Command>),
    /// `if`: each condition with its body, and then the body after `else`.
    If(Vec<(Command, Command)>, Option<Box<Command>>),
    /// `while`: the condition and the body. `until a` is parsed as `while ! a`.
    While(Box<Command>, Box<Command>),
    /// `for name in words`. Without `in words`, the loop runs over the positional parameters.
    For { name: String, words: Option<Vec<Word>>, body: Box<Command> },
    /// `case word in`: each list of patterns with its body.
    Case(Word, Vec<(Vec<Word>, Command)>),
    /// The definition of a function: its name and its body.
    Function(String, Rc<Command>),
    /// A compound command with redirections.
    Redirected(Box<Command>, Vec<Redirect>),
    /// `! a`: succeeds if the command fails.
    Not(Box<Command>),
    /// `[[ words ]]`: succeeds if the condition is true.
    Condition(Vec<Word>),
}

/// The operator between two commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// `&&`: the second command runs if the first command succeeds.
    And,
    /// `||`: the second command runs if the first command fails.
    Or,
}

impl Joint {
    /// The exit status of two commands with this operator between them. True means success. `None` means that the
    /// status is unknown.
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
    /// The assignments before the command's name.
    pub assignments: Vec<Assignment>,
    /// The name of the command and its arguments.
    pub words: Vec<Word>,
    /// The redirections, in the order of the script.
    pub redirects: Vec<Redirect>,
}

/// An assignment: `name=value`, `name+=value` or `name=(values)`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assignment {
    /// The name of the variable.
    pub name: String,
    /// Whether the value is appended to the variable's old value (`+=`).
    pub appends: bool,
    /// The new value.
    pub value: AssignedValue,
}

/// The right side of an assignment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum AssignedValue {
    /// One value.
    Text(Word),
    /// The values of an array.
    List(Vec<Word>),
}

/// A redirection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Redirect {
    /// `>` and similar operators. With `set -o noclobber`, they do not overwrite an existing file.
    Create(Word),
    /// `>>` and other operators that ignore `set -o noclobber`.
    Write(Word),
    /// `< file`, which replaces standard input with a file.
    Read(Word),
    /// `<< end`: a here-document. The body is empty until the parser has reached the end of the line.
    HereDocument(Rc<OnceCell<Word>>),
    /// `<<< word`, which replaces standard input with a word.
    HereString(Word),
    /// `2>&1`, `<&3` and similar redirections. These do not open a file.
    Descriptor,
}
