//! Notifies the user of this machine about unread alerts to people. Shows a desktop notification, or runs a command
//! that the user has set.
//!
//! **Invariant:** the event loop never waits for a notification. At most one command runs at a time, on a separate
//! thread and for a limited time. Alerts that arrive during this time are combined in the next notification. Text from
//! a peer is never passed to a shell, and no program can mistake it for an option.
//!
//! A file contains the sequence number of a message. This message and all earlier messages need no notification. If the
//! broker ends before it has shown an alert, the next broker shows the alert.

use super::log;
use crate::base::id_types::MessageSeq;
use crate::base::untrusted_text;
use crate::core::Mesh;
use crate::sys;
use crate::sys::command_with_timeout::run_bounded;
use crate::sys::data_dir::DataDir;
use crate::sys::settings::{SECRET, STORE_PASSWORD};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Delay between an alert and its notification, in ms. A person who is watching the messages reads the alert within
/// this time, so no notification is needed.
const DELAY_MS: i64 = 1_000;
/// Minimum time between two notifications, in ms.
const GAP_MS: i64 = 5_000;
/// How long the command may run.
const COMMAND_MAX: Duration = Duration::from_secs(10);
/// Maximum number of alerts in one notification. Further alerts are counted, but not shown.
const ALERTS_MAX: usize = 20;
/// Maximum length of an alert's text in a desktop notification, in characters.
const SHOWN_CHARS: usize = 200;

/// The environment variable that contains the address of the message bus of a Linux desktop.
const BUS: &str = "DBUS_SESSION_BUS_ADDRESS";

/// The program that shows notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Notifier {
    /// The notification program of the desktop.
    Desktop,
    /// The command that the user has set: the program and its arguments.
    Command(Vec<String>),
}

impl Notifier {
    /// Parses the setting; `None` if notifications are off.
    fn from_setting(text: &str) -> Option<Notifier> {
        match text {
            "off" | "" => None,
            "desktop" => Some(Notifier::Desktop),
            command => Some(Notifier::Command(command.split_whitespace().map(str::to_owned).collect())),
        }
    }

    /// The command that shows one notification.
    fn command(&self, alert: &Value) -> Command {
        let mut command = match self {
            Notifier::Desktop => desktop_command(alert, cfg!(target_os = "macos")),
            Notifier::Command(words) => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        command.env_remove(SECRET).env_remove(STORE_PASSWORD);
        command
    }
}

/// The command that shows a notification on the desktop. An argument never begins with text from a peer, so no program
/// can mistake such text for an option.
fn desktop_command(alert: &Value, is_macos: bool) -> Command {
    let word = |name: &str| alert[name].as_str().unwrap_or("");
    let recipient = match word("toName") {
        "" => String::new(),
        name => format!(" for {}", untrusted_text::shown_name(name)),
    };
    let title = format!("Alert from {}{recipient}", untrusted_text::shown_name(word("fromName")));
    let others = alert["others"].as_array().map_or(0, Vec::len) as u64 + alert["more"].as_u64().unwrap_or(0);
    let rest = if others == 0 { String::new() } else { format!(" (and {others} more)") };
    let text = format!("slm-mesh: {}{rest}", untrusted_text::quoted(word("payload"), SHOWN_CHARS));
    if is_macos {
        let mut command = Command::new("osascript");
        let script = ["on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run"];
        command.args(script.iter().flat_map(|line| ["-e", line])).args([title, text]);
        return command;
    }
    // notify-send reads the text as markup, where a backslash begins an escape sequence.
    let text = text.replace('\\', "\\\\").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut command = Command::new("notify-send");
    command.args(["--app-name=slm-mesh", "--", &title, &text]);
    // If an agent started this broker, the environment variables of the desktop may be missing. So the address of the
    // message bus is set here.
    let bus = format!("/run/user/{}/bus", sys::uid());
    if std::env::var_os(BUS).is_none() && Path::new(&bus).exists() {
        command.env(BUS, format!("unix:path={bus}"));
    }
    command
}

/// The state of the notifications: which alerts have been shown, and which command is running.
pub struct Notifications {
    /// The program that shows notifications; `None` if notifications are off.
    notifier: Option<Notifier>,
    /// The directory with the file that contains `shown_upto` for the next broker.
    places: DataDir,
    /// The sequence number of a message. This message and all earlier messages need no notification.
    shown_upto: MessageSeq,
    /// When the next notification is due, in ms; `None` if no alert is waiting.
    due: Option<i64>,
    /// The earliest time of the next notification, in ms.
    rests_until: i64,
    running: Option<JoinHandle<()>>,
    results: Receiver<Result<(), String>>,
    report: Sender<Result<(), String>>,
    wake: Arc<dyn Fn() + Send + Sync>,
    cancel: Arc<AtomicBool>,
    /// Whether the last notification failed. If so, the log already contains the failure.
    has_failed: bool,
}

impl Notifications {
    /// Prepares notifications according to the setting. `wake` wakes the event loop.
    pub fn new(setting: &str, places: &DataDir, wake: Arc<dyn Fn() + Send + Sync>) -> Notifications {
        let (report, results) = channel();
        let notifier = Notifier::from_setting(setting);
        if notifier.is_none() {
            // The file is removed so that old alerts are not shown if notifications are turned on later. The removal
            // fails if there is no file.
            let _ = std::fs::remove_file(places.alerts());
        }
        Notifications {
            notifier,
            places: places.clone(),
            shown_upto: MessageSeq::default(),
            due: None,
            rests_until: 0,
            running: None,
            results,
            report,
            wake,
            cancel: Arc::default(),
            has_failed: false,
        }
    }

