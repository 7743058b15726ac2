//! Formatters and linters that rewrite files.

use super::Run;
use super::options::{Options, Spec};
use crate::base::shell_wildcards;
use crate::shell_writes::Tracking;
use crate::shell_writes::evaluator::StreamText;
use crate::shell_writes::shell_state::Field;

/// The files that a formatter rewrites if the command lists no files.
#[derive(Clone, Copy, PartialEq)]
enum Default {
    /// No files, because the formatter reads standard input or does nothing.
    Nothing,
    /// The files below the current directory.
    Directory,
    /// The files below the closest folder that contains a file with this name.
    FolderWith(&'static str),
}

/// Describes which files a formatter rewrites.
struct Formatter {
    name: &'static str,
    /// The subcommand that must follow the program's name, such as `fmt` in `cargo fmt`.
    subcommand: &'static [&'static str],
    /// Options that make the formatter write. If this list is empty, the formatter writes by default.
    writes: &'static [&'static str],
    /// Options that keep the formatter from writing, such as `--check`.
    reads: &'static [&'static str],
    values: Spec,
    endings: &'static [&'static str],
    default: Default,
}

impl Formatter {
    const fn new(name: &'static str, endings: &'static [&'static str]) -> Formatter {
        let (subcommand, writes, reads): (_, &[&str], &[&str]) = (&[], &[], &[]);
        Formatter { name, subcommand, writes, reads, values: Spec::FLAGS, endings, default: Default::Nothing }
    }

    const fn under(mut self, subcommand: &'static [&'static str]) -> Formatter {
        self.subcommand = subcommand;
        self
    }

    const fn writes_with(mut self, options: &'static [&'static str]) -> Formatter {
        self.writes = options;
        self
    }

    const fn reads_with(mut self, options: &'static [&'static str]) -> Formatter {
        self.reads = options;
        self
    }

    const fn values(mut self, short: &'static str, long: &'static [&'static str]) -> Formatter {
        self.values = Spec::new(short, long);
        self
    }

    const fn default(mut self, default: Default) -> Formatter {
        self.default = default;
        self
    }
}

const PYTHON: &[&str] = &[".py", ".pyi", ".ipynb"];
const GO: &[&str] = &[".go"];
const RUST: &[&str] = &[".rs"];
const C: &[&str] = &[".c", ".h", ".cc", ".cpp", ".hpp", ".cxx", ".m", ".mm", ".proto", ".java"];
const SHELL: &[&str] = &[".sh", ".bash", ".bats"];
const SCRIPT: &[&str] = &[".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs", ".mts", ".cts", ".vue", ".svelte"];
const WEB: &[&str] = &[
    ".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs", ".mts", ".cts", ".vue", ".svelte", ".json", ".jsonc", ".css",
    ".scss", ".less", ".html", ".md", ".mdx", ".yaml", ".yml", ".graphql",
];
const RUFF_VALUES: &[&str] =
    &["config", "select", "ignore", "line-length", "target-version", "exclude", "extend-select", "output-format"];
const CARGO_FIX: &[&str] = &["package", "features", "target", "manifest-path", "profile"];

