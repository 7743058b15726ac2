//! Finds the files that a commit, a merge or a push changes, and checks whether other peers have locked them.

use super::hooks_dir::path_of;
use super::run_git;
use crate::base::error::{Error, ErrorKind};
use crate::base::limits;
use crate::cli::{actor_params, load_environment, render};
use crate::client::Client;
use crate::sys::{print_error, read_git_files, threads};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Maximum time to wait for each reply of the broker. If a reply takes longer, the commit passes.
const BUDGET: Duration = Duration::from_millis(500);
/// Maximum number of locks that a refusal lists.
const NAMED_MAX: usize = 10;
/// Maximum size of git's list of pushed refs, in bytes. A mirror of a large repository pushes several hundred thousand
/// refs, of about 150 bytes each.
const REFS_BYTES_MAX: u64 = 64 << 20;
/// The arguments with which git lists the files that a commit or a merge changes.
const STAGED: &[&str] = &["diff", "--cached", "--raw", "-z", "--no-renames"];
/// The file mode of a submodule in git's lists.
const SUBMODULE: &str = "160000";

/// Runs as a git hook. Returns 1 to refuse the commit. If anything fails, the commit passes.
pub fn check_locks(hook: &str) -> u8 {
    match conflicting_locks(hook) {
        Ok(locks) if !locks.is_empty() => {
            report_refusal(&locks);
            1
        }
        Ok(_) => 0,
        Err(error) => {
            print_error(&format!("slm-mesh: locks were not checked: {error}"));
            0
        }
    }
}

fn report_refusal(locks: &[Value]) {
    print_error("slm-mesh: another peer has locked these files:");
    for lock in locks.iter().take(NAMED_MAX) {
        let word = |name: &str| render::plain(lock[name].as_str().unwrap_or(""));
        let left = crate::base::time_format::span(lock["expiresInSeconds"].as_i64().unwrap_or(0) * 1000);
        let (file, holder, reason) = (word("filePath"), word("holder"), word("reason"));
        print_error(&format!("  {file} by {holder} ({left} left; {reason})"));
    }
    if locks.len() > NAMED_MAX {
        print_error(&format!("  and {} more", locks.len() - NAMED_MAX));
    }
    print_error(
        "Wait (slm-mesh lock FILE --wait 60), ask the holder (slm-mesh send NAME \"…\"), or bypass the check with \
         --no-verify.",
    );
}

