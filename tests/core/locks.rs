//! Tests locks: locks that an agent requests, and locks that an edit takes automatically.

use crate::script::{Script, check};

#[test]
fn a_lock_has_one_holder_and_says_who() {
    check(
        "
        a joins
        b joins
        a lock.lock filePath=/p/x reason=refactor -> ok token=1 expiresInSeconds=600
        b lock.lock filePath=/p/./y/../x -> held 'locked by a' 'refactor' '10 min left' waitSeconds
        a lock.lock filePath=/p/x ttlMinutes=60 -> ok token=1 expiresInSeconds=3600
        b lock.unlock filePath=/p/x -> not_found 'locked by a'
        b lock.lock filePaths='[\"/p/w\",\"/p/x\"]' -> held
        b lock.lock filePath=/p/w -> ok token=2
        b lock.lock filePath=/p/ -> held
        b lock.lock filePath=/p/**/x -> held
        a lock.unlock filePath=/p/x -> ok
        b lock.lock filePath=/p/ -> ok
        a lock.lock filePath=/p/deep/er -> held
        a lock.lock filePath=relative -> usage absolute
        a lock.lock filePath=/q ttlMinutes=61 -> usage ttlMinutes
        a lock.lock filePath=/q steal=true -> refused human
        +61m
        a lock.lock filePath=/p/deep/er -> ok
    ",
    );
}

#[test]
fn a_person_can_take_a_lock_although_the_mailbox_of_its_holder_is_full() {
    let mut script = Script::new();
    for line in ["a joins", "person connects", "a lock.lock filePath=/p/x command=build -> ok token=1"] {
        script.run(line);
    }
    script.fill_mailbox("a");
    script.run("person send to=a message=hello -> full");
    script.run("person lock.lock filePath=/p/x steal=true -> ok token=2 'a could not be notified'");
    script.run("! a -> lock_taken /p/x");
    script.run("person lock.unlock filePath=/p/x -> ok ~note");
    script.run("a lock.lock filePath=/p/x -> ok token=3");
    script.run("person lock.unlock filePath=/p/x token=3 -> ok 'a could not be notified'");
}

#[test]
fn locks_fall_when_their_session_does_not_come_back() {
    check(
        "
        a joins
        b joins
        a lock.lock filePath=/p/x -> ok
        a leaves
        b lock.lock filePath=/p/x -> held
        +4s
        a joins
        +20s
        b lock.lock filePath=/p/x -> held
        a leaves
        +6s
        b lock.lock filePath=/p/x -> ok token=2
        crash
        +1s
        c joins
        c lock.lock filePath=/p/x -> held
        +5s
        c lock.lock filePath=/p/x -> ok token=3
        c detach -> ok
        a joins
        a lock.lock filePath=/p/x -> ok token=4
    ",
    );
}

#[test]
fn a_grace_that_ran_when_the_broker_died_ends_after_it() {
    check(
        "
        a joins
        a lock.lock filePath=/p/x ttlMinutes=60 -> ok
        a leaves
        +2s
        crash
        b joins
        +4s
        b lock.lock filePath=/p/x -> held
        +2s
        b lock.lock filePath=/p/x -> ok token=2
    ",
    );
}

#[test]
fn work_trees_conflict_only_when_asked() {
    check(
        "
        a joins
        b@q joins
        a lock.lock filePath=/p/src/x -> ok
        b@q lock.lock filePath=/q/src/x -> ok
        b@q lock.unlock filePath=/q/src/x -> ok
        b@q lock.lock filePath=/q/src/x scope=repo -> held
        a lock.unlock filePath=/p/src/x -> ok
        b@q lock.lock filePath=/q/src/x scope=repo -> ok
        a lock.lock filePath=/p/src/x -> held
    ",
    );
}

