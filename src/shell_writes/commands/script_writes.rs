//! Finds the calls in a script that write files or run commands.

use super::inline_script_tokens::{Language, Token};
use super::inline_script_variables::{Binding, is_sign, list_literal, name, path_literal};
use std::collections::{HashMap, HashSet};

/// The effect of a function on the paths in its arguments.
#[derive(Debug, Clone, Copy)]
enum FunctionEffect {
    /// Writes or removes the file at the path in the first argument.
    Writes,
    /// Removes a file, or a folder and everything in the folder.
    Removes,
    /// Moves a file. The second argument is the new path.
    Moves,
    /// Copies a file. The second argument is the path of the copy.
    Copies,
    /// Opens a file. The second argument is the mode, such as `"w"`.
    Opens,
    /// Runs a command. The first argument is a command line, or a list of words.
    Runs,
}

/// What a call must contain before the name of the function.
#[derive(Debug, Clone, Copy)]
enum Owner {
    /// No module or object, as in `open(…)`.
    Free,
    /// One of these names, followed by a dot, as in `os.remove(…)`.
    Of(&'static [&'static str]),
    /// Anything or nothing. The function's name is enough to identify the function.
    Any,
}

use FunctionEffect::{Copies, Moves, Opens, Removes, Runs, Writes};
use Language::{JavaScript, Perl, Php, Python, Ruby};

/// The known functions that write files or run commands.
const FUNCTIONS: &[(Language, Owner, &[&str], FunctionEffect)] = &[
    (Python, Owner::Free, &["open"], Opens),
    (Python, Owner::Of(&["io", "codecs", "gzip"]), &["open"], Opens),
    (Python, Owner::Of(&["os"]), &["remove", "unlink", "truncate"], Writes),
    (Python, Owner::Of(&["os"]), &["rename", "replace"], Moves),
    (Python, Owner::Of(&["os"]), &["system", "popen"], Runs),
    (Python, Owner::Of(&["subprocess"]), &["run", "call", "check_call", "check_output", "Popen"], Runs),
    (Python, Owner::Of(&["shutil"]), &["move"], Moves),
    (Python, Owner::Of(&["shutil"]), &["copy", "copy2", "copyfile"], Copies),
    (Python, Owner::Of(&["shutil"]), &["rmtree"], Removes),
    (JavaScript, Owner::Any, &["writeFileSync", "appendFileSync", "writeFile", "appendFile"], Writes),
    (JavaScript, Owner::Any, &["unlinkSync", "truncateSync", "createWriteStream"], Writes),
    (JavaScript, Owner::Any, &["writeTextFile", "writeTextFileSync"], Writes),
    (JavaScript, Owner::Any, &["rmSync"], Removes),
    (JavaScript, Owner::Any, &["renameSync"], Moves),
    (JavaScript, Owner::Any, &["copyFileSync", "cpSync"], Copies),
    (JavaScript, Owner::Any, &["openSync"], Opens),
    (JavaScript, Owner::Any, &["execSync", "execFileSync", "spawnSync"], Runs),
    (JavaScript, Owner::Of(FS), &["unlink", "truncate"], Writes),
    (JavaScript, Owner::Of(FS), &["rm"], Removes),
    (JavaScript, Owner::Of(FS), &["rename"], Moves),
    (JavaScript, Owner::Of(FS), &["copyFile", "cp"], Copies),
    (JavaScript, Owner::Of(&["Bun"]), &["write"], Writes),
    (JavaScript, Owner::Of(&["Deno"]), &["remove", "removeSync"], Writes),
    (JavaScript, Owner::Of(&["Deno"]), &["rename"], Moves),
    (JavaScript, Owner::Of(&["Deno"]), &["copyFile"], Copies),
    (Ruby, Owner::Of(&["File", "IO"]), &["write", "binwrite", "delete", "unlink", "truncate"], Writes),
    (Ruby, Owner::Of(&["File"]), &["open", "new"], Opens),
    (Ruby, Owner::Of(&["File"]), &["rename"], Moves),
    (Ruby, Owner::Of(&["FileUtils"]), &["rm", "rm_f", "touch"], Writes),
    (Ruby, Owner::Of(&["FileUtils"]), &["rm_r", "rm_rf"], Removes),
    (Ruby, Owner::Of(&["FileUtils"]), &["mv"], Moves),
    (Ruby, Owner::Of(&["FileUtils"]), &["cp"], Copies),
    (Ruby, Owner::Free, &["open"], Opens),
    (Ruby, Owner::Free, &["system"], Runs),
    (Perl, Owner::Free, &["unlink", "truncate"], Writes),
    (Perl, Owner::Free, &["rename", "move"], Moves),
    (Perl, Owner::Free, &["copy"], Copies),
    (Perl, Owner::Free, &["system"], Runs),
    (Php, Owner::Free, &["file_put_contents", "unlink", "touch"], Writes),
    (Php, Owner::Free, &["rename"], Moves),
    (Php, Owner::Free, &["copy"], Copies),
    (Php, Owner::Free, &["fopen"], Opens),
    (Php, Owner::Free, &["exec", "shell_exec", "system", "passthru"], Runs),
];
const FS: &[&str] = &["fs", "fsp", "promises", "fsPromises"];
/// Functions that check whether a file exists.
const EXISTS: &[&str] = &["exists", "isfile", "is_file", "existsSync", "exist", "file_exists"];
/// In Perl and Ruby, these words may follow a statement. They begin a condition or another statement.
const MODIFIERS: &[&str] = &["or", "and", "if", "unless"];

