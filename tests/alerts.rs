//! Tests that alerts reach a person who is not looking at slm-mesh. Alerts are shown as desktop notifications, or
//! passed to the person's own command. A command that hangs, dies or is missing must not delay anything else.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Place, lives, put_program, until};

/// Returns a mesh that runs this script for each alert, and the folder for the script's files. The script finds this
/// folder in `$OUT`.
fn place_with(script: &str, arguments: &str) -> (Place, PathBuf) {
    let place = Place::new();
    let out = place.root.join("out");
    std::fs::create_dir(&out).unwrap();
    let program = place.root.join("tell-me");
    put_program(&program, format!("#!/bin/sh\nOUT='{}'\n{script}\n", out.display()).as_bytes());
    let setting = format!("{} {arguments}", program.display());
    (place.with("SLM_MESH_NOTIFY", setting.trim_end()), out)
}

/// Waits until a file exists, and returns its content.
fn told(path: &Path) -> String {
    until(&format!("{} is written", path.display()), || path.exists());
    std::fs::read_to_string(path).unwrap()
}

fn told_json(path: &Path) -> Value {
    serde_json::from_str(&told(path)).unwrap()
}

/// A script that writes its input to a new file in each run (`1`, `2` and so on). The file `words` contains the
/// arguments of the last run.
const KEEP: &str = r#"n=1; while [ -e "$OUT/$n" ]; do n=$((n + 1)); done
for word in "$@"; do printf '%s\n' "$word"; done > "$OUT/words"
cat > "$OUT/part"; mv "$OUT/part" "$OUT/$n""#;

fn alert(place: &Place, text: &str) {
    place.ok(&["send", "human", "--type", "alert", "--", text]);
}

#[test]
fn a_persons_command_gets_the_alert_and_its_words_reach_no_shell() {
    let (place, out) = place_with(KEEP, "--to phone  ;touch");
    let words = "$(touch owned) `touch owned`; touch owned\n--help \"quoted\" \\ é";
    let mut claude = place.session("claude-code", "api");
    claude.tool("mesh_send", json!({ "to": "human", "message": "only a message" }));
    claude.tool("mesh_send", json!({ "to": "human", "message": words, "type": "alert" }));
    let alert = told_json(&out.join("1"));
    assert_eq!((&alert["payload"], &alert["fromName"]), (&json!(words), &json!("claude-api")));
    assert_eq!((&alert["type"], &alert["others"], &alert["more"]), (&json!("alert"), &json!([]), &json!(0)));
    assert_eq!(told(&out.join("words")), "--to\nphone\n;touch\n", "its arguments are the user's own");
    assert!(!place.root.join("owned").exists() && !Path::new("/owned").exists());
    // The notification does not mark the alert as read.
    assert_eq!(place.json(&["inbox", "--as", "human"])["messages"][1]["id"], alert["id"]);
}

/// Runs Claude Code's hook for an agent that waits for its user. The hook runs twice, because both a plugin and
/// `slm-mesh setup` may have installed it.
fn waits(place: &Place) {
    let hooks = [start_waiting(place), start_waiting(place)];
    for hook in hooks {
        let out = hook.wait_with_output().unwrap();
        assert!(out.status.success() && out.stdout.is_empty(), "{out:?}");
    }
}

