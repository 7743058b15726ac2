//! Tests the operations on peers, messages, shared state and events.

use crate::script::{Script, check};

#[test]
fn mail_is_offered_again_until_it_was_shown() {
    check(
        "
        a joins
        b joins
        a send to=b message=hello -> ok messageId=$m recipients.0.receipt=accepted
        ! b -> '\"unread\":1'
        b status -> ok mail.unread=1 mail.from.0=a
        b inbox -> ok messages.0.payload=hello ~again
        b inbox -> ok messages.0.payload=hello messages.0.redelivered=true
        a inbox filter=sent -> ok messages.0.receipt=offered messages.0.channel=mesh_inbox
        b inbox.mark_read items=[$m] -> ok
        b inbox -> ok messages=[]
        a inbox filter=sent -> ok messages.0.receipt=read
    ",
    );
}

#[test]
fn the_number_of_messages_that_are_left_is_that_of_the_filter() {
    check(
        "
        a joins
        b joins
        c joins
        c channel.join channel=#api -> ok
        a send to=c message=one -> ok messageId=$m
        a send to=#api message=two -> ok
        a send to=c message=three -> ok
        b send to=c message=other -> ok
        c inbox from=b -> ok messages.0.payload=other remaining=0
        c inbox from=a limit=1 -> ok messages.0.payload=one remaining=2
        c inbox from=#api -> ok messages.0.payload=two remaining=0
        c inbox after=1 limit=1 -> ok messages.0.payload=two remaining=2
        c inbox limit=1 -> ok messages.0.payload=one remaining=3
        c inbox.mark_read items=[$m] -> ok
        c inbox from=a limit=1 -> ok messages.0.payload=two remaining=1
    ",
    );
}

#[test]
fn an_answer_acknowledges_what_it_answers() {
    check(
        "
        a joins
        b joins
        a send to=b message=question -> ok messageId=$m
        b send to=a message=answer replyTo=$m -> ok
        a inbox filter=sent -> ok messages.0.receipt=acked
        a inbox -> ok messages.0.payload=answer messages.0.replyTo=$again
        b inbox -> ok messages=[]
        a send to=b message=x replyTo=nonsense -> not_found nonsense
    ",
    );
}

#[test]
fn mail_waits_for_who_is_away_and_finds_it_again() {
    check(
        "
        a joins
        b joins
        b leaves
        a peers scope=machine -> ok peers=[]
        a peers scope=machine includeAway=true -> ok '\"name\":\"b\"' '\"status\":\"away\"'
        a send to=b message=later -> ok recipients.0.here=false
        crash
        b joins
        b inbox -> ok messages.0.payload=later
        a joins
        a send to=nobody message=x -> not_found nobody mesh_peers
    ",
    );
}

#[test]
fn groups_reach_those_who_are_here_and_never_the_sender() {
    check(
        "
        a joins
        b joins
        c@q joins
        a send to=all message=x -> ok '\"name\":\"b\"' '\"name\":\"c\"' '\"name\":\"ada\"' ~'\"name\":\"a\"'
        a send to=directory message=x -> ok '\"name\":\"b\"' ~'\"name\":\"c\"'
        a send to=repo message=x -> ok '\"name\":\"b\"' '\"name\":\"c\"'
        a send to=agent:codex message=x -> ok note
        a send to=b message=once key=k1 -> ok ~repeated
        a send to=b message=once key=k1 -> ok repeated=true
        b inbox -> ok '\"remaining\":0'
        b channel.join channel=#api -> ok
        a send to=#api message=once key=k2 -> ok ~note
        a send to=#api message=once key=k2 -> ok repeated=true ~note
        c@q channel.join channel=#api -> ok
        a send to=#api message=once key=k2 -> ok repeated=true 'did not reach these members of #api: c; ' ~'\"name\":\"c\"'
    ",
    );
}

