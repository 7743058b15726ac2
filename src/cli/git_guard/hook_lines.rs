//! The shell lines that the guard adds to a git hook, and the search for these lines in a hook.

use std::path::PathBuf;

/// The first line that the guard adds to a hook.
pub const BEGIN: &str =
    "# slm-mesh guard: refuses what another agent has locked; slm-mesh guard remove takes these lines out.";
const END: &str = "# end of slm-mesh guard";
/// The first line of the guard's own script.
const FIRST: &str = "#!/bin/sh\n";
/// The suffix of the copy of an earlier hook. This is also the name of the directory with links to moved hooks.
pub const BEFORE: &str = "before-slm-mesh";
/// The two possible paths of the directory with links to moved hooks, relative to the hooks directory. The first path
/// is beside the hooks directory, and the second is inside it.
pub const ASIDES: [&str; 2] = ["../before-slm-mesh", "before-slm-mesh"];
/// Shells that can run the guard's lines.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh"];

/// How the guard's lines find this program.
pub enum Program {
    /// The guard's lines contain the path of this program on the machine.
    Here(PathBuf),
    /// The guard's lines contain only the name of this program, because the hook is also used on other machines.
    InPath,
}

/// Returns the lines that check for locks. The lines do not change the hook's name, its arguments or its standard
/// input.
pub fn check_lines(program: &Program, hook: &str) -> String {
    let (is_missing, program) = match program {
        Program::Here(path) => {
            let quoted = format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
            (format!("[ ! -x {quoted} ]"), quoted)
        }
        Program::InPath => ("! command -v slm-mesh >/dev/null 2>&1".into(), "slm-mesh".into()),
    };
    let check = format!("{program} guard check {hook} \"$@\"");
    let lines = if hook == "pre-push" {
        // Git passes the refs of a push on standard input, which both the guard and the hook must read.
        format!(
            "slm_mesh_refs=$(cat)\nif [ -n \"$slm_mesh_refs\" ]; then\n    \
             {is_missing} || printf '%s\\n' \"$slm_mesh_refs\" | {check} || exit 1\n    \
             exec <<SLM_MESH_REFS\n$slm_mesh_refs\nSLM_MESH_REFS\nfi\n"
        )
    } else {
        format!("{is_missing} || {check} || exit 1\n")
    };
    format!("{BEGIN}\n{lines}{END}\n")
}

/// Returns the guard's own script: it checks for locks, and then runs the hook that was moved aside, if there is one.
pub fn script(check_lines: &str, aside: &str, hook: &str) -> String {
    format!("{FIRST}{check_lines}{}", moved_hook_call(aside, hook))
}

/// Returns the lines that run the hook that was moved aside. The returned lines end the script only if that hook fails,
/// because lines that the user appends to the script must run after the hook.
fn moved_hook_call(aside: &str, hook: &str) -> String {
    format!("before=\"${{0%/*}}/{aside}/{hook}\"\nif [ -x \"$before\" ]; then \"$before\" \"$@\" || exit; fi\n")
}

/// Returns all forms of the lines that run the moved hook. Each version of the guard has written one of these forms.
fn known_calls(hook: &str) -> Vec<String> {
    let earlier =
        |before: &str| format!("before=\"{before}\"\n[ -x \"$before\" ] || exit 0\nexec \"$before\" \"$@\"\n");
    let now = ASIDES.iter().map(|aside| moved_hook_call(aside, hook));
    let linked = ASIDES.iter().map(|aside| earlier(&format!("${{0%/*}}/{aside}/{hook}")));
    now.chain(linked).chain([earlier(&format!("$0.{BEFORE}"))]).collect()
}

/// Returns a hook without the lines that check for locks, or `None` if the hook does not contain them.
pub fn without_check(text: &[u8]) -> Option<Vec<u8>> {
    let start = find_bytes(text, BEGIN.as_bytes())?;
    let last = format!("{END}\n");
    let length = find_bytes(&text[start..], last.as_bytes())? + last.len();
    Some([&text[..start], &text[start + length..]].concat())
}

/// Whether a hook is the guard's own script, and contains no line of the user. `bare` is the text of the hook without
/// the lines that check for locks.
pub fn is_own_script(bare: &[u8], hook: &str) -> bool {
    bare.strip_prefix(FIRST.as_bytes()).is_some_and(|rest| known_calls(hook).iter().any(|call| rest == call.as_bytes()))
}

/// Whether this hook runs the hook that was moved aside. If it does, it is the guard's own script, to which the user
/// may have added lines.
pub fn runs_moved_hook(text: &[u8], hook: &str) -> bool {
    find_bytes(text, format!("{BEFORE}/{hook}\"").as_bytes()).is_some() || runs_hook_beside(text)
}

/// Whether this is the script of an early version of the guard. Such a script runs the moved hook directly, not through
/// a link.
pub fn runs_hook_beside(text: &[u8]) -> bool {
    find_bytes(text, format!("$0.{BEFORE}\"").as_bytes()).is_some()
}

/// Updates the lines that run the moved hook. The lines of earlier versions of the guard always ended the script, so no
/// later line could run.
pub fn with_current_call(text: &[u8], aside: &str, hook: &str) -> Vec<u8> {
    replace_call(text, hook, &moved_hook_call(aside, hook))
}

/// Removes the lines that run the moved hook.
pub fn without_call(text: &[u8], hook: &str) -> Vec<u8> {
    replace_call(text, hook, "")
}

fn replace_call(text: &[u8], hook: &str, new: &str) -> Vec<u8> {
    let found = known_calls(hook).into_iter().find_map(|call| Some((find_bytes(text, call.as_bytes())?, call.len())));
    found.map_or_else(|| text.to_vec(), |(at, length)| [&text[..at], new.as_bytes(), &text[at + length..]].concat())
}

/// Returns the end of the first line, if this line says that the hook is a shell script.
pub fn end_of_shell_line(text: &[u8]) -> Option<usize> {
    let end = text.iter().position(|byte| *byte == b'\n')? + 1;
    let first = std::str::from_utf8(&text[..end]).ok()?.strip_prefix("#!")?;
    first.split(['/', ' ', '\n']).any(|word| SHELLS.contains(&word)).then_some(end)
}

/// Whether a shell script runs itself again with `exec`. Lines at its beginning would then run twice.
pub fn runs_itself_again(text: &[u8]) -> bool {
    let rereads = |line: &[u8]| find_bytes(line, b"exec").is_some() && find_bytes(line, b"$0").is_some();
    text.split(|byte| *byte == b'\n').any(rereads)
}

/// Returns the position of some bytes in a text.
pub fn find_bytes(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}
