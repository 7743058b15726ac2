//! Programs that run another command.

use super::options::Spec;
use super::{Run, run_script};
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::{Field, Shell, Value};

const SHELL: Spec = Spec { short: "oO", attached: "", long: &["rcfile", "init-file"], stops: true };
const XARGS: Spec = Spec {
    short: "ILnPsdEa",
    attached: "i",
    long: &["replace", "max-lines", "max-args", "max-procs", "max-chars", "delimiter", "arg-file"],
    stops: true,
};
const SUDO: Spec =
    Spec { short: "ugphCrtTD", attached: "", long: &["user", "group", "prompt", "host", "chdir"], stops: true };
const ENV: Spec = Spec { short: "uCS", attached: "", long: &["unset", "chdir", "split-string"], stops: true };
const FLOCK: Spec = Spec { short: "wE", attached: "", long: &["timeout", "wait", "conflict-exit-code"], stops: true };
const TIMEOUT: Spec = Spec { short: "ks", attached: "", long: &["kill-after", "signal"], stops: true };
const TIME: Spec = Spec { short: "fo", attached: "", long: &["format", "output"], stops: true };
const SWITCH_USER: Spec = Spec {
    short: "cgGsuw",
    attached: "",
    long: &["command", "group", "supp-group", "shell", "user", "whitelist-environment"],
    stops: false,
};

const fn plain_options(short: &'static str, long: &'static [&'static str]) -> Spec {
    Spec { short, attached: "", long, stops: true }
}

/// Programs that do nothing except run the command in their arguments. Each entry lists the options that take a value.
const PLAIN: &[(&str, Spec)] = &[
    ("nice", plain_options("n", &["adjustment"])),
    ("ionice", plain_options("ncpPu", &["class", "classdata", "pid"])),
    ("stdbuf", plain_options("ioe", &["input", "output", "error"])),
    ("nohup", plain_options("", &[])),
    ("setsid", plain_options("", &[])),
    ("command", plain_options("", &[])),
    ("builtin", plain_options("", &[])),
    ("exec", plain_options("a", &[])),
    ("caffeinate", plain_options("tw", &[])),
    ("chronic", plain_options("", &[])),
    ("coproc", plain_options("", &[])),
    ("unbuffer", plain_options("", &[])),
    ("fakeroot", plain_options("lsib", &["lib", "faked"])),
    ("xvfb-run", plain_options("ensfp", &["auth-file", "server-num", "server-args", "error-file"])),
    ("strace", plain_options("oeabEIOPpsSuX", &["output", "trace"])),
];
const STOPS: Spec = Spec {
    short: "p",
    attached: "",
    long: &["package", "from", "with", "python", "directory", "project", "env-file", "extra", "group"],
    stops: true,
};
/// Maximum number of commands that one `xargs` may run.
const RUNS_MAX: usize = 500;

/// The rule for `sh -c script`, and for a script on standard input.
pub(super) fn shell(run: &mut Run) -> StreamText {
    let options = SHELL.parse(run.arguments);
    if options.has(&["n", "help", "version"]) {
        return StreamText::Unknown;
    }
    if options.has(&["c"]) {
        let Some((Field::Known(script), words)) = options.operands.split_first() else { return StreamText::Unknown };
        return run_shell(run, script, words);
    }
    let reads_input = options.operands.is_empty() || options.has(&["s"]);
    match run.input.text().filter(|_| reads_input).map(str::to_owned) {
        Some(script) => run_shell(run, &script, &[&[Field::Unknown], options.operands.as_slice()].concat()),
        None => StreamText::Unknown,
    }
}

fn run_shell(run: &mut Run, script: &str, words: &[Field]) -> StreamText {
    let shell = match run.name {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        // The parser does not know how fish treats backslashes in quotes, so a fish script with a backslash is not
        // parsed.
        "fish" if script.contains('\\') => return StreamText::Unknown,
        _ => Shell::Posix,
    };
    run_script(run, shell, script, words)
}

/// Runs the command that consists of these operands.
fn run_operands(run: &mut Run, operands: &[Field]) -> StreamText {
    if operands.is_empty() { StreamText::Unknown } else { run.run(operands) }
}

/// The options of a program that does nothing but run the command in its arguments. `None` for any other program.
pub(super) fn plain_wrapper(name: &str) -> Option<&'static Spec> {
    PLAIN.iter().find(|(plain, _)| *plain == name).map(|(_, options)| options)
}

