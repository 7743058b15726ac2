//! `lock restore FILE`: shows what a command changed in a locked file, and undoes the change.

use super::{load_environment, print_line, render};
use crate::agents::held_files::HeldFiles;
use crate::agents::held_files::undo_overwrite::RestorePoint;
use crate::base::error::{Error, ErrorKind};
use crate::base::shell_wildcards::shell_quoted;
use crate::base::untrusted_text;
use crate::sys::path_normalization;
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Write};

/// The options of `lock restore`.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The file.
    pub file: String,
    /// Whether to restore the content without asking.
    pub yes: bool,
    /// Whether to replace the file even if it was changed again after the command had ended.
    pub force: bool,
}

/// Shows what the command changed, and undoes the change if the user agrees.
pub fn restore_file(options: &RestoreOptions, json: bool) -> Result<u8, Error> {
    let (places, _) = load_environment()?;
    let held = HeldFiles::new(&places);
    let (path, point) = restore_point(&held, &options.file)?;
    let difference = held.difference(&point);
    let may_ask = !json && io::stdin().is_terminal() && io::stdout().is_terminal();
    if !json {
        print_line(&point.summary(crate::sys::wall_ms()))?;
        print_line(if difference.is_empty() {
            "The file already has the content that would be restored."
        } else {
            &difference
        })?;
    }
    let is_wanted = options.yes || may_ask && ask(&point)?;
    if is_wanted {
        held.put_back(&point, options.force)?;
    }
    if json {
        let answer = json!({ "ok": true, "file": path, "restored": is_wanted, "difference": difference });
        return print_line(&render::json_line(&answer));
    }
    let file = render::relative(&path);
    // Without `./`, a name that begins with a dash would look like an option.
    let word = shell_quoted(&if file.starts_with('-') { format!("./{file}") } else { file });
    let command = render::plain(&format!("slm-mesh lock restore {word} --yes"));
    print_line(&match is_wanted {
        true => {
            format!("Restored {}; to undo this, run {command}", untrusted_text::shown_path(&render::relative(&path)))
        }
        false => format!("The previous content was not restored; to restore it, run {command}"),
    })
}

/// Returns the path of the file, and the change that can be undone. If a command has replaced the file with a link, the
/// change is recorded under the path of the link. So this path is tried before the link's target.
fn restore_point(held: &HeldFiles, file: &str) -> Result<(String, RestorePoint), Error> {
    let path = path_normalization::absolute(file)?;
    let unresolved = path_normalization::absolute_link(file);
    match held.restore_point(&unresolved) {
        Err(error) if error.kind == ErrorKind::NotFound => held.restore_point(&path).map(|point| (path, point)),
        point => point.map(|point| (unresolved, point)),
    }
}

/// Asks the user for confirmation on the terminal.
fn ask(point: &RestorePoint) -> Result<bool, Error> {
    let cannot = |error: io::Error| {
        Error::new(ErrorKind::Storage, format!("the question could not be shown on the terminal ({error})"))
    };
    let question = if point.removes() {
        "The file did not exist before. Remove it? [y/N] "
    } else {
        "Restore the previous content? [y/N] "
    };
    let mut out = io::stdout().lock();
    out.write_all(question.as_bytes()).and_then(|()| out.flush()).map_err(cannot)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(cannot)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
