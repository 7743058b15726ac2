//! `slm-mesh setup`: registers us with the agents, hangs our hooks where they listen, and takes all
//! of it out again.
//!
//! **Invariant:** what can't be changed for certain is left as it is, with what to paste; nothing is
//! written when nothing changes, and nothing at all in a dry run.

use super::config_entries::{self, Want, quoted};
use super::configs::{Row, Server, Verbs};
use super::environment::{Ground, on_path};
use super::{generated_files, safe_write};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What an agent's own command may take.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// What happened to one thing of an agent's.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// The thing: registration, hooks, commands.
    pub what: &'static str,
    /// The file or the command.
    pub place: String,
    /// What was done with it.
    pub done: &'static str,
    /// Why it was left alone.
    pub why: String,
    /// What the user can paste, or run.
    pub paste: String,
    /// The lines that change, in a dry run.
    pub change: String,
}

/// Nothing had to be done.
pub const SAME: &str = "as it was";
/// Nothing could be done; the user has to.
pub const LEFT: &str = "left alone";

impl Step {
    fn new(what: &'static str, place: String, done: &'static str) -> Step {
        Step { what, place, done, ..Step::default() }
    }

    fn left(what: &'static str, place: String, why: String, paste: String) -> Step {
        Step { what, place, done: LEFT, why, paste, change: String::new() }
    }

    /// Whether the user has to do something himself.
    pub fn is_open(&self) -> bool {
        self.done == LEFT
    }

    /// The step for a program.
    pub fn to_value(&self) -> Value {
        let mut value = json!({ "what": self.what, "place": self.place, "done": self.done });
        for (name, text) in [("why", &self.why), ("paste", &self.paste), ("change", &self.change)] {
            if !text.is_empty() {
                value[name] = json!(text);
            }
        }
        value
    }
}

/// Sets an agent up.
pub fn put(ground: &Ground, row: &Row) -> Vec<Step> {
    let scope = ground.scope(row);
    let mut steps = Vec::new();
    if let Some((path, kind)) = scope.own {
        let target = ground.path(row, path);
        steps.push(put_own(ground, "own file", &target, &generated_files::text(kind, &ground.program)));
    }
    let by_command =
        scope.server.zip(scope.command).and_then(|(server, verbs)| by_command(ground, row, &server, &verbs));
    let is_done = by_command.as_ref().is_some_and(|step| !step.is_open());
    let writes = scope.server.is_some_and(|server| server.ours_to_write);
    // A command that did not work is made up for by its file, where that is ours to write.
    steps.extend(by_command.filter(|_| is_done || !writes));
    if let Some(server) = scope.server.filter(|server| !server.ours_to_write && !is_done && steps.is_empty()) {
        let paste = scope.command.map(|verbs| line(&verbs, ground, &server)).unwrap_or_default();
        let why =
            "it is not edited by hand, since a running session rewrites it, and its command is not on PATH".into();
        steps.push(Step::left("server", ground.shown(&ground.path(row, server.path)), why, paste));
    }
    for (path, server, hooks) in ground.files(row, !is_done) {
        let program = server.map_or_else(|| ground.program.clone(), |server| ground.target(row, &server));
        let want = Want { agent: row.name, program: &program, server, hooks, wake: ground.may_wake(row) };
        steps.push(put_file(ground, &path, &want));
    }
    if let Some(skills) = scope.skills {
        let each = generated_files::skills(&skills).into_iter();
        let all: Vec<Step> =
            each.map(|(path, text)| put_own(ground, "commands", &ground.path(row, &path), &text)).collect();
        steps.extend(gathered(all));
    }
    steps
}