/// The rule for `nohup`, `nice` and similar programs.
pub(super) fn plain(run: &mut Run, options: &Spec) -> StreamText {
    let options = options.parse(run.arguments);
    if run.name == "strace" {
        run.write_field(options.value(&["o", "output"]));
    }
    if run.name == "command" && options.has(&["v", "V"]) {
        return StreamText::Unknown;
    }
    run_operands(run, &options.operands)
}

/// The rule for `/usr/bin/time -o file command`.
pub(super) fn time(run: &mut Run) -> StreamText {
    let options = TIME.parse(run.arguments);
    run.write_field(options.value(&["o", "output"]));
    run_operands(run, &options.operands)
}

/// The rule for `busybox sed …`.
pub(super) fn applet(run: &mut Run) -> StreamText {
    run_operands(run, run.arguments)
}

/// The rule for `su -c script`, and for `runuser -u user command`.
pub(super) fn switch_user(run: &mut Run) -> StreamText {
    let options = SWITCH_USER.parse(run.arguments);
    if options.has(&["l", "login"]) || options.operands.iter().any(|field| field.text() == Some("-")) {
        return StreamText::Unknown;
    }
    match options.value(&["c", "command"]) {
        Some(Field::Known(script)) => run_script(run, Shell::Posix, script, &[]),
        None if run.name == "runuser" && options.has(&["u", "user"]) => {
            let stopping = Spec { stops: true, ..SWITCH_USER }.parse(run.arguments);
            run_operands(run, &stopping.operands)
        }
        _ => StreamText::Unknown,
    }
}

/// The rule for `sudo`.
pub(super) fn sudo(run: &mut Run) -> StreamText {
    let options = SUDO.parse(run.arguments);
    if options.has(&["l", "e", "v", "k", "K", "chdir", "D", "i", "login"]) {
        return StreamText::Unknown;
    }
    let n = options.operands.iter().take_while(|field| is_assignment(field)).count();
    run_operands(run, &options.operands[n..])
}

/// The rule for `flock file command`, and for `flock file -c script`.
pub(super) fn flock(run: &mut Run) -> StreamText {
    let options = FLOCK.parse(run.arguments);
    match options.operands.get(1..) {
        Some([Field::Known(option), Field::Known(script)]) if matches!(option.as_str(), "-c" | "--command") => {
            run_script(run, Shell::Posix, script, &[])
        }
        Some(words) => run_operands(run, words),
        None => StreamText::Unknown,
    }
}

/// The rule for `timeout 10 command`.
pub(super) fn timeout(run: &mut Run) -> StreamText {
    let options = TIMEOUT.parse(run.arguments);
    run_operands(run, options.operands.get(1..).unwrap_or_default())
}

