//! Sessions that take over the name and the mail of an earlier session, and give them back.

use crate::script::check;

/// Runs a script in which `P`, `Q` and `N` stand for the calls with which the sessions of that key attach, and which
/// begins with the mail that waits for `p`, whose session has ended.
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