/// One effect of a script.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ScriptWrite {
    /// The script writes a file.
    File(String),
    /// The script removes a file, or a folder and everything in the folder.
    Tree(String),
    /// The script runs a command line.
    Command(String),
    /// The script runs a program with arguments, without a shell.
    Program(Vec<String>),
}

/// The tokens of a script, and the known values of its variables.
pub(super) struct Snippet {
    pub tokens: Vec<Token>,
    pub bindings: HashMap<String, Binding>,
    pub language: Language,
}

impl Snippet {
    /// The paths that an argument may contain, and the index of the token after the argument.
    fn argument(&self, at: usize) -> Option<(Vec<String>, usize)> {
        let (paths, end) = match self.tokens.get(at)? {
            Token::Text(text) => (vec![text.clone()], at + 1),
            Token::Name(word) if word == "Path" || word == "pathlib" => {
                let (path, end) = path_literal(&self.tokens, at)?;
                (vec![path], end)
            }
            Token::Name(word) => (self.known(word)?.values.clone(), at + 1),
            _ => return None,
        };
        let ends = match self.tokens.get(end) {
            Some(Token::Sign(',' | ')' | '}') | Token::End) => true,
            Some(Token::Name(word)) => MODIFIERS.contains(&word.as_str()),
            _ => false,
        };
        ends.then_some((paths, end))
    }

    fn known(&self, name: &str) -> Option<&Binding> {
        self.bindings.get(name).filter(|binding| !binding.is_unknown)
    }

    /// The files that the script writes, and the commands that it runs.
    pub(super) fn writes(&self) -> Vec<ScriptWrite> {
        let mut found = Vec::new();
        for at in 0..self.tokens.len() {
            let Some(word) = name(self.tokens.get(at)) else { continue };
            if self.language == Perl && word == "open" {
                found.extend(self.perl_open(at).map(ScriptWrite::File));
                continue;
            }
            let is_method = at > 0 && is_sign(self.tokens.get(at - 1), '.');
            let owner = if is_method && at >= 2 { self.owner(at - 2) } else { None };
            let has_call = is_sign(self.tokens.get(at + 1), '(');
            // In Perl and Ruby, a call needs no parentheses.
            if !has_call && !matches!(self.language, Perl | Ruby) {
                continue;
            }
            let first = if has_call { at + 2 } else { at + 1 };
            let fits = |place: &Owner| match place {
                Owner::Free => !is_method,
                Owner::Of(owners) => owner.is_some_and(|owner| owners.contains(&owner)),
                Owner::Any => true,
            };
            let function = FUNCTIONS
                .iter()
                .find(|(language, place, names, _)| *language == self.language && fits(place) && names.contains(&word));
            match function {
                Some((.., effect)) => found.extend(self.effects(*effect, first, at + 1)),
                None if self.language == Python && is_method && has_call => {
                    let paths = self.method(at).into_iter().chain(self.rewritten_by_fileinput(at, owner));
                    found.extend(paths.map(ScriptWrite::File));
                }
                None => {}
            }
        }
        found
    }

    /// The name before the dot of a method call. For `require("fs")`, this is `fs`.
    fn owner(&self, at: usize) -> Option<&str> {
        let is_required = || {
            let module = at.checked_sub(1).and_then(|n| self.tokens.get(n));
            let is_fs = matches!(module, Some(Token::Text(text)) if text.trim_start_matches("node:").starts_with("fs"));
            is_fs && at >= 3 && name(self.tokens.get(at - 3)) == Some("require")
        };
        match self.tokens.get(at) {
            Some(Token::Sign(')')) if is_required() => Some("fs"),
            token => name(token),
        }
    }

