//! Tests of the live view: draws a small example on screens of several sizes, and handles keys.

use super::conversations::mailbox_text;
use super::draw::{StyledLine, draw_screen};
use super::key_actions::{self, UserAction, handle_key};
use super::key_decoder::Key;
use super::model::{InputMode, Pane, WatchModel};
use super::sanitize_and_wrap_text::width;
use crate::base::time_format;
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T12:10:00.000Z";

fn at(text: &str) -> i64 {
    time_format::parse(text).expect("a time")
}

fn event(seq: i64, minute: i64, kind: &str, by: &str, payload: Value) -> Value {
    let at = format!("2026-01-01T12:{minute:02}:00.000Z");
    json!({ "seq": seq, "type": kind, "emittedBy": by, "emittedByName": by, "createdAt": at, "payload": payload })
}

fn scene() -> WatchModel {
    let mut model = WatchModel::new("h", "ada");
    let peer = |id: &str, agent: &str, project: &str, idle: i64, unread: i64, summary: &str| {
        json!({ "id": id, "name": id, "agentType": agent, "projectPath": format!("/work/{project}"),
            "gitBranch": if project == "docs" { Value::Null } else { json!("main") }, "status": "active",
            "idleSeconds": idle, "unread": unread, "summary": summary })
    };
    let peers = [
        peer("codex-web", "codex", "web", 240, 2, "login page"),
        peer("claude-api", "claude-code", "api", 3, 0, "moving the \u{1b}[31mtoken\u{202e} check"),
        peer("gemini-docs", "gemini", "docs", 7200, 0, "日本語のガイドを書いている。とても長い説明がここに続きます。"),
    ];
    model.set_peers(&json!({ "peers": peers }), at(NOW));
    let lock = json!({ "filePath": "/work/api/src/auth.rs", "lockedBy": "claude-api", "holder": "claude-api",
        "token": 7, "expiresInSeconds": 540, "reason": "refactor", "queue": ["codex-web"] });
    model.set_locks(&json!({ "locks": [lock] }), at(NOW));
    model.apply_event(event(
        1,
        2,
        "peer_joined",
        "claude-api",
        json!({ "peerId": "claude-api", "name": "claude-api",
        "agentType": "claude-code", "projectPath": "/work/api" }),
    ));
    model.apply_event(event(
        2,
        3,
        "file_locked",
        "claude-api",
        json!({ "filePath": "/work/api/src/auth.rs", "reason": "refactor" }),
    ));
    model.apply_event(event(
        3,
        5,
        "message_received",
        "claude-api",
        json!({ "messageId": "m1", "fromPeer": "claude-api", "toPeer": "codex-web" }),
    ));
    model.apply_event(event(
        4,
        6,
        "message_read",
        "codex-web",
        json!({ "messageId": "m1", "fromPeer": "claude-api", "toPeer": "codex-web" }),
    ));
    model.apply_event(event(
        5,
        9,
        "message_received",
        "codex-web",
        json!({ "messageId": "m2", "fromPeer": "codex-web", "toPeer": "h" }),
    ));
    model.apply_event(event(
        6,
        10,
        "deploy.done",
        "codex-web",
        json!({ "version": "1.4", "note": "\u{9b}2J<script>" }),
    ));
    let row = json!({ "id": "m2", "fromPeer": "codex-web", "fromName": "codex-web", "toPeer": "h", "type": "text",
        "receipt": "accepted", "createdAt": "2026-01-01T12:09:00.000Z", "payload": "May I?\nIt is <b>urgent</b>\u{1b}]0;x\u{7}" });
    model.add_messages(&json!({ "messages": [row] }));
    model.unread = 1;
    model
}

fn text(lines: &[StyledLine]) -> Vec<String> {
    lines
        .iter()
        .map(|line| line.iter().map(|(_, text)| text.as_str()).collect::<String>().trim_end().to_owned())
        .collect()
}