const FORMATTERS: &[Formatter] = &[
    Formatter::new("rustfmt", RUST).reads_with(&["check", "emit"]).values("", &["edition", "config", "config-path"]),
    Formatter::new("cargo", RUST)
        .under(&["fmt"])
        .reads_with(&["check", "message-format"])
        .values("p", &["package", "manifest-path", "config", "edition"])
        .default(Default::FolderWith("Cargo.toml")),
    Formatter::new("cargo", RUST).under(&["fix"]).values("pF", CARGO_FIX).default(Default::FolderWith("Cargo.toml")),
    Formatter::new("cargo", RUST)
        .under(&["clippy"])
        .writes_with(&["fix"])
        .values("pFWDA", CARGO_FIX)
        .default(Default::FolderWith("Cargo.toml")),
    Formatter::new("gofmt", GO).writes_with(&["w"]).values("r", &[]),
    Formatter::new("goimports", GO).writes_with(&["w"]).values("", &["local"]),
    Formatter::new("gofumpt", GO).writes_with(&["w"]),
    Formatter::new("go", GO).under(&["fmt"]).reads_with(&["n"]).default(Default::Directory),
    Formatter::new("golangci-lint", GO)
        .under(&["run"])
        .writes_with(&["fix"])
        .values("cED", &["config", "timeout"])
        .default(Default::Directory),
    Formatter::new("prettier", WEB).writes_with(&["write", "w"]).values(
        "",
        &["config", "ignore-path", "parser", "plugin", "log-level", "loglevel", "print-width", "tab-width"],
    ),
    Formatter::new("eslint", SCRIPT)
        .writes_with(&["fix"])
        .reads_with(&["fix-dry-run"])
        .values(
            "cfo",
            &[
                "ext",
                "config",
                "rule",
                "format",
                "parser",
                "plugin",
                "max-warnings",
                "ignore-path",
                "rulesdir",
                "fix-type",
            ],
        )
        .default(Default::Directory),
    Formatter::new("biome", WEB).under(&["format"]).writes_with(&["write", "fix"]).default(Default::Directory),
    Formatter::new("biome", WEB)
        .under(&["check"])
        .writes_with(&["write", "apply", "apply-unsafe", "fix"])
        .default(Default::Directory),
    Formatter::new("biome", WEB)
        .under(&["lint"])
        .writes_with(&["write", "apply", "apply-unsafe", "fix"])
        .default(Default::Directory),
    Formatter::new("next", SCRIPT).under(&["lint"]).writes_with(&["fix"]).default(Default::Directory),
    Formatter::new("stylelint", &[".css", ".scss", ".less"]).writes_with(&["fix"]).values("", &["config"]),
    Formatter::new("black", PYTHON)
        .reads_with(&["check", "diff", "c", "code"])
        .values("lt", &["line-length", "target-version", "config", "exclude", "include"]),
    Formatter::new("ruff", PYTHON)
        .under(&["format"])
        .reads_with(&["check", "diff"])
        .values("", RUFF_VALUES)
        .default(Default::Directory),
    Formatter::new("ruff", PYTHON)
        .under(&["check"])
        .writes_with(&["fix", "fix-only"])
        .reads_with(&["diff"])
        .values("", RUFF_VALUES)
        .default(Default::Directory),
    Formatter::new("isort", PYTHON)
        .reads_with(&["check", "check-only", "c", "diff", "stdout", "d"])
        .values("lp", &["profile", "line-length", "settings-path"]),
    Formatter::new("autopep8", PYTHON)
        .writes_with(&["i", "in-place"])
        .reads_with(&["diff", "d"])
        .values("", &["max-line-length", "select", "ignore"]),
    Formatter::new("yapf", PYTHON).writes_with(&["i", "in-place"]).values("", &["style"]),
    Formatter::new("autoflake", PYTHON).writes_with(&["i", "in-place"]).values("", &["exclude", "imports"]),
    Formatter::new("pyupgrade", PYTHON),
    Formatter::new("clang-format", C)
        .writes_with(&["i"])
        .reads_with(&["dry-run", "n"])
        .values("", &["style", "assume-filename"]),
    Formatter::new("shfmt", SHELL).writes_with(&["w", "write"]).values("", &["ln", "i", "indent"]),
    Formatter::new("stylua", &[".lua"]).reads_with(&["check"]).values("fg", &["config-path", "glob"]),
    Formatter::new("dos2unix", &[]).reads_with(&["n", "newfile", "i", "info", "O"]),
    Formatter::new("unix2dos", &[]).reads_with(&["n", "newfile", "i", "info", "O"]),
    Formatter::new("deno", WEB).under(&["fmt"]).reads_with(&["check"]).default(Default::Directory),
    Formatter::new("terraform", &[".tf", ".tfvars"]).under(&["fmt"]).reads_with(&["check"]).default(Default::Directory),
    Formatter::new("rubocop", &[".rb"])
        .writes_with(&["a", "A", "autocorrect", "auto-correct", "autocorrect-all"])
        .default(Default::Directory),
    Formatter::new("standardrb", &[".rb"]).writes_with(&["fix"]).default(Default::Directory),
    Formatter::new("mix", &[".ex", ".exs"])
        .under(&["format"])
        .reads_with(&["check-formatted"])
        .default(Default::FolderWith("mix.exs")),
    Formatter::new("dart", &[".dart"]).under(&["format"]).reads_with(&["set-exit-if-changed"]).values("o", &["output"]),
    Formatter::new("swiftformat", &[".swift"]).reads_with(&["lint", "dryrun"]).values("", &["config", "rules"]),
    Formatter::new("nixfmt", &[".nix"]).reads_with(&["check", "c"]),
];

