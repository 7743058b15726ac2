//! Finds the files that the actions of a `find` command write. Searches the folders as `find` does.

use super::Run;
use crate::base::shell_wildcards::{Sign, live_pattern, text_fits};
use crate::shell_writes::builtins::last_component;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

/// Maximum number of files and folders that one `find` may visit.
const VISITED_MAX: usize = 5000;
/// Maximum nesting depth of brackets in an expression.
const DEPTH_MAX: usize = 20;

/// A test or an action in the expression of `find`.
enum Test {
    Name(Vec<Sign>, bool),
    Path(Vec<Sign>, bool),
    Kind(String),
    Always(bool),
    /// A test whose result is unknown, such as a test of dates or sizes.
    Unknown,
    Prune,
    Action(usize),
    Not(Box<Test>),
    All(Vec<Test>),
    Either(Vec<Test>),
}

/// What `find` does with a file that it finds.
enum Action {
    Print(char),
    Delete,
    Run { words: Vec<Field>, together: bool },
    Other,
}

/// Parses the expression of `find`.
struct ExpressionReader<'f> {
    words: std::slice::Iter<'f, Field>,
    actions: Vec<Action>,
    outputs: Vec<String>,
    depths: (usize, usize),
}

impl<'f> ExpressionReader<'f> {
    fn peek(&self) -> Option<&'f str> {
        self.words.as_slice().first().map(|field| field.text().unwrap_or("\0"))
    }

    fn next(&mut self) -> Option<&'f str> {
        self.words.next().map(|field| field.text().unwrap_or("\0"))
    }

    /// Parses alternatives that are separated by `-o`, up to a closing bracket or the end of the expression.
    fn either(&mut self, depth: usize) -> Option<Test> {
        let mut choices = vec![Vec::new()];
        while let Some(word) = self.peek() {
            match word {
                ")" => break,
                "-o" | "-or" => {
                    self.next();
                    choices.push(Vec::new());
                }
                "," => return None,
                "-a" | "-and" => {
                    self.next();
                }
                _ => {
                    let test = self.test(depth)?;
                    choices.last_mut()?.push(test);
                }
            }
        }
        Some(Test::Either(choices.into_iter().map(Test::All).collect()))
    }

    fn test(&mut self, depth: usize) -> Option<Test> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match self.next()? {
            "(" => {
                let inner = self.either(depth + 1)?;
                (self.next()? == ")").then_some(inner)?
            }
            "!" | "-not" => Test::Not(Box::new(self.test(depth + 1)?)),
            "-name" => Test::Name(live_pattern(self.next()?), false),
            "-iname" => Test::Name(live_pattern(&self.next()?.to_lowercase()), true),
            "-path" | "-wholename" => Test::Path(live_pattern(self.next()?), false),
            "-ipath" => Test::Path(live_pattern(&self.next()?.to_lowercase()), true),
            "-type" => Test::Kind(self.next()?.to_owned()),
            "-maxdepth" => {
                self.depths.1 = self.next()?.parse().ok()?;
                Test::Always(true)
            }
            "-mindepth" => {
                self.depths.0 = self.next()?.parse().ok()?;
                Test::Always(true)
            }
            "-true" | "-depth" | "-d" | "-mount" | "-xdev" | "-noleaf" | "-ignore_readdir_race" => Test::Always(true),
            "-false" => Test::Always(false),
            "-prune" => Test::Prune,
            "-print" => self.action(Action::Print('\n')),
            "-print0" => self.action(Action::Print('\0')),
            "-delete" => self.action(Action::Delete),
            // `-execdir` runs the command in the file's folder and passes only the file's name. The command therefore
            // gets the same file as with `-exec`.
            "-exec" | "-execdir" => self.run_action()?,
            "-ok" | "-okdir" => {
                self.run_action()?;
                self.action(Action::Other)
            }
            "-fprint" | "-fprint0" | "-fls" => self.print_action()?,
            "-fprintf" => {
                let action = self.print_action()?;
                self.next()?;
                action
            }
            "-ls" | "-quit" => self.action(Action::Other),
            "-empty" | "-executable" | "-readable" | "-writable" | "-nouser" | "-nogroup" => Test::Unknown,
            "-mtime" | "-mmin" | "-ctime" | "-cmin" | "-atime" | "-amin" | "-newer" | "-size" | "-perm" | "-user"
            | "-group" | "-regex" | "-iregex" | "-links" | "-inum" | "-samefile" | "-lname" | "-uid" | "-gid"
            | "-anewer" | "-newermt" => {
                self.next()?;
                Test::Unknown
            }
            // An unknown test may take a value, so the rest of the expression can't be parsed.
            _ => return None,
        })
    }

    fn action(&mut self, action: Action) -> Test {
        self.actions.push(action);
        Test::Action(self.actions.len() - 1)
    }

    /// Parses an action that prints into a file. `find` creates this file even if it finds nothing.
    fn print_action(&mut self) -> Option<Test> {
        let file = self.next()?.to_owned();
        self.outputs.push(file);
        Some(self.action(Action::Other))
    }

    fn run_action(&mut self) -> Option<Test> {
        let mut words = Vec::new();
        loop {
            let field = self.words.next()?;
            let ends_together = field.text() == Some("+") && words.last() == Some(&Field::Known("{}".into()));
            if field.text() == Some(";") || ends_together {
                let action = self.action(Action::Run { words, together: ends_together });
                // With `;`, the command runs once for each file. The command's exit status decides whether the file
                // passes. The exit status is unknown.
                return Some(if ends_together { action } else { Test::All(vec![action, Test::Unknown]) });
            }
            words.push(field.clone());
        }
    }
}