fn shown(model: &WatchModel, columns: usize, rows: usize) -> Vec<String> {
    text(&draw_screen(model, columns, rows, at(NOW)))
}

#[test]
fn a_small_scene_at_80_by_24() {
    let want = "
 slm-mesh  you are ada  1 unread for you
 Peers 3 ──────────────────────────────────────────────────────────────────────
› claude-api   claude-code  api@main  active              moving the �[31mtoken…
  codex-web    codex        web@main  idle 4 min   2 new  login page
  gemini-docs  gemini       docs      idle 2 h            日本語のガイドを書い…
 Locks 1 ──────────────────────────────────────────────────────────────────────
  src/auth.rs  claude-api  9 min   codex-web waits  refactor
 Messages ─────────────────────────────────────────────────────────────────────
  1 min   codex-web → ada         unread     May I? It is <b>urgent</b>�]0;x�
  5 min   claude-api → codex-web  read
 Events ───────────────────────────────────────────────────────────────────────
  now     deploy.done       codex-web   version=1.4 note=�2J<script>
  1 min   message_received  codex-web   to ada
  4 min   message_read      codex-web   from claude-api
  5 min   message_received  claude-api  to codex-web
  7 min   file_locked       claude-api  src/auth.rs  refactor
  8 min   peer_joined       claude-api  claude-code  /work/api






 Tab pane · Enter open · w write · m mailbox · s search · ? help · q quit";
    let got = shown(&scene(), 80, 24).join("\n");
    assert_eq!(got, &want[1..], "\n{got}");
}

#[test]
fn a_small_screen_shows_one_pane_at_a_time() {
    let mut model = scene();
    model.pane = Pane::Locks;
    let want = "
 slm-mesh  you are ada  1 unread for you
 Locks 1 ──────────────────────────────
› src/auth.rs  claude-…  9 min   codex-…






 Tab pane · ? help · q quit";
    let got = shown(&model, 40, 10).join("\n");
    assert_eq!(got, &want[1..], "\n{got}");
}

#[test]
fn the_head_names_the_hub_that_leads() {
    let mut model = scene();
    model.set_hubs(&json!({ "role": "alone" }));
    assert!(!shown(&model, 100, 24)[0].contains("hub"));
    model.set_hubs(&json!({ "leader": "hub1:7900", "standbys": [{ "hub": "hub2:7900" }] }));
    let head = &shown(&model, 100, 24)[0];
    assert!(head.ends_with("leader hub1:7900, 1 on standby"), "{head}");
}

#[test]
fn an_event_shows_a_value_or_its_size_or_that_it_is_gone() {
    let mut model = scene();
    for (seq, payload, shown_as) in [
        (7, json!({ "key": "port", "value": "8080" }), "port = 8080"),
        (8, json!({ "key": "port", "value": null, "bytes": 30_000 }), "port = 30000 bytes"),
        (9, json!({ "key": "port", "value": null }), "port = (deleted since)"),
    ] {
        model.apply_event(event(seq, 10, "state_changed", "codex-web", payload));
        let screen = shown(&model, 80, 24);
        assert!(screen.iter().any(|line| line.ends_with(shown_as)), "{screen:#?}");
    }
}

#[test]
fn no_line_of_the_keys_breaks_on_80_columns() {
    let InputMode::Open { body, .. } = super::draw::help_text() else { panic!("the keys are not text") };
    assert_eq!(super::sanitize_and_wrap_text::wrap(&body, 80 - 4), body.lines().collect::<Vec<_>>());
}