    /// The effects of a call. `first` is the index of the first argument. `call` is the index of the token after the
    /// function's name.
    fn effects(&self, effect: FunctionEffect, first: usize, call: usize) -> Vec<ScriptWrite> {
        let argument = || self.argument(first).map(|(paths, _)| paths).unwrap_or_default();
        let files = |paths: Vec<String>| paths.into_iter().map(ScriptWrite::File).collect();
        match effect {
            Writes => files(argument()),
            Removes => argument().into_iter().map(ScriptWrite::Tree).collect(),
            Moves => files(self.two(first, true)),
            Copies => files(self.two(first, false)),
            Opens => files(self.opened(first)),
            Runs => self.command(first, call).into_iter().collect(),
        }
    }

    /// The command that a call runs. `None` if the command is unknown, or if the command may run in another directory.
    fn command(&self, first: usize, call: usize) -> Option<ScriptWrite> {
        if self.has_word_in_call(call, "cwd") || self.has_word_in_call(call, "chdir") {
            return None;
        }
        if let Some((words, _)) = list_literal(&self.tokens, first) {
            return (!words.is_empty()).then_some(ScriptWrite::Program(words));
        }
        let Some(Token::Text(text)) = self.tokens.get(first) else { return None };
        let function = name(self.tokens.get(call - 1)).unwrap_or_default();
        match self.tokens.get(first + 1) {
            // A program and a list of arguments, as in `spawnSync("rm", ["a"])`.
            Some(Token::Sign(',')) if matches!(function, "execFileSync" | "spawnSync") => {
                let (words, _) = list_literal(&self.tokens, first + 2)?;
                Some(ScriptWrite::Program([vec![text.clone()], words].concat()))
            }
            // A program and separate arguments, as in `system("rm", "a")`. This form is not supported.
            Some(Token::Sign(',')) if matches!(self.language, Perl | Ruby) => None,
            // Python runs the text as a command line only with the argument `shell`. Otherwise, the text is a program's
            // name.
            _ if self.language == Python && name(self.tokens.get(call.saturating_sub(3))) == Some("subprocess") => {
                self.has_word_in_call(call, "shell").then(|| ScriptWrite::Command(text.clone()))
            }
            Some(Token::Sign(',' | ')' | '}') | Token::End | Token::Name(_)) => {
                Some(ScriptWrite::Command(text.clone()))
            }
            _ => None,
        }
    }

    /// The files that the script writes only if they do not exist yet, as after `if not os.path.exists("a")`.
    pub(super) fn created_if_missing(&self) -> HashSet<String> {
        let mut found = HashSet::new();
        for at in 0..self.tokens.len() {
            let Some(word) = name(self.tokens.get(at)).filter(|word| EXISTS.contains(word)) else { continue };
            let before = self.tokens[..at].iter().rev().take_while(|token| **token != Token::End).take(8);
            let is_negated = before.into_iter().any(|token| match token {
                Token::Name(word) => word == "not" || word == "unless",
                token => *token == Token::Sign('!'),
            });
            if !is_negated {
                continue;
            }
            // In Ruby, the method is called `exist?`.
            let call = if word == "exist" && is_sign(self.tokens.get(at + 1), '?') { at + 2 } else { at + 1 };
            let first = if is_sign(self.tokens.get(call), '(') { call + 1 } else { call };
            let own = self.argument(first).map(|(paths, _)| paths);
            found.extend(own.unwrap_or_else(|| self.owner_paths(at)));
        }
        found
    }

    /// The files that `fileinput.input("a", inplace=True)` rewrites.
    fn rewritten_by_fileinput(&self, at: usize, owner: Option<&str>) -> Vec<String> {
        let is_it = owner == Some("fileinput") && matches!(name(self.tokens.get(at)), Some("input" | "FileInput"));
        if !is_it || !self.has_word_in_call(at + 1, "inplace") {
            return Vec::new();
        }
        self.argument(at + 2).map(|(paths, _)| paths).unwrap_or_default()
    }

    /// Whether a name occurs among the arguments of a call.
    fn has_word_in_call(&self, at: usize, word: &str) -> bool {
        let inner = self.tokens.iter().skip(at).take_while(|token| !matches!(token, Token::Sign(')') | Token::End));
        inner.into_iter().any(|token| name(Some(token)) == Some(word))
    }