/// A file or folder that `find` visits.
struct Visited<'p> {
    path: &'p str,
    kind: char,
}

/// The result of the expression for one file.
#[derive(Default)]
struct Verdict {
    actions: Vec<usize>,
    is_pruned: bool,
}

/// Whether a file passes a test. `None` means that the result is unknown. In this case, it is also unknown whether
/// `find` runs the next test.
fn passes(test: &Test, file: &Visited, verdict: &mut Verdict) -> Option<bool> {
    let lower = |text: &str, ignores_case: bool| if ignores_case { text.to_lowercase() } else { text.to_owned() };
    match test {
        Test::Name(signs, ignores_case) => Some(text_fits(&lower(last_component(file.path), *ignores_case), signs)),
        Test::Path(signs, ignores_case) => Some(text_fits(&lower(file.path, *ignores_case), signs)),
        Test::Kind(kinds) => Some(kinds.split(',').any(|kind| kind.starts_with(file.kind))),
        Test::Always(passes) => Some(*passes),
        Test::Unknown => None,
        Test::Prune => {
            verdict.is_pruned = true;
            Some(true)
        }
        Test::Action(n) => {
            verdict.actions.push(*n);
            Some(true)
        }
        Test::Not(inner) => passes(inner, file, verdict).map(|passes| !passes),
        Test::All(tests) => {
            for test in tests {
                match passes(test, file, verdict) {
                    Some(true) => {}
                    other => return other,
                }
            }
            Some(true)
        }
        Test::Either(tests) => {
            for test in tests {
                match passes(test, file, verdict) {
                    Some(false) => {}
                    other => return other,
                }
            }
            Some(false)
        }
    }
}

/// The rule for `find`.
pub(super) fn find(run: &mut Run) -> StreamText {
    let is_expression =
        |field: &Field| field.text().is_some_and(|text| text.starts_with('-') || matches!(text, "(" | "!" | ")"));
    let options =
        run.arguments.iter().take_while(|field| matches!(field.text(), Some("-L" | "-H" | "-P" | "-E"))).count();
    let rest = &run.arguments[options..];
    let n_roots = rest.iter().position(is_expression).unwrap_or(rest.len());
    let roots = if n_roots == 0 { vec![Field::Known(".".into())] } else { rest[..n_roots].to_vec() };
    let mut reader = ExpressionReader {
        words: rest[n_roots..].iter(),
        actions: Vec::new(),
        outputs: Vec::new(),
        depths: (0, usize::MAX),
    };
    let Some(test) = reader.either(0).filter(|_| reader.words.as_slice().is_empty()) else {
        return StreamText::Unknown;
    };
    reader.outputs.iter().for_each(|path| run.write(path));
    let mut actions = reader.actions;
    let test = if actions.is_empty() {
        actions.push(Action::Print('\n'));
        Test::All(vec![test, Test::Action(0)])
    } else {
        test
    };
    let only_prints = actions.iter().all(|action| matches!(action, Action::Print(_) | Action::Other));
    if only_prints && !run.evaluator.output_is_read {
        // Nothing reads the paths that this `find` prints, so the folders need not be searched.
        return StreamText::Unknown;
    }
    let mut walk = Walk { test, depths: reader.depths, hits: Vec::new(), n_visited: 0, is_whole: true };
    for root in &roots {
        match root.text() {
            Some(root) => walk.visit_root(run, root),
            None => walk.is_whole = false,
        }
    }
    act(run, &actions, walk)
}