#[test]
fn no_line_is_wider_than_the_screen_and_none_is_missing() {
    for (columns, rows) in [(80, 24), (40, 10), (200, 60), (1, 1), (2, 3), (20, 14), (64, 15), (300, 5)] {
        for pane in super::model::PANES {
            let mut model = scene();
            model.pane = pane;
            let mut modes = vec![InputMode::Browse, super::draw::help_text()];
            let texts = ["", "long and 日本語 words that go on and on and on and on until the line is full at last"];
            for text in texts {
                let prompt = super::model::InputPrompt::Write("codex-web".into());
                modes.push(InputMode::Type { prompt, text: text.into() });
                modes.push(InputMode::Confirm {
                    path: format!("/work/{text}"),
                    holder: text.into(),
                    own: false,
                    token: 1,
                });
                modes.push(InputMode::Open { title: text.into(), body: text.repeat(50), scroll: 7 });
            }
            for mode in modes {
                model.mode = mode;
                let lines = draw_screen(&model, columns, rows, at(NOW));
                assert_eq!(lines.len(), rows, "{columns}x{rows}");
                for line in text(&lines) {
                    assert!(width(&line) <= columns, "{columns}x{rows}: {line:?}");
                    assert!(!line.chars().any(|c| c.is_control() || c == '\u{202e}'), "{line:?}");
                }
            }
        }
    }
}

#[test]
fn time_alone_moves_ages_and_leases() {
    let model = scene();
    let lines = text(&draw_screen(&model, 80, 24, at(NOW) + 8 * 60_000));
    assert!(lines[2].contains("idle 8 min"), "{lines:#?}");
    assert!(lines[6].contains(" 60 s "), "{lines:#?}");
    assert!(lines[8].contains("9 min   codex-web → ada"), "{lines:#?}");
}

fn keys(model: &mut WatchModel, keys: &[Key]) -> Option<UserAction> {
    keys.iter().map(|key| handle_key(model, *key, (80, 24))).last().flatten()
}

fn typed(text: &str) -> Vec<Key> {
    text.chars().map(Key::Char).collect()
}

#[test]
fn a_lock_is_released_only_after_a_yes() {
    let mut model = scene();
    assert_eq!(keys(&mut model, &[Key::Char('x')]), None);
    assert!(model.note.contains("Select a lock"), "{}", model.note);
    assert_eq!(keys(&mut model, &[Key::Next, Key::Char('x')]), None);
    let ask = shown(&model, 80, 24).pop().expect("a last line");
    assert_eq!(ask, " Release /work/api/src/auth.rs? claude-api holds it and will be notified. y/n");
    assert_eq!(keys(&mut model, &[Key::Enter]), None);
    assert_eq!((model.mode.clone(), model.note.as_str()), (InputMode::Browse, "Nothing was released"));
    let action = keys(&mut model, &[Key::Char('x'), Key::Char('y')]);
    assert_eq!(action, Some(UserAction::Release { path: "/work/api/src/auth.rs".into(), token: 7 }));
}

#[test]
fn a_line_is_written_to_the_peer_of_the_selected_row() {
    let mut model = scene();
    let line = [vec![Key::Down, Key::Char('w')], typed("hix"), vec![Key::Erase, Key::Enter]].concat();
    assert_eq!(keys(&mut model, &line), Some(UserAction::Send { to: "codex-web".into(), text: "hi".into() }));
    assert_eq!(keys(&mut model, &[Key::Char('w'), Key::Char('n'), Key::Escape]), None);
    assert_eq!(model.mode, InputMode::Browse);
    assert_eq!(keys(&mut model, &[Key::Char('w'), Key::Enter]), None, "an empty line sends nothing");
}