fn formatter(name: &str, arguments: &[Field]) -> Option<&'static Formatter> {
    let is_under = |words: &[&str]| {
        words.iter().zip(0..).all(|(word, n)| arguments.get::<usize>(n).and_then(Field::text) == Some(word))
    };
    FORMATTERS.iter().find(|formatter| formatter.name == name && is_under(formatter.subcommand))
}

/// Whether the program and its subcommand are a known formatter.
pub(super) fn is_formatter(run: &Run) -> bool {
    formatter(run.name, run.arguments).is_some()
}

/// Records the files that a formatter rewrites.
pub(super) fn format(run: &mut Run) -> StreamText {
    let Some(formatter) = formatter(run.name, run.arguments) else { return StreamText::Unknown };
    let arguments = &run.arguments[formatter.subcommand.len()..];
    let options = formatter.values.parse(arguments);
    let checks_behind = options.texts().any(|word| word == "--check");
    let is_asked = formatter.writes.is_empty()
        || options.has(formatter.writes)
        || options.has(&["w"]) && formatter.writes.contains(&"w");
    if !is_asked || options.has(formatter.reads) || checks_behind || options.has(&["help", "version", "h", "V"]) {
        return StreamText::Unknown;
    }
    note(run, formatter, &options);
    StreamText::Unknown
}

fn note(run: &mut Run, formatter: &Formatter, options: &Options) {
    if options.operands.is_empty() {
        let directory = run.directory();
        let folder = match formatter.default {
            Default::Nothing => None,
            Default::Directory => directory,
            Default::FolderWith(name) => directory.and_then(|directory| run.evaluator.folder_with(&directory, name)),
        };
        folder.iter().for_each(|folder| run.evaluator.maybe_write(folder, formatter.endings, Tracking::Any));
        return;
    }
    for operand in options.texts() {
        let operand = operand.strip_suffix("/...").unwrap_or(operand);
        if shell_wildcards::has_wildcards(operand) && !operand.contains('[') {
            note_pattern(run, formatter, operand);
        } else if run.is_folder(operand) {
            if let Some(folder) = run.evaluator.resolve(run.state, operand) {
                run.evaluator.maybe_write(&folder, formatter.endings, Tracking::Any);
            }
        } else if !operand.starts_with('-') && is_written(formatter, operand) {
            run.write(operand);
        }
    }
}

fn is_written(formatter: &Formatter, path: &str) -> bool {
    // An operand of `cargo` or `go` may be a package. An operand counts as a file only if it has a matching ending,
    // such as `.rs`.
    !matches!(formatter.name, "cargo" | "go") || formatter.endings.iter().any(|ending| path.ends_with(ending))
}

/// Records the files that match a pattern. The pattern is quoted, so the formatter expands it, not the shell.
fn note_pattern(run: &mut Run, formatter: &Formatter, pattern: &str) {
    if pattern.starts_with('!') {
        return;
    }
    let start = pattern.find(['*', '?', '{']).unwrap_or(pattern.len());
    let folder = pattern[..start].rfind('/').map_or(".", |at| &pattern[..at.max(1)]);
    let Some(folder) = run.evaluator.resolve(run.state, folder) else { return };
    // A pattern such as `**/*.ts` has one ending. A pattern such as `**/*.{ts,tsx}` has several.
    let name = pattern.rsplit('/').next().unwrap_or(pattern);
    let plain = name.strip_prefix('*').filter(|ending| ending.starts_with('.') && !ending.contains(['*', '?', '{']));
    match (plain, name.strip_prefix("*.{").and_then(|rest| rest.strip_suffix('}'))) {
        (Some(ending), _) => run.evaluator.maybe_write(&folder, &[ending], Tracking::Any),
        (None, Some(list)) => {
            let endings: Vec<String> = list.split(',').map(|ending| format!(".{ending}")).collect();
            let endings: Vec<&str> = endings.iter().map(String::as_str).collect();
            run.evaluator.maybe_write(&folder, &endings, Tracking::Any);
        }
        (None, None) => run.evaluator.maybe_write(&folder, formatter.endings, Tracking::Any),
    }
}