#[test]
fn a_list_of_the_locks_on_a_file_shows_what_would_block_it() {
    check(
        "
        a joins
        b@q joins
        a lock.lock filePath=/p/src/x -> ok
        b@q lock.query filePath=/q/src/x -> ok locks=[]
        a lock.lock filePath=/p/src/x scope=repo -> ok
        b@q lock.query filePath=/q/src/x -> ok locks.0.filePath=/p/src/x locks.0.scope=repo
        b@q lock.query filePath=/q/src/y -> ok locks=[]
        b@q lock.lock filePath=/q/src/x -> held
    ",
    );
}

#[test]
fn a_work_tree_in_a_folder_of_another_one_has_files_of_its_own() {
    check(
        "
        a joins
        b@p/.trees/w1 joins
        a lock.lock filePath=/p/ -> ok
        b@p/.trees/w1 lock.lock filePath=/p/.trees/w1/src/x -> ok
        b@p/.trees/w1 lock.lock filePath=/p/src/x -> held
        b@p/.trees/w1 lock.unlock filePath=/p/.trees/w1/src/x -> ok
        b@p/.trees/w1 lock.lock filePath=/p/.trees/w1/src/x scope=repo -> held
        a lock.unlock filePath=/p/ -> ok
        b@p/.trees/w1 lock.lock filePath='/p/.trees/w1/**' -> ok
        a lock.lock filePath='/p/**/x' -> ok
        a lock.lock filePath=/p/.trees/w1/src/y -> held
    ",
    );
}

#[test]
fn a_session_whose_first_edit_is_refused_is_on_the_mesh() {
    check(
        "
        a joins
        a lock.lock filePath=/p/x -> ok
        h connects
        h hook.edit agent=codex shortName=codex session=t1 project=/p files='[\"/p/x\"]' -> held 'locked by a'
        a send to=codex-p message=later -> ok
    ",
    );
}

#[test]
fn an_edit_locks_its_files_until_the_turn_ends() {
    check(
        "
        h connects
        h hook.edit agent=claude-code shortName=claude session=s1 project=/p files='[\"/p/x\",\"/p/y\"]' -> ok you.name=claude-p
        a joins
        a lock.lock filePath=/p/x -> held 'locked by claude-p' 'editing' '2 min left'
        +60s
        h hook.edit agent=claude-code shortName=claude session=s1 project=/p files='[\"/p/x\"]' -> ok
        +70s
        a lock.lock filePath=/p/y -> ok
        a lock.lock filePath=/p/x -> held
        h hook.edit agent=claude-code shortName=claude session=s1 project=/p files='[\"/p/x\",\"/p/y\"]' -> held 'locked by a'
        h hook.edit agent=codex session=t1 project=/p files='[\"/p/x\"]' -> held 'locked by claude-p'
        h hook.turn_end agent=claude-code shortName=claude session=s1 project=/p -> ok
        a lock.lock filePath=/p/x -> ok
    ",
    );
}

#[test]
fn an_edit_stays_locked_while_its_turn_uses_tools_or_has_a_subagent_that_edits() {
    check(
        "
        h connects
        a joins
        h hook.edit agent=claude-code shortName=claude session=s1 project=/p files='[\"/p/x\"]' -> ok
        +70s
        h hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok
        +70s
        a lock.lock filePath=/p/x -> held 'locked by claude-p'
        h hook.edit agent=claude-code shortName=claude session=s1 project=/p files='[\"/p/x\"]' subagent=one -> ok
        h hook.turn_end agent=claude-code shortName=claude session=s1 project=/p subagent=one -> ok
        a lock.lock filePath=/p/x -> held 'locked by claude-p'
        h hook.turn_end agent=claude-code shortName=claude session=s1 project=/p -> ok
        a lock.lock filePath=/p/x -> ok
    ",
    );
}