fn is_assignment(field: &Field) -> bool {
    let name = field.text().and_then(|text| text.split_once('=')).map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// The rule for `env name=value command`.
pub(super) fn env(run: &mut Run) -> StreamText {
    let options = ENV.parse(run.arguments);
    if options.has(&["S", "split-string"]) {
        return StreamText::Unknown;
    }
    // `env -` is a short form of `env -i`.
    let is_dash = options.operands.first().and_then(Field::text) == Some("-");
    let words = &options.operands[usize::from(is_dash)..];
    let n = words.iter().take_while(|field| is_assignment(field)).count();
    let outer = run.state.clone();
    if is_dash || options.has(&["i", "ignore-environment"]) {
        run.state.forget_exported();
    }
    for name in options.values(&["u", "unset"]).filter_map(Field::text) {
        run.state.set(name, Value::Unknown);
    }
    if let Some(folder) = options.value(&["C", "chdir"]) {
        run.state.directory = run.evaluator.resolve_for_chdir(run.state, folder);
    }
    for field in &words[..n] {
        if let Some((name, value)) = field.text().and_then(|text| text.split_once('=')) {
            run.state.set(name, Value::Text(value.to_owned()));
            run.state.export(name);
        }
    }
    let output = run_operands(run, &words[n..]);
    *run.state = outer;
    output
}

/// The rule for `xargs`, which reads arguments for the command from standard input.
pub(super) fn xargs(run: &mut Run) -> StreamText {
    let options = XARGS.parse(run.arguments);
    let delimiter = options.value(&["d", "delimiter"]).map(Field::text);
    let has_other_delimiter = !matches!(delimiter, None | Some(Some("\\n" | "\n")));
    if options.has(&["a", "arg-file", "E", "L", "max-lines", "l"]) || has_other_delimiter {
        return StreamText::Unknown;
    }
    let by_null = options.has(&["0", "null"]);
    let place = if options.has(&["i"]) { Some("{}") } else { options.value(&["I", "replace"]).and_then(Field::text) };
    let by_line = place.is_some() || delimiter.is_some();
    let is_separator = |c: char| match (by_null, by_line) {
        (true, _) => c == '\0',
        (false, true) => c == '\n',
        (false, false) => c.is_ascii_whitespace(),
    };
    let Some(text) = run.input.text().map(str::to_owned) else {
        let has_files = place.is_none();
        // The input is unknown, but the arguments on the command line are known.
        let words = [options.operands.as_slice(), if has_files { &[Field::Many] } else { &[] }].concat();
        return if has_files { run_inner(run, &words) } else { StreamText::Unknown };
    };
    // `xargs` treats quotes and backslashes specially. File names rarely contain quotes or backslashes, so an input
    // with such characters counts as unknown.
    if !by_null && delimiter.is_none() && text.contains(['\'', '"', '\\']) {
        return StreamText::Unknown;
    }
    let words: Vec<&str> = text.split(is_separator).map(str::trim).filter(|word| !word.is_empty()).collect();
    let Some(place) = place else {
        let n_most = options.value(&["n", "max-args"]).map(|n| n.text().and_then(|n| n.parse().ok()));
        let Some(n_most) = n_most.unwrap_or(Some(usize::MAX)).filter(|n| *n > 0) else { return StreamText::Unknown };
        for words in words.chunks(n_most).take(RUNS_MAX) {
            let words = words.iter().map(|word| Field::Known((*word).to_owned()));
            let words: Vec<Field> = options.operands.iter().cloned().chain(words).collect();
            run_inner(run, &words);
        }
        return StreamText::Unknown;
    };
    for word in words.iter().take(RUNS_MAX) {
        let replaced = |field: &Field| match field {
            Field::Known(text) => Field::Known(text.replace(place, word)),
            field => field.clone(),
        };
        let fields: Vec<Field> = options.operands.iter().map(replaced).collect();
        run_inner(run, &fields);
    }
    StreamText::Unknown
}

/// Runs a command for `xargs`. The command's standard input is empty, because `xargs` itself has read the input.
fn run_inner(run: &mut Run, words: &[Field]) -> StreamText {
    let input = StreamText::empty();
    let mut inner = Run { evaluator: run.evaluator, state: run.state, name: run.name, arguments: words, input: &input };
    run_operands(&mut inner, words);
    StreamText::Unknown
}

/// The rule for `npx prettier …`.
pub(super) fn package_runner(run: &mut Run) -> StreamText {
    let options = STOPS.parse(run.arguments);
    if options.has(&["c", "call"]) {
        return StreamText::Unknown;
    }
    let skips = usize::from(run.name == "pipx" && options.operands.first().and_then(Field::text) == Some("run"));
    run_package(run, &options.operands[skips..])
}

/// Runs the program of a package. The package's name may end with a version, as in `prettier@3`.
fn run_package(run: &mut Run, operands: &[Field]) -> StreamText {
    let mut words = operands.to_vec();
    if let Some(Field::Known(name)) = words.first_mut() {
        let version = name.rfind('@').filter(|at| *at > 0).unwrap_or(name.len());
        name.truncate(version);
        if name == "@biomejs/biome" {
            *name = "biome".into();
        }
    }
    run_operands(run, &words)
}

/// The rule for `uv run black …` and `poetry run …`.
pub(super) fn environment_runner(run: &mut Run) -> StreamText {
    match run.arguments.iter().map(Field::text).collect::<Vec<_>>().as_slice() {
        [Some("run"), ..] => {
            let options = STOPS.parse(&run.arguments[1..]);
            if options.has(&["directory", "project"]) {
                return StreamText::Unknown;
            }
            run_operands(run, &options.operands)
        }
        [Some("tool"), Some("run"), ..] => run_operands(run, &run.arguments[2..]),
        _ => StreamText::Unknown,
    }
}

/// The rule for `pnpm exec prettier …`, `yarn eslint …` and `npm exec -- …`.
pub(super) fn script_runner(run: &mut Run) -> StreamText {
    let options = STOPS.parse(run.arguments);
    let Some((Field::Known(first), rest)) = options.operands.split_first() else { return StreamText::Unknown };
    match first.as_str() {
        "exec" | "dlx" | "x" => {
            let rest = STOPS.parse(rest).operands;
            run_package(run, &rest)
        }
        // Yarn and pnpm have no subcommands with these names, so they run the program or the project script with this
        // name.
        "prettier" | "eslint" | "biome" if matches!(run.name, "yarn" | "pnpm") => run_operands(run, &options.operands),
        _ => StreamText::Unknown,
    }
}