/// Returns the locks that other peers hold on the files of a commit or a push.
fn conflicting_locks(hook: &str) -> Result<Vec<Value>, Error> {
    let top = path_of(run_git(Path::new("."), &["rev-parse", "--show-toplevel"])?);
    let list = if hook == "pre-push" { pushed_files()? } else { run_git(Path::new("."), STAGED)? };
    let root = top.to_string_lossy();
    let (files, submodules) = changed_files(&list, &root);
    if files.is_empty() && submodules.is_empty() {
        return Ok(Vec::new());
    }
    let (places, settings) = load_environment()?;
    let mut params = actor_params(&settings);
    params.insert("repo".into(), json!(read_git_files::facts(&top).repo));
    params.insert("gitRoot".into(), json!(root));
    let mut client = Client::connect_or_start_within(&places, Some(BUDGET))?;
    client.set_receive_timeout(Some(BUDGET)).map_err(|error| Error::new(ErrorKind::Gone, error.to_string()))?;
    let mut found = Vec::new();
    for part in files.chunks(limits::EDIT_FILES_MAX) {
        params.insert("files".into(), json!(part));
        found.extend(locks_of_others(&mut client, &params)?);
    }
    for part in submodules.chunks(limits::EDIT_FILES_MAX) {
        params.insert("files".into(), json!(part));
        // The commit changes only the version of the submodule, and no file inside it. So locks on files inside the
        // submodule do not matter.
        let is_inside = |lock: &Value| {
            let path = lock["filePath"].as_str().unwrap_or("");
            part.iter()
                .any(|at| path.strip_prefix(at.as_str()).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')))
        };
        found.extend(locks_of_others(&mut client, &params)?.into_iter().filter(|lock| !is_inside(lock)));
    }
    Ok(found)
}

/// Parses a list of changes that git printed with `--raw -z`, and returns the files and the submodules. Each change has
/// two entries. The first begins with colons and the file modes, and the second is the name.
fn changed_files(list: &[u8], root: &str) -> (Vec<String>, Vec<String>) {
    let (mut files, mut submodules) = (BTreeSet::new(), BTreeSet::new());
    let mut words = list.split(|byte| *byte == 0);
    while let Some(facts) = words.next() {
        // An empty entry follows the changes of each pushed ref.
        if facts.is_empty() {
            continue;
        }
        let facts = String::from_utf8_lossy(facts);
        let modes = facts.trim_start_matches(':');
        let n_modes = facts.len() - modes.len() + 1;
        let mut modes = modes.split(' ').take(n_modes).filter(|mode| *mode != "000000").peekable();
        let is_submodule = modes.peek().is_some() && modes.all(|mode| mode == SUBMODULE);
        // The name is not trimmed, because it may be blank or begin with a line break. A name that is not UTF-8 is
        // converted in the same way as when the file was locked.
        let name = words.next().unwrap_or_default();
        let found = if is_submodule { &mut submodules } else { &mut files };
        found.insert(format!("{root}/{}", String::from_utf8_lossy(name)));
    }
    (files.into_iter().collect(), submodules.into_iter().collect())
}

/// Returns the locks that stop the commit or push. If several sessions could be the caller, the locks of these sessions
/// do not count. If nothing shows who the caller is, all locks count.
fn locks_of_others(client: &mut Client, params: &Map<String, Value>) -> Result<Vec<Value>, Error> {
    let mut check = |params: &Map<String, Value>| {
        let value = client.call("lock.check", &Value::Object(params.clone()))?;
        Ok::<_, Error>(value["locks"].as_array().cloned().unwrap_or_default())
    };
    let is_doubt = |kind| matches!(kind, ErrorKind::Ambiguous | ErrorKind::Refused | ErrorKind::NotFound);
    let error = match check(params) {
        Err(error) if is_doubt(error.kind) => error,
        result => return result,
    };
    let candidates: Vec<Value> =
        error.data.as_ref().and_then(|data| data["candidates"].as_array()).cloned().unwrap_or_default();
    let mut params = params.clone();
    params.extend([("as".to_owned(), json!("human")), ("unknownCaller".to_owned(), json!(true))]);
    let locks = check(&params)?.into_iter();
    Ok(locks.filter(|lock| !candidates.contains(&lock["lockedBy"])).collect())
}

/// Returns the files that a push changes. Git passes one line per ref to the hook: `local-ref local-id remote-ref
/// remote-id`.
fn pushed_files() -> Result<Vec<u8>, Error> {
    let mut text = Vec::new();
    let failed = |why: &str| Error::new(ErrorKind::Usage, format!("the list of pushed refs {why}"));
    match std::io::stdin().lock().take(REFS_BYTES_MAX + 1).read_to_end(&mut text) {
        Ok(n) if n as u64 <= REFS_BYTES_MAX => {}
        Ok(_) => return Err(failed("is longer than 64 MiB")),
        Err(error) => return Err(failed(&format!("cannot be read ({error})"))),
    }
    let mut files = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, remote] = words[..] else { continue };
        let is_nothing = |id: &str| id.bytes().all(|byte| byte == b'0');
        if is_nothing(local) {
            continue;
        }
        let range = format!("{remote}..{local}");
        let changed = ["diff", "--raw", "-z", "--no-renames", &range];
        // If the remote ref is new, or this clone lacks the commit of that ref, git can't compare the remote commit
        // with the local one. In this case, all new commits are checked.
        let known = if is_nothing(remote) { None } else { run_git(Path::new("."), &changed).ok() };
        files.extend(known.map_or_else(|| files_of_new_commits(local), Ok)?);
        files.push(0);
    }
    Ok(files)
}

/// Returns the files that the new commits change. A commit is new if no remote has it yet.
fn files_of_new_commits(local: &str) -> Result<Vec<u8>, Error> {
    let commits = run_git(Path::new("."), &["rev-list", local, "--not", "--remotes"])?;
    let failed = |error: std::io::Error| Error::new(ErrorKind::Usage, format!("cannot run git diff-tree ({error})"));
    // This runs `git diff-tree`, because `git log` separates names with line breaks, and a name may begin with a line
    // break.
    let mut git = Command::new("git");
    git.args(["diff-tree", "--stdin", "-r", "-c", "--root", "--no-commit-id", "--raw", "-z", "--no-renames"]);
    let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let input = git.stdin.take();
    let writing = threads::spawn("run git diff-tree", move || input.map(|mut input| input.write_all(&commits)));
    let writing = writing.inspect_err(|_| {
        // If killing git fails, git still ends by itself, because its input is closed.
        let _ = git.kill().and_then(|()| git.wait());
    })?;
    let out = git.wait_with_output().map_err(failed)?;
    // If the write fails, the exit status of git shows the failure.
    let _ = writing.join();
    if out.status.success() { Ok(out.stdout) } else { Err(Error::new(ErrorKind::Usage, "git diff-tree failed")) }
}
