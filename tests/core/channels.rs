//! Tests channels: which peers get a message to a channel, and how long a peer stays a member.

use crate::failures::Disk;
use crate::script::check;
use serde_json::json;
use slm_mesh::core::ConnId::Client;
use slm_mesh::core::{channels, mail, mcp_tools, peers::sessions};

#[test]
fn a_message_to_a_channel_reaches_its_members_and_nobody_else() {
    check(
        "
        a joins
        b joins
        c joins
        person connects
        a channel.join channel=#api -> ok channel.name=#api channel.members=[\"a\"]
        b channel.join channel=API -> ok channel.count=2 channel.joined=true
        b channel.join channel=api -> ok channel.count=2
        a send to=#api message='v2 is out' key=k -> ok recipients.0.name=b messageIds.0=$m ~note
        ! b -> message
        ! c -> ~message
        a send to=#Api message='v2 is out' key=k -> ok messageIds.0=$m repeated=true
        c channel.list -> ok channels.0.name=#api channels.0.joined=false channels.0.unread=0
        b channel.list -> ok channels.0.unread=1 channels.0.members=[\"a\",\"b\"]
        c send to=b message=noise -> ok
        b inbox from=#api -> ok messages.0.payload='v2 is out' messages.0.group=#api ~noise
        b inbox from=#web -> ok messages=[]
        b inbox -> ok messages.1.payload=noise
        a inbox filter=sent -> ok messages.0.receipt=offered
        b send to=#api message=thanks replyTo=$m -> ok recipients.0.name=a
        a inbox filter=sent -> ok messages.0.receipt=acked
        c send to=#api message='from outside' -> ok recipients.0.name=a recipients.1.name=b
        person log with=#api -> ok messages.0.payload='v2 is out' messages.1.payload=thanks messages.2.copies=2 ~noise
        c log with=#api -> ok messages.0.payload='from outside' ~thanks
        c inbox filter=sent from=#api -> ok messages.0.payload='from outside'
        b inbox filter=all from=#api search=V2 -> ok messages.0.payload='v2 is out' ~outside
        person log thread=$m -> ok messages.1.payload=thanks
        ",
    );
}

#[test]
fn each_member_can_use_the_ids_that_it_sees_in_a_conversation() {
    check(
        "
        a joins
        b joins
        c joins
        h connects
        person connects
        a channel.join channel=#t -> ok
        b channel.join channel=#t -> ok
        c channel.join channel=#t -> ok
        a send to=#t message=question -> ok
        b inbox -> ok messages.0.id=$question
        b send to=#t message=answer replyTo=$question -> ok
        h hook.mail agent=test session=key-c project=/p -> ok messages.1.replyTo=$hook
        c inbox -> ok messages.1.replyTo=$answered messages.1.thread=$thread messages.1.id=$answer
        c log thread=$hook -> ok messages.0.payload=question messages.1.payload=answer
        c log thread=$thread -> ok messages.0.payload=question messages.1.payload=answer messages.1.replyTo=$logged
        c inbox search=answer -> ok messages.0.replyTo=$found
        c inbox ack=[$logged] -> ok
        c inbox ack=[$found] -> ok
        c send to=#t message=also replyTo=$answered -> ok
        c send to=#t message=deeper replyTo=$answer -> ok
        a inbox -> ok messages.0.payload=answer messages.0.id=$answer messages.2.replyTo=$deeper
        a log thread=$answer -> ok messages.0.payload=answer messages.1.payload=deeper ~also
        a send to=#t message=thanks replyTo=$deeper -> ok
        person log thread=$answer -> ok messages.0.payload=answer messages.1.payload=deeper messages.2.payload=thanks
        ",
    );
}

#[test]
fn a_member_leaves_by_itself_or_with_its_session() {
    check(
        "
        a joins
        b joins
        c joins
        person connects
        person channel.join channel=#ops -> ok
        b channel.join channel=#ops -> ok
        c channel.join channel=#ops -> ok
        b leaves
        +3s
        a send to=#ops message=one -> ok recipients.1.name=b recipients.1.here=false
        b joins
        b inbox -> ok messages.0.payload=one
        c leaves
        +6s
        a send to=#ops message=two -> ok recipients.1.name=b ~\"c\"
        c joins
        c inbox -> ok messages.0.payload=one ~two
        b channel.leave channel=#ops -> ok left=true
        b channel.leave channel=#ops -> ok left=false
        a send to=#ops message=three -> ok ~\"b\"
        b inbox -> ok messages.1.payload=two ~three
        person channel.leave channel=ops -> ok left=true
        a channel.list -> ok channels=[]
        a events.read types=[\"channel_left\"] -> ok events.2.payload.channel=#ops
        a send to=#ops message=four -> ok note='no other peer has joined #ops, so the message was sent to no one'
        ",
    );
}

#[test]
fn members_survive_a_crash_of_the_broker_if_their_sessions_do() {
    check(
        "
        a joins
        b joins
        c joins
        b channel.join channel=x -> ok
        c channel.join channel=x -> ok
        c leaves
        crash
        a joins
        b joins
        a send to=#x message=hello -> ok recipients.0.name=b ~\"c\"
        b leaves
        +6s
        a channel.list -> ok channels=[]
        crash
        a joins
        a channel.list -> ok channels=[]
        ",
    );
}

#[test]
fn names_and_numbers_of_channels_are_bounded() {
    let mut disk = Disk::new("channel-names");
    disk.mesh.on_connected(Client(1));
    disk.call(1, &sessions::ATTACH, json!({ "agent": "test", "name": "a", "project": "/p", "pid": 5 })).unwrap();
    let longest = "x".repeat(40);
    for (name, wanted) in [
        ("#", "name of a channel"),
        ("##a", "'#'"),
        ("a b", "letters"),
        ("a\u{1b}[2J", "letters"),
        ("a/b", "letters"),
        ("a\u{202e}b", "letters"),
        (&format!("{longest}x"), "40"),
    ] {
        let refused = disk.call(1, &channels::JOIN, json!({ "channel": name })).unwrap_err();
        assert!(refused.text.contains(wanted), "{name:?}: {refused}");
    }
    let refused = disk.call(1, &mail::SEND, json!({ "to": "#a b", "message": "m" })).unwrap_err();
    assert!(refused.text.starts_with("to: expected only letters"), "{refused}");
    for n in 0..64 {
        let name = format!("{}{n}", &longest[2..]);
        disk.call(1, &channels::JOIN, json!({ "channel": name })).unwrap();
        disk.pass(2_000);
    }
    let refused = disk.call(1, &channels::JOIN, json!({ "channel": "one-more" })).unwrap_err();
    assert!(refused.text.contains("at most 64"), "{refused}");
    let first = disk.call(1, &channels::LIST, json!({})).unwrap();
    assert_eq!(first["channels"].as_array().unwrap().len(), 64, "{first}");
}

#[test]
fn a_tool_call_without_an_action_reads_the_inbox() {
    let call = |given: serde_json::Value| mcp_tools::call("mesh_inbox", given.as_object().unwrap()).unwrap();
    assert_eq!(call(json!({ "limit": 3 })).unwrap().0.name, "inbox");
    assert_eq!(call(json!({ "action": "join", "channel": "#api" })).unwrap().0.name, "channel.join");
    let refused = call(json!({ "channel": "#api" })).unwrap_err();
    assert!(refused.text.contains("channel: unknown argument"), "{refused}");
}

#[test]
fn a_session_on_another_machine_is_a_member_for_its_longer_grace() {
    let mut disk = Disk::new("channel-far");
    for (conn, host) in [(1, "here"), (2, "laptop")] {
        disk.mesh.on_connected(Client(conn));
        disk.mesh.set_origin(Client(conn), host, "ada", None, disk.now).unwrap();
        let who = json!({ "agent": "test", "name": format!("s{conn}"), "project": "/p", "pid": 5 });
        disk.call(conn, &sessions::ATTACH, who).unwrap();
    }
    disk.call(2, &channels::JOIN, json!({ "channel": "api" })).unwrap();
    disk.mesh.on_disconnected(Client(2), disk.now);
    disk.pass(29_000);
    let send = |disk: &mut Disk| {
        disk.call(1, &mail::SEND, json!({ "to": "#api", "message": "m" })).unwrap()["recipients"].clone()
    };
    assert_eq!(send(&mut disk)[0]["name"], json!("s2"));
    disk.pass(2_000);
    assert_eq!(send(&mut disk), json!([]));
    let gone = disk.call_as(9, Some("s2"), &channels::JOIN, json!({ "channel": "api" })).unwrap_err();
    assert!(gone.text.starts_with("s2 is offline"), "{gone}");
}