/// Takes everything of ours out of an agent's settings.
pub fn take(ground: &Ground, row: &Row) -> Vec<Step> {
    let scope = ground.scope(row);
    let mut steps = Vec::new();
    let mut is_done = false;
    if let Some((server, verbs)) = scope.server.zip(scope.command) {
        let is_ours = ground.registered(row, &server).is_some_and(|program| generated_files::is_us(&program));
        let by_hand = format!("{} {}", verbs.program, verbs.remove.join(" "));
        if is_ours && !verbs.remove.is_empty() && on_path(verbs.program).is_some() {
            let done = if ground.dry { Ok("would run") } else { run(verbs.program, verbs.remove).map(|()| "ran") };
            is_done = done.is_ok();
            match done {
                Ok(done) => steps.push(Step::new("server", by_hand, done)),
                // Its file makes up for a command that did not work.
                Err(_) if server.ours_to_write => {}
                Err(why) => steps.push(Step::left("server", by_hand.clone(), why, by_hand)),
            }
        } else if is_ours && !server.ours_to_write {
            let why = format!("{} is not on PATH, and its file is not edited by hand", verbs.program);
            steps.push(Step::left("server", ground.shown(&ground.path(row, server.path)), why, by_hand));
        }
    }
    for (path, server, hooks) in ground.files(row, !is_done) {
        let program = server.map_or_else(|| ground.program.clone(), |server| ground.target(row, &server));
        let want = Want { agent: row.name, program: &program, server, hooks, wake: ground.may_wake(row) };
        steps.push(take_file(ground, row, &path, &want));
    }
    let plugin = scope.own.map(|(path, _)| path.to_owned());
    let commands =
        scope.skills.iter().flat_map(|skills| generated_files::skills(skills).into_iter().map(|(path, _)| path));
    let all: Vec<Step> =
        plugin.into_iter().chain(commands).map(|path| take_own(ground, row, &ground.path(row, &path))).collect();
    steps.extend(gathered(all));
    steps
}

/// Registers through the agent's own command; `None` where that is not on PATH.
fn by_command(ground: &Ground, row: &Row, server: &Server, verbs: &Verbs) -> Option<Step> {
    on_path(verbs.program)?;
    let line = line(verbs, ground, server);
    let old = ground.registered(row, server);
    if old.as_deref() == Some(&ground.program) {
        return Some(Step::new("server", ground.shown(&ground.path(row, server.path)), SAME));
    }
    if ground.dry {
        return Some(Step::new("server", line, "would run"));
    }
    if old.is_some() && !verbs.remove.is_empty() {
        // An entry that can't be taken out makes the next command fail, which is told.
        let _ = run(verbs.program, verbs.remove);
    }
    let args = arguments(verbs, ground, server);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Some(match run(verbs.program, &args) {
        Ok(()) => Step::new("server", line, "ran"),
        Err(why) => Step::left("server", line.clone(), why, line),
    })
}

fn arguments(verbs: &Verbs, ground: &Ground, server: &Server) -> Vec<String> {
    let want = Want { agent: "", program: &ground.program, server: None, hooks: None, wake: false };
    let mut entry = json!({ "name": generated_files::NAME });
    for (key, value) in want.entry(server.form).as_object().into_iter().flatten() {
        entry[key] = value.clone();
    }
    let fill = |word: &&str| word.replace("{program}", &ground.program).replace("{json}", &entry.to_string());
    verbs.add.iter().map(fill).collect()
}

fn line(verbs: &Verbs, ground: &Ground, server: &Server) -> String {
    let words: Vec<String> = arguments(verbs, ground, server).iter().map(|word| quoted(word)).collect();
    format!("{} {}", verbs.program, words.join(" "))
}