#[test]
fn a_message_to_a_group_opens_with_the_receipt_of_each_copy() {
    let mut model = WatchModel::new("h", "ada");
    let at = "2026-01-01T12:00:00.000Z";
    let row = |to: &str, receipt: &str| {
        json!({ "id": to, "fromPeer": "h", "toPeer": to, "toName": format!("{to}-api"), "fromName": "ada", "receipt": receipt,
            "group": "all", "type": "text", "payload": "the schema changed", "createdAt": at })
    };
    let payload = json!({ "fromPeer": "h", "toPeer": "all", "count": 4 });
    model.apply_event(
        json!({ "type": "message_received", "seq": 1, "createdAt": at, "emittedBy": "h", "payload": payload }),
    );
    model.add_messages(&json!({ "messages": [row("codex", "accepted"), row("claude", "read")] }));
    // A later answer contains a newer receipt and one more recipient.
    model.add_messages(&json!({ "messages": [row("codex", "acked"), row("gemini", "expired")] }));
    model.pane = Pane::Mail;
    keys(&mut model, &[Key::Enter]);
    let lines = shown(&model, 80, 24);
    assert_eq!(
        lines[3..11],
        [
            "  2026-01-01 12:00:00 UTC, 2/4 read",
            "",
            "  the schema changed",
            "",
            "  claude-api               read",
            "  codex-api                acked",
            "  gemini-api               expired",
            "  and 1 more; run slm-mesh inbox --filter sent"
        ]
    );
}

#[test]
fn the_receipts_of_a_broadcast_count_all_copies_also_beside_the_users_own() {
    let mut model = WatchModel::new("h", "ada");
    let copy = json!({ "id": "m1", "seq": 1, "fromPeer": "dan", "fromName": "dan", "toPeer": "h", "receipt": "read",
        "group": "all", "type": "text", "payload": "tests are red", "createdAt": "2026-01-01T12:00:00.000Z" });
    let mut of_log = copy.clone();
    of_log["toName"] = json!("ada");
    (of_log["copies"], of_log["receipts"]) = (json!(3), json!({ "read": 2, "accepted": 1 }));
    for row in [of_log, copy] {
        model.add_messages(&json!({ "messages": [row] }));
        let lines = shown(&model, 80, 24).join("\n");
        assert!(lines.contains("dan → all  2/3 read   tests are red"), "{lines}");
    }
}

#[test]
fn a_long_message_opens_whole_and_is_then_read_whole() {
    let mut model = WatchModel::new("h", "ada");
    let row = |text: &str| {
        json!({ "id": "m1", "seq": 1, "fromPeer": "dan", "fromName": "dan", "toPeer": "h", "receipt": "accepted",
            "type": "text", "payload": text, "createdAt": "2026-01-01T12:00:00.000Z" })
    };
    let mut part = row("the beginning");
    (part["part"], part["parts"], part["partEnd"]) = (json!(1), json!(2), json!(13));
    model.add_messages(&json!({ "messages": [part] }));
    model.pane = Pane::Mail;
    assert!(matches!(keys(&mut model, &[Key::Enter]), Some(UserAction::Fetch(_))), "the view asks for the rest");
    assert!(shown(&model, 80, 24).join("\n").contains("the beginning…"));
    keys(&mut model, &[Key::Escape]);
    // The log returns the whole text, but the inbox returns only a part of it.
    for rows in [[row("the beginning and the end"), part.clone()], [part, row("the beginning and the end")]] {
        model.add_messages(&json!({ "messages": rows }));
        let Some(UserAction::Opened(read)) = keys(&mut model, &[Key::Enter]) else {
            panic!("the opened message does not count as read")
        };
        let lines = shown(&model, 80, 24).join("\n");
        assert!(lines.contains("the beginning and the end"), "{lines}");
        assert!(read.iter().all(|row| row["partEnd"].is_null()), "{read:?}");
        keys(&mut model, &[Key::Escape]);
    }
}