    /// The file that a call such as `open(path, "w")` opens for writing.
    fn opened(&self, at: usize) -> Vec<String> {
        let Some((paths, end)) = self.argument(at) else { return Vec::new() };
        if is_sign(self.tokens.get(end), ',') && self.is_write_mode(end + 1) { paths } else { Vec::new() }
    }

    /// Whether an argument is a mode that writes to an existing file. The mode `x` only creates new files, so it does
    /// not count.
    fn is_write_mode(&self, at: usize) -> bool {
        let is_named = name(self.tokens.get(at)) == Some("mode") && is_sign(self.tokens.get(at + 1), '=');
        match self.tokens.get(if is_named { at + 2 } else { at }) {
            Some(Token::Text(mode)) => mode.len() <= 4 && mode.contains(['w', 'a', '+']) && !mode.contains('x'),
            _ => false,
        }
    }

    /// The paths in the first two arguments, as for `rename(a, b)`. If `both` is false, only the paths in the second
    /// argument, as for `copy(a, b)`.
    fn two(&self, at: usize, both: bool) -> Vec<String> {
        let Some((first, end)) = self.argument(at) else { return Vec::new() };
        let Some((second, _)) = self.argument(end + 1).filter(|_| is_sign(self.tokens.get(end), ',')) else {
            return Vec::new();
        };
        if both { [first, second].concat() } else { second }
    }

    /// The files that `path.write_text(…)` and similar methods of `pathlib` write.
    fn method(&self, at: usize) -> Vec<String> {
        let method = name(self.tokens.get(at)).unwrap_or("");
        let moves = matches!(method, "rename" | "replace");
        let writes = match method {
            "write_text" | "write_bytes" | "unlink" | "touch" => true,
            "open" => self.is_write_mode(at + 2),
            _ => moves,
        };
        let mut paths = if writes { self.owner_paths(at) } else { Vec::new() };
        if moves && !paths.is_empty() {
            paths.extend(self.argument(at + 2).map(|(targets, _)| targets).unwrap_or_default());
        }
        paths
    }

    /// The possible paths of the object on which a method is called.
    fn owner_paths(&self, at: usize) -> Vec<String> {
        let owner = at.saturating_sub(2);
        if let Some(word) = name(self.tokens.get(owner)) {
            return self
                .known(word)
                .filter(|binding| binding.is_path)
                .map(|binding| binding.values.clone())
                .unwrap_or_default();
        }
        // The object is a path such as `Path("a")` or `(Path("a") / "b")`.
        let start = (at.saturating_sub(14)..at).find(|start| {
            let before = start.checked_sub(1).and_then(|n| self.tokens.get(n));
            let is_start = !is_sign(before, '.');
            is_start
                && path_literal(&self.tokens, *start).is_some_and(|(_, end)| {
                    end + 1 == at || end + 2 == at && is_sign(before, '(') && is_sign(self.tokens.get(end), ')')
                })
        });
        if let Some((path, _)) = start.and_then(|start| path_literal(&self.tokens, start)) {
            return vec![path];
        }
        // The object is `Path(name)`, where `name` is a variable whose value is known.
        let of_name = at
            .checked_sub(5)
            .filter(|n| name(self.tokens.get(*n)) == Some("Path") && is_sign(self.tokens.get(n + 1), '('));
        of_name
            .and_then(|n| self.argument(n + 2))
            .filter(|(_, end)| end + 2 == at)
            .map(|(paths, _)| paths)
            .unwrap_or_default()
    }

    /// The file that a Perl call such as `open(my $fh, '>', 'a')` or `open(F, '>a')` opens for writing.
    fn perl_open(&self, at: usize) -> Option<String> {
        let near = self.tokens.iter().enumerate().skip(at + 1).take(8);
        for (n, token) in near {
            match token {
                Token::End => return None,
                Token::Text(mode) if matches!(mode.as_str(), ">" | ">>" | "+<" | "+>") => {
                    let is_next = is_sign(self.tokens.get(n + 1), ',');
                    return self.argument(n + 2).filter(|_| is_next).and_then(|(paths, _)| paths.first().cloned());
                }
                Token::Text(text) => {
                    let path = text.strip_prefix('>').map(|rest| rest.trim_start_matches('>').trim());
                    return path.filter(|path| !path.is_empty() && !path.starts_with('&')).map(str::to_owned);
                }
                _ => {}
            }
        }
        None
    }
}