    /// Starts to show notifications of alerts in this mesh. Also plans a notification of the unread alerts that no
    /// earlier broker has shown.
    pub fn begin(&mut self, mesh: &Mesh, now: i64) {
        if self.notifier.is_none() {
            return;
        }
        let last = mesh.last_message();
        let saved = self.places.read(&self.places.alerts()).and_then(|text| text.trim().parse().ok().map(MessageSeq));
        // If the saved number is larger than `last`, it comes from an earlier database that has been replaced.
        match saved.filter(|seq| *seq <= last) {
            Some(seq) => {
                self.shown_upto = seq;
                if !mesh.unread_alerts(seq, 1).0.is_empty() {
                    self.note_alert(now);
                }
            }
            None => {
                self.shown_upto = last;
                save(&self.places, last);
            }
        }
    }

    /// Records that there is a new alert.
    pub fn note_alert(&mut self, now: i64) {
        if self.notifier.is_some() {
            self.due.get_or_insert((now + DELAY_MS).max(self.rests_until));
        }
    }

    /// When the next notification is due, in ms.
    pub fn deadline(&self) -> Option<i64> {
        self.due.filter(|_| self.running.is_none())
    }

    /// Whether there is nothing to do: no alert is waiting, and no command is running.
    pub fn is_idle(&self) -> bool {
        self.due.is_none() && self.running.is_none()
    }

    /// Shows a notification, if one is due and the last command has ended.
    pub fn run_due(&mut self, mesh: &Mesh, now: i64) {
        self.take_result(now);
        if self.running.is_some() || self.due.is_none_or(|at| at > now) {
            return;
        }
        self.due = None;
        let alerts = mesh.unread_alerts(self.shown_upto, ALERTS_MAX);
        self.shown_upto = mesh.last_message();
        if let (Some(notifier), Some(alert)) = (self.notifier.clone(), joined(alerts)) {
            self.raise(&notifier, &alert);
        }
    }