/// Runs an agent's command; its own words when it fails.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{program} can't be run ({error})"))?;
    let began = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if began.elapsed() > COMMAND_MAX {
            // It is ours; one that has just ended needs no end.
            let _ = child.kill();
            return Err(format!("{program} did not end in {} s", COMMAND_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = child.wait_with_output().map_err(|error| error.to_string())?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim();
    Err(format!("{program} said no: {}", last.chars().take(200).collect::<String>()))
}

/// What a file of an agent's holds of ours.
fn kind_of(want: &Want) -> &'static str {
    match (want.server.is_some(), want.hooks.is_some()) {
        (true, true) => "server, hooks",
        (true, false) => "server",
        _ => "hooks",
    }
}

fn put_file(ground: &Ground, path: &Path, want: &Want) -> Step {
    let (what, place) = (kind_of(want), ground.shown(path));
    let changed = (|| {
        let old = safe_write::read(path)?;
        let new = want.apply(old.as_deref().unwrap_or(""))?;
        if old.as_deref() == Some(&new) {
            return Ok(Step::new(what, place.clone(), SAME));
        }
        let change = changes(old.as_deref().unwrap_or(""), &new);
        if ground.dry {
            return Ok(Step { change, ..Step::new(what, place.clone(), "would write") });
        }
        safe_write::may_write(path)?;
        if let Some(old) = &old
            && (want.strip(old, None).is_ok_and(|bare| bare == *old) || !safe_write::before(path).exists())
        {
            safe_write::keep(path, old)?;
        }
        safe_write::write(path, &new)?;
        Ok(Step::new(what, place.clone(), "written"))
    })();
    changed.unwrap_or_else(|why: String| Step::left(what, place, why, want.alone()))
}

fn take_file(ground: &Ground, row: &Row, path: &Path, want: &Want) -> Step {
    let (what, place) = (kind_of(want), ground.shown(path));
    let kept = safe_write::before(path);
    let changed = (|| {
        let Some(text) = safe_write::read(path)? else { return Ok(Step::new(what, place.clone(), SAME)) };
        let before = safe_write::read(&kept)?;
        let shape = before.as_deref().and_then(|text| config_entries::parse(text).ok());
        // A text of before that was empty had no members either.
        let shape = shape.or(before.as_ref().map(|_| Value::Null));
        let bare = want.strip(&text, shape.as_ref())?;
        if bare == text {
            return Ok(Step::new(what, place.clone(), SAME));
        }
        let is_clean = |before: &String| want.strip(before, None).is_ok_and(|bare| bare == *before);
        let is_untouched = |before: &String| want.apply(before).is_ok_and(|new| new == text);
        let restored = before.clone().filter(|before| is_clean(before) && is_untouched(before));
        let new = restored.unwrap_or(bare);
        let is_gone = before.is_none() && want.is_frame(&new);
        if ground.dry {
            let done = if is_gone { "would delete" } else { "would write" };
            return Ok(Step { change: changes(&text, &new), ..Step::new(what, place.clone(), done) });
        }
        safe_write::may_write(path)?;
        if is_gone {
            safe_write::remove(path, &base(ground, row))?;
            return Ok(Step::new(what, place.clone(), "deleted"));
        }
        safe_write::write(path, &new)?;
        // What was changed since is in the file; the text of before has done its work.
        if before.is_some() {
            safe_write::remove(&kept, &base(ground, row))?;
        }
        Ok(Step::new(what, place.clone(), "taken out"))
    })();
    changed.unwrap_or_else(|why: String| {
        let is_named = safe_write::read(path).ok().flatten().is_some_and(|text| text.contains(generated_files::NAME));
        if is_named { Step::left(what, place, why, String::new()) } else { Step::new(what, ground.shown(path), SAME) }
    })
}

/// The directory above which no empty folder is removed.
fn base(ground: &Ground, row: &Row) -> std::path::PathBuf {
    if ground.project { ground.here.clone() } else { ground.root(row) }
}

fn put_own(ground: &Ground, what: &'static str, path: &Path, text: &str) -> Step {
    let place = ground.shown(path);
    let changed = (|| match safe_write::read(path)? {
        Some(old) if old == text => Ok(Step::new(what, place.clone(), SAME)),
        Some(old) if !old.contains(generated_files::MARK) => {
            Err("there is a file of that name, and it is not ours".into())
        }
        _ if ground.dry => Ok(Step::new(what, place.clone(), "would write")),
        _ => safe_write::write(path, text).map(|()| Step::new(what, place.clone(), "written")),
    })();
    changed.unwrap_or_else(|why: String| Step::left(what, place, why, String::new()))
}

fn take_own(ground: &Ground, row: &Row, path: &Path) -> Step {
    let place = ground.shown(path);
    let is_ours = safe_write::read(path).ok().flatten().is_some_and(|text| text.contains(generated_files::MARK));
    if !is_ours {
        return Step::new("commands", place, SAME);
    }
    if ground.dry {
        return Step::new("commands", place, "would delete");
    }
    match safe_write::remove(path, &base(ground, row)) {
        Ok(()) => Step::new("commands", place, "deleted"),
        Err(why) => Step::left("commands", place, why, String::new()),
    }
}

/// Steps of one kind that went the same way, as one.
fn gathered(steps: Vec<Step>) -> Vec<Step> {
    let mut found: Vec<Step> = Vec::new();
    for step in steps {
        match found.iter_mut().find(|known| (known.done, &known.why) == (step.done, &step.why)) {
            Some(known) => known.place = format!("{}, {}", known.place, step.place),
            None => found.push(step),
        }
    }
    found
}

/// The lines that differ: those between what both texts begin with and what both end with.
fn changes(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let gone = old[head..old.len() - tail].iter().map(|line| format!("- {line}"));
    let come = new[head..new.len() - tail].iter().map(|line| format!("+ {line}"));
    gone.chain(come).collect::<Vec<_>>().join("\n")
}
