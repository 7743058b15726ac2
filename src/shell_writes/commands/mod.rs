//! Rules for the programs that agents run. A rule finds the files that its program writes.

mod awk_script;
mod compressors;
mod downloads_and_archives;
mod editors;
mod files;
mod find;
mod formatters;
mod git;
mod inline_script_dead_code;
mod inline_script_tokens;
mod inline_script_variables;
mod inline_scripts;
mod options;
mod patch;
mod script_writes;
mod sed_script;
mod wrappers;

use super::evaluator::{Evaluator, StreamText};
use super::shell_state::{Field, Shell, State};

/// A program that a command line runs.
pub(super) struct Run<'r, 'e> {
    evaluator: &'r mut Evaluator<'e>,
    state: &'r mut State,
    /// The name of the program, without its folder.
    name: &'r str,
    arguments: &'r [Field],
    input: &'r StreamText,
}

/// The rule for a program. A rule records the files that the program writes, and returns the program's output. The doc
/// comment of each rule shows which forms of the command the rule knows.
type Rule = fn(&mut Run) -> StreamText;

/// All rules, and the names of the programs to which each rule applies.
const RULES: &[(&[&str], Rule)] = &[
    (&["cp", "gcp"], files::copy),
    (&["mv", "gmv"], files::move_files),
    (&["ln", "gln"], files::link),
    (&["install", "ginstall"], files::install),
    (&["rm", "grm", "unlink", "shred", "trash", "trash-put", "rimraf", "del"], files::remove),
    (&["touch", "gtouch"], files::touch),
    (&["truncate"], files::truncate),
    (&["tee", "gtee", "sponge"], files::tee),
    (&["dd"], files::dd),
    (&["sort", "gsort"], files::sort),
    (&["shuf", "gshuf"], files::shuffle),
    (&["xxd"], files::xxd),
    (&["uniq"], files::uniq),
    (&["rsync"], files::rsync),
    (&["curl"], downloads_and_archives::curl),
    (&["wget"], downloads_and_archives::wget),
    (&["tar", "gtar", "bsdtar"], downloads_and_archives::tar),
    (&["unzip"], downloads_and_archives::unzip),
    (&["zip"], downloads_and_archives::zip),
    (&["7z", "7za", "7zr", "7zz"], downloads_and_archives::seven_zip),
    (&["cpio"], downloads_and_archives::cpio),
    (&["ar"], downloads_and_archives::ar),
    (&["gzip", "gunzip", "pigz", "unpigz", "bzip2", "bunzip2"], compressors::compress),
    (&["xz", "unxz", "lzma", "unlzma"], compressors::compress),
    (&["zstd", "unzstd", "zstdmt"], compressors::zstd),
    (&["sed", "gsed"], editors::sed),
    (&["sd"], editors::sd),
    (&["perl", "ruby"], editors::perl),
    (&["awk", "gawk", "mawk", "nawk"], editors::awk),
    (&["yq"], editors::yq),
    (&["ed", "ex", "vi", "vim", "nvim"], editors::ed),
    (&["python", "python3", "python2", "pypy3"], inline_scripts::python),
    (&["node", "nodejs", "bun", "deno", "tsx"], inline_scripts::node),
    (&["php"], inline_scripts::php),
    (&["git"], git::git),
    (&["patch", "gpatch"], patch::patch),
    (&["apply_patch", "applypatch"], patch::apply_patch),
    (&["find", "gfind"], find::find),
    (&["xargs", "gxargs"], wrappers::xargs),
    (&["sh", "bash", "zsh", "dash", "ksh", "ash", "fish"], wrappers::shell),
    (&["env", "genv"], wrappers::env),
    (&["sudo", "doas"], wrappers::sudo),
    (&["timeout", "gtimeout"], wrappers::timeout),
    (&["flock"], wrappers::flock),
    (&["time", "gtime"], wrappers::time),
    (&["busybox", "toybox"], wrappers::applet),
    (&["su", "runuser"], wrappers::switch_user),
    (&["npx", "bunx", "uvx", "pipx", "pnpx"], wrappers::package_runner),
    (&["uv", "poetry", "pipenv", "pdm", "rye", "hatch", "conda"], wrappers::environment_runner),
    (&["yarn", "pnpm", "npm", "bundle"], wrappers::script_runner),
];

/// Records the files that a program writes, and returns the program's output.
pub(super) fn run_command(
    evaluator: &mut Evaluator,
    state: &mut State,
    name: &str,
    arguments: &[Field],
    input: &StreamText,
) -> StreamText {
    let name = name.rsplit('/').next().unwrap_or(name);
    let plain = name.strip_prefix("python3.").map_or(name, |_| "python3");
    let mut run = Run { evaluator, state, name: plain, arguments, input };
    let rule = RULES.iter().find(|(names, _)| names.contains(&plain)).map(|(_, rule)| rule);
    let output = if formatters::is_formatter(&run) {
        formatters::format(&mut run)
    } else if let Some(options) = wrappers::plain_wrapper(plain) {
        wrappers::plain(&mut run, options)
    } else {
        rule.map_or(StreamText::Unknown, |rule| rule(&mut run))
    };
    evaluator.has_run_program = true;
    output
}

impl Run<'_, '_> {
    /// Records that the file at this path is written. The path may be relative.
    fn write(&mut self, path: &str) {
        self.evaluator.write(self.state, path);
    }

    /// Records that the file at this path is replaced or removed. The path may be relative.
    fn replace(&mut self, path: &str) {
        self.evaluator.replace(self.state, path);
    }

    /// Records that a file is written, if the path in `field` is known.
    fn write_field(&mut self, field: Option<&Field>) {
        if let Some(path) = field.and_then(Field::text) {
            self.write(path);
        }
    }

    /// Whether nothing exists at this path. The path may be relative.
    fn is_free(&mut self, path: &str) -> bool {
        let resolved = self.evaluator.resolve(self.state, path);
        resolved.is_some_and(|path| !self.evaluator.exists(&path))
    }

    /// Whether this path is a folder. The path may be relative.
    fn is_folder(&self, path: &str) -> bool {
        let resolved = self.evaluator.resolve(self.state, path);
        resolved.is_some_and(|path| self.evaluator.is_folder(&path) == Some(true))
    }

    /// Runs a command that another command has in its arguments, such as `ls` in `sudo ls`.
    fn run(&mut self, words: &[Field]) -> StreamText {
        self.evaluator.call(self.state, words, self.input).output
    }

    /// The current directory, if it is known.
    fn directory(&self) -> Option<String> {
        self.state.directory.clone()
    }

    /// The patch on standard input, if it is known. If standard input comes from a file, only the beginning of the file
    /// is read.
    fn patch_input(&mut self) -> Option<String> {
        match self.input {
            StreamText::Text(text) => Some(text.clone()),
            StreamText::File(path) => self.evaluator.patch_text(path),
            StreamText::Unknown => None,
        }
    }
}

/// Runs a script in a child shell, and returns its output. `words` are the script's `$0`, `$1` and so on.
fn run_script(run: &mut Run, shell: Shell, script: &str, words: &[Field]) -> StreamText {
    let mut inner = run.state.child(shell);
    if let Some((name, arguments)) = words.split_first() {
        inner.name = name.text().map(str::to_owned);
        inner.arguments = arguments.to_vec().into();
    }
    run.evaluator.run_script(script, &mut inner, run.input).output
}