#[test]
fn the_user_reads_every_message_and_takes_only_their_own() {
    let mut model = scene();
    let action = keys(&mut model, &[Key::Back, Key::Back, Key::Enter]);
    assert!(matches!(action, Some(UserAction::Opened(_))), "{action:?}");
    let lines = shown(&model, 80, 24);
    assert_eq!(
        lines[2..7],
        ["  codex-web → ada", "  2026-01-01 12:09:00 UTC, sent", "", "  May I?", "  It is <b>urgent</b>�]0;x�"]
    );
    let action = keys(&mut model, &[Key::Escape, Key::Down, Key::Enter]);
    let Some(UserAction::Fetch(id)) = action else { panic!("{action:?}") };
    assert_eq!(shown(&model, 80, 24)[5], "  …");
    let row = |id: &str, thread: Option<&str>, minute: i64| {
        json!({ "id": id, "seq": minute, "fromPeer": "claude-api", "toPeer": "x", "fromName": "claude-api", "toName": "x",
            "receipt": "read", "type": "text", "payload": format!("text of {id}"), "thread": thread,
            "createdAt": format!("2026-01-01T12:{minute:02}:00.000Z") })
    };
    let n = model.mail.len();
    model.add_messages(&json!({ "messages": [row(&id, None, 5), row("answer", Some(&id), 7)] }));
    assert_eq!(key_actions::show_more(&mut model, &id), None, "looking at the mail of others marks nothing as read");
    let lines = shown(&model, 80, 24);
    assert_eq!(
        (lines[5].clone(), lines[11].clone(), model.mail.len()),
        (format!("  text of {id}"), "  text of answer".into(), n + 1)
    );
    keys(&mut model, &[Key::Escape]);
    let lines = shown(&model, 80, 24).join("\n");
    assert!(lines.contains("(1 before) text of answer") && !lines.contains(&format!("text of {id}")), "{lines}");
}

#[test]
fn words_are_searched_and_a_mailbox_is_only_looked_at() {
    let mut model = scene();
    let line = [vec![Key::Char('s')], typed("the parser "), vec![Key::Enter]].concat();
    assert_eq!(keys(&mut model, &line), Some(UserAction::Search("the parser".into())));
    assert_eq!(keys(&mut model, &[Key::Char('s'), Key::Enter]), None, "no words search nothing");
    assert_eq!(keys(&mut model, &[Key::Char('m')]), Some(UserAction::LookAtMailbox("claude-api".into())));
    let row = |id: &str, receipt: &str| json!({ "fromName": id, "payload": "\u{1b}[2Jx", "receipt": receipt });
    let mut group = row("p-group", "read");
    (group["group"], group["receipts"]) = (json!("#api"), json!({ "read": 2, "accepted": 1 }));
    let text = super::conversations::rows_text(&[group]);
    assert!(text.starts_with("p-group → #api\n") && text.contains(" UTC, 2 read, 1 accepted\n"), "{text}");
    let unread =
        json!({ "messages": [row("p-three", "offered"), row("p-four", "accepted")], "remaining": 5, "next": 4 });
    let latest = [row("p-one", "read"), row("p-two", "acked"), row("p-nine", "accepted")];
    let text = mailbox_text("ann", &unread, &json!({ "messages": latest, "more": true }));
    let words = [
        "UNREAD",
        "p-three",
        "p-four",
        "and 5 more; run slm-mesh inbox --as ann --after 4",
        "\nREAD,",
        "p-two",
        "p-one",
        "and older ones; run slm-mesh inbox --as ann --filter all --after 0",
    ];
    assert!(words.map(|word| text.find(word).expect(word)).is_sorted(), "{text}");
    assert!(!text.contains("p-nine"), "no unread message is listed under READ: {text}");
    let none = "UNREAD, oldest first: none\n\n\nREAD, newest first: none";
    assert_eq!(mailbox_text("ann", &json!({}), &json!({})), none);
}

#[test]
fn a_filter_is_typed_and_cleared() {
    let mut model = scene();
    keys(&mut model, &[vec![Key::Char('/')], typed("docs"), vec![Key::Enter]].concat());
    let lines = shown(&model, 80, 24);
    assert_eq!(lines[0], " slm-mesh  you are ada  1 unread for you  showing docs");
    assert!(lines[2].starts_with("› gemini-docs"), "{lines:#?}");
    assert!(!lines.concat().contains("codex-web"), "{lines:#?}");
    keys(&mut model, &[Key::Escape]);
    assert_eq!(model.shown_peers().len(), 3);
    assert_eq!(keys(&mut model, &[Key::Char('q')]), Some(UserAction::Quit));
}