fn start_waiting(place: &Place) -> Child {
    let input = json!({ "session_id": "s", "hook_event_name": "Notification", "notification_type": "permission_prompt",
        "message": "Claude needs your permission to use Bash $(touch owned)", "cwd": place.root });
    let mut hook = place.command(&["hook", "claude"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    hook.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    hook
}

#[test]
fn an_agent_that_waits_for_its_user_raises_an_alert_if_the_user_wants_any() {
    let (place, out) = place_with(KEEP, "");
    place.ok(&["start", "--detach"]);
    waits(&place);
    let alert = told_json(&out.join("1"));
    let text = "waits for you: Claude needs your permission to use Bash $(touch owned)";
    assert_eq!((&alert["payload"], &alert["type"]), (&json!(text), &json!("alert")));
    assert!(alert["fromName"].as_str().unwrap().starts_with("claude"), "{alert}");
    assert_eq!(
        place.json(&["inbox", "--as", "human"])["messages"].as_array().unwrap().len(),
        1,
        "both hooks tell once"
    );
    assert!(!place.root.join("owned").exists());
    let quiet = Place::new();
    quiet.ok(&["start", "--detach"]);
    waits(&quiet);
    assert_eq!(quiet.json(&["inbox", "--as", "human"])["messages"], json!([]));
}

#[test]
fn alerts_that_were_read_are_not_raised_and_the_others_come_together() {
    let (place, out) = place_with(KEEP, "");
    alert(&place, "before");
    told(&out.join("1"));
    // For the next five seconds, the broker notifies nobody. On a busy machine, verbs (subcommands) could take longer
    // than five seconds. So the next calls use the socket.
    let mut socket = place.socket();
    let text = json!({ "as": "human", "to": "human", "message": "read at once", "type": "alert" });
    let ids: Vec<Value> = (0..20).map(|_| socket.call("send", text.clone())["result"]["messageId"].clone()).collect();
    let read = json!({ "as": "human", "items": ids });
    assert_eq!(socket.call("inbox.mark_read", read)["result"]["ok"], json!(true), "{ids:?}");
    for n in 0..25 {
        alert(&place, &format!("alert {n}"));
    }
    let first = told_json(&out.join("2"));
    let others = first["others"].as_array().unwrap();
    let texts: Vec<&str> = std::iter::once(&first).chain(others).map(|row| row["payload"].as_str().unwrap()).collect();
    assert!(texts.iter().enumerate().all(|(n, text)| *text == format!("alert {n}")), "{texts:?}");
    // On a slow machine, some of the alerts come in the second notification.
    let n_first = texts.len() as i64 + first["more"].as_i64().unwrap();
    assert!(n_first <= 25 && texts.len() <= 20, "{first}");
    if n_first < 25 {
        assert!(told_json(&out.join("3"))["payload"].as_str().unwrap().starts_with("alert "));
    }
}

#[test]
fn the_next_broker_notifies_of_what_its_predecessor_could_not() {
    let (mut place, out) = place_with(KEEP, "");
    alert(&place, "shown");
    told(&out.join("1"));
    let saved = place.dir.join("broker.alerts");
    until("the broker has saved what it has shown", || std::fs::read_to_string(&saved).is_ok_and(|text| text == "1\n"));
    // For five seconds after a notification, the broker only collects alerts.
    let pid = place.broker_pid().unwrap();
    alert(&place, "late");
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    until("the broker has ended", || !lives(pid));
    place.ok(&["start", "--detach"]);
    let told = told_json(&out.join("2"));
    assert_eq!((&told["payload"], &told["others"], &told["more"]), (&json!("late"), &json!([]), &json!(0)));
    // On a slow machine, both brokers may have shown the alert.
    until("the broker has saved what it has shown", || std::fs::read_to_string(&saved).is_ok_and(|text| text != "1\n"));
    let n_told = (1..).take_while(|n| out.join(n.to_string()).exists()).count();

    let setting = place.env.iter().position(|(name, _)| name == "SLM_MESH_NOTIFY").unwrap();
    let setting = place.env.remove(setting);
    place.ok(&["start", "--detach"]);
    alert(&place, "while notifications were off");
    place.env.push(setting);
    place.ok(&["start", "--detach"]);
    alert(&place, "on again");
    let told = told_json(&out.join((n_told + 1).to_string()));
    assert_eq!((&told["payload"], &told["others"]), (&json!("on again"), &json!([])));

    // The saved number is now higher than the number of any message. Such a number comes from another database, so the
    // broker ignores it.
    place.ok(&["stop"]);
    std::fs::write(&saved, i64::MAX.to_string()).unwrap();
    alert(&place, "after a restore");
    assert_eq!(told_json(&out.join((n_told + 2).to_string()))["payload"], json!("after a restore"));
}

#[test]
fn the_desktop_shows_an_alert() {
    let place = Place::new();
    let bin = place.root.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let shown = place.root.join("shown");
    let program = if cfg!(target_os = "macos") { "osascript" } else { "notify-send" };
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do printf '%s\\n' \"$word\"; done > '{0}.part'; mv '{0}.part' '{0}'\n",
        shown.display()
    );
    put_program(&bin.join(program), script.as_bytes());
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let place = place.with("SLM_MESH_NOTIFY", "desktop").with("PATH", &path);
    alert(&place, "-x <b>may I deploy?</b>");
    let said = told(&shown);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[lines.len() - 2].starts_with("Alert from "), "{said}");
    let text = if cfg!(target_os = "macos") { "<b>may I deploy?</b>" } else { "&lt;b&gt;may I deploy?&lt;/b&gt;" };
    assert_eq!(*lines.last().unwrap(), format!("slm-mesh: \"-x {text}\""));
}

#[test]
fn a_command_that_hangs_holds_nobody_up_and_is_ended() {
    let (place, out) = place_with("echo $$ > \"$OUT/pid.part\"; mv \"$OUT/pid.part\" \"$OUT/pid\"; sleep 600", "");
    // These two alerts do not fit into a pipe together, and the command never reads them.
    alert(&place, &"x".repeat(60_000));
    alert(&place, &"y".repeat(60_000));
    let pid: u32 = told(&out.join("pid")).trim().parse().unwrap();
    for _ in 0..20 {
        let began = Instant::now();
        place.ok(&["state", "set", "key", "value"]);
        assert!(began.elapsed() < Duration::from_secs(5), "a verb waited {:?}", began.elapsed());
    }
    until("it was ended", || !lives(pid));
    until("the log says so", || place.log().contains("did not finish within 10 s"));
}

#[test]
fn a_broker_that_stops_leaves_no_command_behind() {
    let (place, out) = place_with("echo $$ > \"$OUT/pid.part\"; mv \"$OUT/pid.part\" \"$OUT/pid\"; sleep 600", "");
    alert(&place, "stop");
    let pid: u32 = told(&out.join("pid")).trim().parse().unwrap();
    place.ok(&["stop"]);
    until("the command has ended", || !lives(pid));
}

#[test]
fn a_command_that_dies_or_is_missing_is_logged_once() {
    let (place, out) = place_with(&format!("{KEEP}\nkill -9 $$"), "");
    alert(&place, "one");
    told(&out.join("1"));
    alert(&place, "two");
    told(&out.join("2"));
    until("the log says so", || place.log().contains("signal: 9"));
    assert_eq!(place.log().matches("could not be notified").count(), 1, "{}", place.log());

    let place = Place::new().with("SLM_MESH_NOTIFY", "/nowhere/tell-me");
    alert(&place, "one");
    until("the log says so", || place.log().contains("/nowhere/tell-me can't be run"));
    assert_eq!(place.json(&["inbox"])["messages"][0]["payload"], json!("one"), "the mail is there all the same");
}

#[test]
fn only_a_word_or_an_absolute_path_is_accepted() {
    for wrong in ["tell-me", "on", "./tell-me", "~/tell-me"] {
        let out = Place::new().with("SLM_MESH_NOTIFY", wrong).run(&["start", "--detach"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(2) && said.contains("absolute path"), "{wrong}: {said}");
    }
}