/// A search through folders.
struct Walk {
    test: Test,
    depths: (usize, usize),
    hits: Vec<(String, Vec<usize>)>,
    n_visited: usize,
    is_whole: bool,
}

impl Walk {
    fn visit_root(&mut self, run: &mut Run, root: &str) {
        let Some(resolved) = run.evaluator.resolve(run.state, root) else {
            self.is_whole = false;
            return;
        };
        if let Some(is_folder) = run.evaluator.is_folder(&resolved) {
            self.visit(run, root.to_owned(), &resolved, if is_folder { 'd' } else { 'f' }, 0);
        }
    }

    fn visit(&mut self, run: &mut Run, path: String, resolved: &str, kind: char, depth: usize) {
        self.n_visited += 1;
        if self.n_visited > VISITED_MAX || depth > 64 || !run.evaluator.spend(1) {
            self.is_whole = false;
            return;
        }
        let mut verdict = Verdict::default();
        if depth >= self.depths.0 {
            self.is_whole &= passes(&self.test, &Visited { path: &path, kind }, &mut verdict).is_some();
        }
        let opens = kind == 'd' && !verdict.is_pruned && depth < self.depths.1;
        if !verdict.actions.is_empty() {
            self.hits.push((path.clone(), verdict.actions));
        }
        if !opens {
            return;
        }
        let Some(entries) = run.evaluator.list_folder(resolved) else {
            self.is_whole = false;
            return;
        };
        for entry in entries.iter() {
            let kind = if entry.is_link {
                'l'
            } else if entry.is_folder {
                'd'
            } else {
                'f'
            };
            let inner = format!("{}/{}", path.trim_end_matches('/'), entry.name);
            self.visit(run, inner, &format!("{resolved}/{}", entry.name), kind, depth + 1);
        }
    }
}

fn act(run: &mut Run, actions: &[Action], walk: Walk) -> StreamText {
    let mut printed = String::new();
    let mut together: Vec<Vec<Field>> = actions.iter().map(|_| Vec::new()).collect();
    for (path, hits) in &walk.hits {
        for n in hits {
            match &actions[*n] {
                Action::Print(end) => {
                    printed.push_str(path);
                    printed.push(*end);
                }
                Action::Delete => run.replace(path),
                Action::Run { together: true, .. } => together[*n].push(Field::Known(path.clone())),
                Action::Run { words, .. } => {
                    let words: Vec<Field> = words.iter().map(|word| replaced(word, path)).collect();
                    run_words(run, &words);
                }
                Action::Other => {}
            }
        }
    }
    for (action, files) in actions.iter().zip(together) {
        if let (Action::Run { words, .. }, false) = (action, files.is_empty()) {
            let words: Vec<Field> = words[..words.len().saturating_sub(1)].iter().cloned().chain(files).collect();
            run_words(run, &words);
        }
    }
    let prints_all = walk.is_whole && actions.iter().all(|action| matches!(action, Action::Print(_) | Action::Delete));
    if prints_all { StreamText::Text(printed) } else { StreamText::Unknown }
}

fn replaced(word: &Field, path: &str) -> Field {
    match word {
        Field::Known(text) => Field::Known(text.replace("{}", path)),
        word => word.clone(),
    }
}

fn run_words(run: &mut Run, words: &[Field]) {
    let mut inner = run.evaluator.copy(run.state);
    run.evaluator.call(&mut inner, words, &StreamText::Unknown);
}