#[test]
fn a_background_task_keeps_the_locks_of_its_turn_however_many_they_are() {
    let mut script = Script::new();
    script.run("h connects");
    script.run("a joins");
    let name = |n: usize| format!("/p/{}/file-{n}", "d".repeat(60));
    let hook = |op: &str, rest: &str| {
        format!("h hook.{op} agent=claude-code shortName=claude session=s1 project=/p {rest} -> ok")
    };
    for part in 0..3 {
        let files: Vec<String> = (part * 300..part * 300 + 300).map(|n| format!("\"{}\"", name(n))).collect();
        script.run(&hook("edit", &format!("files=[{}]", files.join(","))));
    }
    script.run("+90s");
    script.run(&hook("mail", ""));
    script.run("+60s");
    for n in [0, 450, 899] {
        script.run(&format!("a lock.lock filePath={} -> held", name(n)));
    }
    script.run(&hook("turn_end", "running=[\"bash_1\"]"));
    script.run("+1s");
    let ends = script.stored_lock_ends();
    assert!(ends.len() == 900 && ends.iter().all(|end| *end == ends[0]), "a restart of the broker would end locks");
    script.run("+50m");
    for n in [0, 450, 899] {
        script.run(&format!("a lock.lock filePath={} -> held", name(n)));
    }
    script.run(&hook("turn_end", ""));
    script.run("+1s");
    for n in [0, 450, 899] {
        script.run(&format!("a lock.lock filePath={} -> ok", name(n)));
    }
}

