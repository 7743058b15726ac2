//! Tests sessions that take over the name and the mail of an earlier session, and give both back.

use crate::script::check;

/// Runs a script. When the script begins, the session `p` has ended, a message waits for `p`, and the session `q` has
/// taken over the name of `p`. In the script, the letters `P`, `Q` and `N` stand for calls. Each call attaches a
/// session whose key is the letter.
fn run(script: &str) {
    let attach = |key: &str| format!("attach agent=test project=/p pid=5 session={key}");
    let begin = "
        person connects
        p connects
        p P -> ok you.name=test-p you.id=$old
        p summary summary='old work' -> ok
        p leaves
        +6s
        person send to=test-p message=important -> ok
        q connects
        q Q -> ok you.name=test-p you.id=$old
    ";
    let mut script = format!("{begin}{script}");
    for key in ["P", "Q", "N"] {
        script = script.replace(&format!(" {key} ->"), &format!(" {} ->", attach(key)));
    }
    check(&script);
}

#[test]
fn the_answer_to_decline_does_not_count_the_mail_that_was_given_back() {
    run("
        q whoami -> ok mail.unread=1 notice
        q peer.decline -> ok gaveBack=test-p you.name=test-p-2 ~unread
        q whoami -> ok you.name=test-p-2 you.unread=0
    ");
}

#[test]
fn who_declines_is_woken_further_on() {
    run("
        q inbox -> ok messages.0.id=$m
        q inbox ack=[$m] -> ok
        q wakeup.wait channel=socket waitSeconds=3600 -> waits
        q inbox from=nobody waitSeconds=60 -> waits
        q peer.decline -> refused 'still waiting'
        person send to=test-p message=hello -> ok messageId=$m
        +1s
        ! q -> 'wake\":true'
        +1m
        ! q -> messages
        q inbox ack=[$m] -> ok
        q wakeup.wait channel=socket waitSeconds=3600 -> waits
        h connects
        h wakeup.wait channel=hook rank=1 waitSeconds=3600 agent=test session=Q project=/p -> waits
        q peer.decline -> ok you.name=test-p-2
        ! q -> peer_changed 'wake\":false' ~over
        ! h -> 'wake\":false' ~over
        q wakeup.wait channel=socket waitSeconds=3600 -> waits
        person send to=test-p message='not for you' -> ok
        +1m
        ! q -> ~wake
        person send to=test-p-2 message='for you' -> ok
        +1m
        ! q -> 'wake\":true'
    ");
}

#[test]
fn an_earlier_session_that_was_resumed_meanwhile_gets_its_mail_after_decline() {
    run("
        p connects
        p P -> ok you.name=test-p-2
        q peer.decline -> ok you.name=test-p-3
        h connects
        h hook.mail agent=test session=P project=/p peek=true -> ok you.name=test-p-2
        q whoami -> ok you.name=test-p-3
        p inbox -> ok messages=[]
        p leaves
        +6s
        crash
        p connects
        p P -> ok you.name=test-p you.id=$again
        p inbox -> ok messages.0.payload=important
        h connects
        h hook.mail agent=test session=P project=/p peek=true -> ok you.name=test-p
    ");
}

#[test]
fn an_earlier_session_that_is_resumed_after_decline_is_the_peer_that_it_was() {
    run("
        q summary summary='new work' -> ok
        q channel.join channel=#api -> ok
        q peer.decline -> ok you.name=test-p-2
        q channel.list -> ok channels.0.joined=true channels.0.members=[\"test-p-2\"]
        q peers detail=test-p -> ok peers.0.summary='old work'
        person peers detail=test-p-2 -> ok peers.0.summary='new work'
        p connects
        p P -> ok you.name=test-p
        p send to=#api message='v2 is out' -> ok recipients.0.name=test-p-2
        q inbox -> ok messages.0.payload='v2 is out' ~important
        p inbox -> ok messages.0.payload=important ~v2
    ");
}

#[test]
fn a_summary_that_was_taken_over_stays_with_the_earlier_session() {
    run("
        q peer.decline -> ok
        person peers detail=test-p-2 -> ok peers.0.summary=''
        person peers detail=test-p -> ok peers.0.summary='old work'
    ");
}

#[test]
fn the_notice_and_the_right_to_decline_survive_a_crash_of_the_broker() {
    run("
        crash
        q connects
        q Q -> ok you.name=test-p
        q whoami -> ok notice 'old work' decline
        q whoami -> ok ~notice
        crash
        q connects
        q Q -> ok you.name=test-p
        q whoami -> ok ~notice
        q peer.decline -> ok you.name=test-p-2
        q peer.decline -> refused 'your own name'
        crash
        q connects
        q Q -> ok you.name=test-p-2
        q peer.decline -> refused 'your own name'
        n connects
        n N -> ok you.name=test-p
        n inbox -> ok messages.0.payload=important notice
    ");
}