#[test]
fn a_message_expires_unread() {
    check(
        "
        a joins
        b joins
        a send to=b message=soon expiresMinutes=1 -> ok messageId=$m
        +2m
        b inbox -> ok messages=[]
        b status -> ok ~mail
        b send to=a message=late replyTo=$m -> ok
        a inbox filter=sent -> ok messages.0.receipt=expired
    ",
    );
}

#[test]
fn a_waiting_inbox_is_answered_by_what_comes_and_by_time() {
    check(
        "
        a joins
        b joins
        b inbox waitSeconds=10 -> waits
        a send to=b message=now -> ok
        ! b -> now
        a inbox waitSeconds=10 -> waits
        +9s
        ! a -> ~messages
        +2s
        ! a -> '\"messages\":[]'
    ",
    );
}

#[test]
fn state_changes_only_if_nobody_else_changed_it() {
    check(
        "
        a joins
        b joins
        a state.set key=k value=one expect=0 -> ok version=1
        b state.set key=k value=two expect=0 -> conflict version=1
        b state.set key=k value=two expect=1 -> ok version=2
        a state.get key=k -> ok entry.value=two entry.updatedByName=b
        a state.delete key=k expect=1 -> conflict
        a state.delete key=k -> ok deleted=true
        a state.get key=k -> ok entry=null
        a state.set key=k value=three -> ok version=4
        a state.set key=t value=x ttlMinutes=1 -> ok
        +2m
        a state.get key=t -> ok entry=null
        a state.list prefix=k -> ok entries.0.key=k
        a state.set key='\"odd\\u0000one\"' value=x -> ok
        a state.set key='\"odd\\u0000two\"' value=x -> ok
        a state.list prefix='\"odd\\u0000t\"' -> ok entries.0.key='odd\u{0}two' ~one
        a state.get key=k colour=red -> usage colour key
        a state.get -> usage key
        a state.set key=k value=5 -> usage value
    ",
    );
}

#[test]
fn events_have_a_cursor_that_never_goes_back() {
    check(
        "
        a joins
        b joins
        a events.read types='[\"peer_joined\"]' -> ok events.0.emittedByName=a events.1.emittedByName=b
        b events.read waitSeconds=5 -> waits
        a events.emit type=deploy.done payload='{\"to\":\"x\"}' -> ok
        ! b -> deploy.done '\"to\":\"x\"'
        b events.subscribe types='[\"deploy.done\"]' -> ok subscribed.0=deploy.done
        a state.set key=k value=v -> ok
        ! b -> ~event
        a events.emit type=deploy.done -> ok
        ! b -> '\"method\":\"event\"' deploy.done
        b events.unsubscribe -> ok
        a events.emit type=deploy.done -> ok
        ! b -> ~event
        a events.emit type=deploy -> usage dot
        a events.read since=yesterday -> usage since
        a events.read since=2020-01-01T00:00:00Z limit=1 -> ok events.0.seq=1 more=true seq=1
        +72h
        +1s
        a events.read after=1 -> ok gap=true
        a events.read after=1 types='[\"never.comes\"]' waitSeconds=60 -> ok gap=true
    ",
    );
}

#[test]
fn a_fast_sender_is_told_to_wait() {
    let mut run = Script::new();
    run.run("a joins");
    run.run("b joins");
    for _ in 0..100 {
        run.run("a send to=b message=x -> ok");
    }
    run.run("a send to=b message=x -> limited 'rate limit' SLM_MESH_RATE");
    run.run("b send to=a message=x -> ok");
    run.run("a inbox -> ok messages.0.payload=x");
    run.run("+11s");
    run.run("a send to=b message=x -> ok");
}

#[test]
fn names_are_given_once_and_kept() {
    check(
        "
        a joins
        a@other joins
        a peers scope=machine -> ok peers.0.name=a-2
        a whoami -> ok you.name=a kind=session
        a@other summary summary='building the thing' -> ok
        a peers scope=machine -> ok peers.0.summary='building the thing'
        a peers scope=directory -> ok peers=[]
        a peers scope=galaxy -> usage directory
    ",
    );
}