#[test]
fn two_subagents_do_not_edit_one_file_at_once_even_if_their_session_edits_it_too() {
    check(
        "
        h connects
        a joins
        h hook.edit agent=test session=key-a project=/p files=[\"/p/x\"] -> ok you.name=a
        h hook.edit agent=test session=key-a project=/p files=[\"/p/x\"] subagent=one -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/x\"] -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/x\"] subagent=two -> held 'another subagent'
        h hook.turn_end agent=test session=key-a project=/p subagent=one -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/x\"] subagent=two -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/y\"] subagent=two -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/y\"] -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/y\"] subagent=one -> held 'another subagent'
        a lock.lock filePath=/p/z -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/z\"] subagent=one -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/z\"] subagent=two -> held 'another subagent'
        h hook.turn_end agent=test session=key-a project=/p running=[\"one\"] -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/y\"] subagent=three -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/z\"] subagent=two -> held 'another subagent'
        h hook.turn_end agent=test session=key-a project=/p -> ok
        h hook.edit agent=test session=key-a project=/p files=[\"/p/z\"] subagent=two -> ok
    ",
    );
}

#[test]
fn locks_that_ended_with_a_turn_stay_ended_however_many_they_are() {
    let mut script = Script::new();
    script.run("h connects");
    script.run("a joins");
    let name = |n: usize| format!("/p/{}/file-{n}", "d".repeat(60));
    for part in 0..3 {
        let files: Vec<String> = (part * 300..part * 300 + 300).map(|n| format!("\"{}\"", name(n))).collect();
        let files = files.join(",");
        script.run(&format!("h hook.edit agent=claude-code session=s1 project=/p files=[{files}] -> ok"));
    }
    script.run("h hook.turn_end agent=claude-code session=s1 project=/p -> ok");
    // The broker ends the last locks a few turns later. Until then, these locks block the new session `t1`, so its call
    // fails. The call's writes are undone, and the locks are loaded from the database again. Then a hook of the first
    // session shows that its next turn is running.
    let refused = format!("h hook.edit agent=codex session=t1 project=/p files=[\"{}\"] -> held", name(899));
    script.run(&refused);
    script.run("h hook.mail agent=claude-code session=s1 project=/p -> ok");
    script.run("+1s");
    for n in [0, 450, 899] {
        script.run(&format!("a lock.lock filePath={} -> ok", name(n)));
    }
}

/// The broker may be unable to see the processes of a session, for example because they are in another container.
#[test]
fn a_session_that_only_hooks_have_shown_keeps_its_locks_until_their_leases_end() {
    check(
        "
        h connects
        h hook.edit agent=claude-code session=s1 project=/p files=[\"/p/x\"] -> ok
        h hook.edit agent=claude-code session=s2 project=/p files=[\"/p/x\"] -> held
        +10s
        h hook.edit agent=claude-code session=s2 project=/p files=[\"/p/x\"] -> held
        crash
        +10s
        h connects
        h hook.edit agent=claude-code session=s2 project=/p files=[\"/p/x\"] -> held
        +100s
        h hook.edit agent=claude-code session=s2 project=/p files=[\"/p/x\"] -> ok
    ",
    );
}

#[test]
fn an_unlock_of_a_file_names_the_folder_or_glob_that_is_locked() {
    check(
        "
        a joins
        b joins
        b lock.lock filePath=/p/docs/ -> ok
        a lock.lock filePath=/p/src/*.rs -> ok
        a lock.unlock filePath=/p/src/a.rs -> not_found 'you have locked /p/src/*.rs' 'unlock'
        b lock.unlock filePath=/p/src/a.rs -> not_found 'a has locked /p/src/*.rs' 'only the holder'
        a lock.unlock filePath=/p/docs/a.md -> not_found 'b has locked /p/docs/'
        a lock.unlock filePath=/p/src/ -> not_found 'you have locked /p/src/*.rs'
        a lock.unlock filePath=/p/lib/a.rs -> not_found 'is not locked; to list the locks'
    ",
    );
}

#[test]
fn hooks_watch_the_newest_locks_if_there_are_too_many() {
    let mut script = Script::new();
    script.run("h connects");
    script.run("a joins");
    for part in 0..5 {
        let files: Vec<String> = (0..60).map(|n| format!("\"/p/{part}-{n}\"")).collect();
        script.run(&format!("a lock.lock filePaths=[{}] -> ok", files.join(",")));
    }
    script.run("a lock.lock filePath=/p/last -> ok");
    let hook = |session: &str| format!("agent=test session={session} project=/p files=[] withLocks=true");
    script.run(&format!("h hook.edit {} -> ok others.0.filePath=/p/last others.255.filePath=/p/0-21", hook("new")));
    script.run(&format!("h hook.edit {} -> ok own.0.filePath=/p/last", hook("key-a")));
}

#[test]
fn an_agent_is_never_refused_by_its_own_lock_and_what_it_locked_itself_outlives_its_turn() {
    check(
        "
        h connects
        a joins
        b joins
        a lock.lock filePath=/p/own ttlMinutes=30 -> ok token=1
        h hook.edit agent=test session=key-a project=/p files='[\"/p/own\",\"/p/edited\",\"/p/both\"]' -> ok you.name=a
        a lock.lock filePath=/p/both -> ok
        a lock.lock filePath=/p/own command=command -> ok
        h hook.turn_end agent=test session=key-a project=/p -> ok
        b lock.lock filePath=/p/edited -> ok
        b lock.lock filePath=/p/own -> held
        b lock.lock filePath=/p/both -> held
        h hook.turn_end agent=test session=key-a project=/p leave=true -> ok
        b lock.lock filePath=/p/both -> ok
    ",
    );
}

#[test]
fn an_edit_does_not_replace_the_reason_that_the_agent_gave_for_its_lock() {
    check(
        "
        h connects
        a joins
        b joins
        a lock.lock filePath=/p/why reason=refactor -> ok
        a lock.lock filePath=/p/silent -> ok
        h hook.edit agent=test session=key-a project=/p files='[\"/p/why\",\"/p/silent\",\"/p/edited\"]' -> ok you.name=a
        b lock.lock filePath=/p/why -> held '\"reason\":\"refactor\"'
        b lock.lock filePath=/p/silent -> held '\"reason\":\"\"'
        b lock.lock filePath=/p/edited -> held '\"reason\":\"editing\"'
        a lock.lock filePath=/p/edited -> ok
        h hook.turn_end agent=test session=key-a project=/p -> ok
        b lock.lock filePath=/p/why -> held '\"reason\":\"refactor\"'
        b lock.lock filePath=/p/edited -> held '\"reason\":\"\"'
        a lock.lock filePath=/p/why reason=release -> ok
        a lock.lock filePath=/p/why -> ok
        b lock.lock filePath=/p/why -> held '\"reason\":\"release\"'
    ",
    );
}

#[test]
fn a_lock_of_a_command_lasts_as_long_as_its_connection_whatever_its_lease() {
    check(
        "
        b joins
        c connects
        c lock.lock filePath=/p/x ttlMinutes=1 command=build -> ok token=1
        +50s
        b lock.lock filePath=/p/x -> held
        +11s
        b lock.lock filePath=/p/x -> held '10 min left'
        +70m
        b lock.lock filePath=/p/x -> held
        c leaves
        b lock.lock filePath=/p/x -> ok token=2
    ",
    );
}

#[test]
fn a_lock_of_a_command_whose_lease_ended_while_the_broker_was_away_waits_for_its_command() {
    check(
        "
        c connects
        c lock.lock filePath=/p/x ttlMinutes=1 command=build -> ok token=1
        c lock.lock filePath=/p/y ttlMinutes=1 command=test -> ok token=2
        +59s
        crash
        +2s
        b joins
        b lock.lock filePath=/p/x -> held
        c connects
        c lock.lock filePath=/p/x ttlMinutes=1 command=build renew=true -> ok token=1
        +4s
        b lock.lock filePath=/p/y -> ok
        b lock.lock filePath=/p/x -> held
    ",
    );
}

#[test]
fn each_of_several_hooks_at_once_shows_the_next_ten_messages() {
    let mut script = Script::new();
    script.run("h connects");
    script.run("a joins");
    script.run("h hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok messages=[]");
    for n in 0..45 {
        script.run(&format!("a send to=claude-p message=number-{n} -> ok"));
    }
    for n in [0, 10, 20, 30, 40] {
        script.run(&format!(
            "h hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok messages.0.payload=number-{n}"
        ));
    }
    script.run("h hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok messages=[]");
}

#[test]
fn a_hook_shows_mail_once_whatever_hooks_also_fire() {
    check(
        "
        h connects
        g connects
        a joins
        h hook.mail agent=claude-code shortName=claude session=s1 project=/p withNeighbours=true -> ok messages=[] peers.0.name=a
        a send to=claude-p message=hello -> ok messageId=$m
        h hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok messages.0.payload=hello
        g hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok messages=[]
        h leaves
        g hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok messages.0.redelivered=true
        h connects
        +3s
        h hook.mail agent=claude-code shortName=claude session=s1 project=/p -> ok messages.0.redelivered=true
        a send to=all message=everybody -> ok
        +3s
        h hook.mail agent=claude-code shortName=claude session=s1 project=/p direct=true -> ok messages.0.payload=hello ~everybody
    ",
    );
}

#[test]
fn a_new_session_sees_only_the_locks_of_its_own_directory() {
    check(
        "
        h connects
        a joins
        a lock.lock filePath=/p-old/x -> ok
        h hook.mail agent=claude-code shortName=claude session=s1 project=/p withNeighbours=true -> ok locks=[]
        a lock.lock filePath=/p/x -> ok
        h hook.mail agent=claude-code shortName=claude session=s1 project=/p withNeighbours=true -> ok locks.0.filePath=/p/x
    ",
    );
}

#[test]
fn hooks_of_one_session_learn_what_others_hold_in_their_work_tree_and_report_what_changed() {
    check(
        "
        a joins
        h connects
        a lock.lock filePaths=[\"/r/x\",\"/r/src/\",\"/elsewhere/y\",\"/**/*.md\"] -> ok
        h hook.edit agent=claude-code shortName=claude session=s1 project=/r files=[\"/r/own\"] withLocks=true \
          -> ok others.0.filePath=/**/*.md others.1.filePath=/r/src/ others.2.filePath=/r/x own.0.filePath=/r/own
        h hook.edit agent=claude-code shortName=claude session=s1 project=/r files=[] -> ok
        h hook.mail agent=claude-code shortName=claude session=s1 project=/r withOwnLocks=true -> ok own.0.filePath=/r/own
        a whoami -> ok you.id=$a
        h hook.changed agent=claude-code shortName=claude session=s1 project=/r holder=$a files=[\"/r/x\"] command=make -> ok sent=true
        a inbox -> ok messages.0.fromName=claude-r
        h hook.changed agent=claude-code shortName=claude session=s1 project=/r holder=nobody files=[\"/r/x\"] -> ok sent=false
    ",
    );
}