    fn raise(&mut self, notifier: &Notifier, alert: &Value) {
        let mut command = notifier.command(alert);
        let input = match notifier {
            Notifier::Desktop => Vec::new(),
            Notifier::Command(_) => format!("{alert}\n").into_bytes(),
        };
        let (report, wake, cancel) = (self.report.clone(), Arc::clone(&self.wake), Arc::clone(&self.cancel));
        let (places, shown_upto) = (self.places.clone(), self.shown_upto);
        let run = move || {
            let result = run_bounded(&mut command, &input, COMMAND_MAX, &cancel);
            // If this broker stopped the command early, nothing is saved, so the next broker runs the command again.
            if !cancel.load(Ordering::Relaxed) {
                save(&places, shown_upto);
            }
            // Sending fails if the event loop has ended.
            let _ = report.send(result);
            wake();
        };
        match std::thread::Builder::new().name("notification".into()).spawn(run) {
            Ok(thread) => self.running = Some(thread),
            Err(error) => self.note_result(Err(format!("no thread can be started ({error})"))),
        }
    }

    /// If the running command has ended, takes its result.
    fn take_result(&mut self, now: i64) {
        let Ok(result) = self.results.try_recv() else { return };
        self.running = None;
        self.rests_until = now + GAP_MS;
        self.due = self.due.map(|at| at.max(self.rests_until));
        self.note_result(result);
    }

    /// Logs a failure, unless the previous notification also failed.
    fn note_result(&mut self, result: Result<(), String>) {
        if let Err(why) = &result
            && !self.has_failed
        {
            log(&format!(
                "the user could not be notified of an alert: {why}; check SLM_MESH_NOTIFY. Further failures are not \
                 logged until a notification succeeds"
            ));
        }
        self.has_failed = result.is_err();
    }

    /// Kills the command, if it is still running.
    pub fn stop(self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(thread) = self.running {
            // The thread ends at once, because `cancel` is set. `join` fails if the thread has panicked.
            let _ = thread.join();
        }
    }
}

/// Combines several alerts into one. The first alert gets a field `others` with the other alerts, and a field `more`
/// with the number of alerts that are left out.
fn joined((alerts, n_more): (Vec<Value>, u64)) -> Option<Value> {
    let mut alerts = alerts.into_iter();
    let mut first = alerts.next()?;
    first["others"] = alerts.collect();
    first["more"] = json!(n_more);
    Some(first)
}

/// Saves `shown_upto` for the next broker. If this fails, the next broker shows some of the alerts again.
fn save(places: &DataDir, shown_upto: MessageSeq) {
    if let Err(error) = places.write(&places.alerts(), &format!("{shown_upto}\n")) {
        log(&error.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(alert: &Value, is_macos: bool) -> Vec<String> {
        desktop_command(alert, is_macos).get_args().map(|word| word.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_peers_words_are_no_option_and_no_script() {
        for text in ["--help", "-e", "\"; do shell script \"rm -rf ~\"", "<b>&\\x00", "$(reboot)\n--icon=x"] {
            let alert = json!({ "fromName": "--icon=x y", "payload": text, "others": [], "more": 0 });
            let linux = words(&alert, false);
            assert_eq!(linux[..3], ["--app-name=slm-mesh", "--", "Alert from --icon-x-y"], "{text}");
            assert!(linux.len() == 4 && linux[3].starts_with("slm-mesh: \"") && !linux[3].contains(['<', '\n']));
            let macos = words(&alert, true);
            assert_eq!(macos[..6], words(&json!({}), true)[..6], "the script is ours: {text}");
            assert_eq!((macos.len(), macos[6].as_str()), (8, "Alert from --icon-x-y"), "{text}");
            assert!(macos[7].starts_with("slm-mesh: \""), "{text}");
        }
        let alert = json!({ "fromName": "a", "payload": "hi", "others": [{}, {}], "more": 3 });
        assert_eq!(words(&alert, true)[7], "slm-mesh: \"hi\" (and 5 more)");
    }

    #[test]
    fn a_setting_is_split_on_blanks() {
        assert_eq!(Notifier::from_setting("off"), None);
        assert_eq!(Notifier::from_setting("desktop"), Some(Notifier::Desktop));
        let words = ["/bin/x".to_owned(), "a;b".to_owned()].to_vec();
        assert_eq!(Notifier::from_setting("/bin/x   a;b"), Some(Notifier::Command(words)));
    }
}
