//! Tests the queue of the peers that wait for a lock.

use crate::script::check;

#[test]
fn who_waits_for_a_lock_gets_it_in_turn() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/x -> ok token=1
        b lock.lock filePath=/p/x waitSeconds=60 -> waits
        c lock.lock filePath=/p/x waitSeconds=60 -> waits
        a lock.query -> ok locks.0.queue.0=b locks.0.queue.1=c
        a lock.unlock filePath=/p/x -> ok
        ! b -> '\"token\":2'
        ! c -> ~token
        b leaves
        +6s
        ! c -> '\"token\":3'
        a lock.lock filePath=/p/x waitSeconds=5 -> waits
        +6s
        ! a -> held 'locked by c'
    ",
    );
}

#[test]
fn a_restart_of_the_broker_changes_nobodys_place_in_the_line() {
    check(
        "
        a joins
        b joins
        c joins
        d joins
        e joins
        a lock.lock filePath=/p/x command=build -> ok
        crash
        b joins
        c joins
        d joins
        e joins
        f joins
        b lock.lock filePath=/p/x waitSeconds=60 waitingSince=1794999998000 -> waits
        c lock.lock filePath=/p/x waitSeconds=60 waitingSince=1794999997000 -> waits
        d lock.lock filePath=/p/x waitSeconds=60 -> waits
        +1s
        e lock.lock filePath=/p/x waitSeconds=60 waitingSince=1794999997500 -> waits
        f lock.lock filePath=/p/x waitSeconds=60 waitingSince=1999999999999 -> waits
        a joins
        a lock.query -> ok locks.0.queue=[\"c\",\"e\",\"b\",\"d\",\"f\"]
    ",
    );
}

#[test]
fn a_call_that_is_cancelled_as_it_gets_a_lock_leaves_no_lock_behind() {
    check(
        "
        a joins
        b joins
        a lock.lock filePath=/p/x -> ok
        b lock.lock filePath=/p/old -> ok
        b lock.lock filePaths='[\"/p/x\",\"/p/old\"]' waitSeconds=60 -> waits
        a lock.unlock filePath=/p/x -> ok
        a lock.lock filePath=/p/x waitSeconds=60 -> waits
        b cancels
        ! a -> token
        a lock.lock filePath=/p/old -> held
        b lock.lock filePath=/p/old -> ok
        b cancels
        a lock.lock filePath=/p/old -> held
    ",
    );
}

#[test]
fn a_list_of_locks_also_names_those_who_wait_for_a_lock_of_their_own() {
    check(
        "
        person connects
        a joins
        person lock.lock filePath=/p/x command=build -> ok
        person lock.lock filePath=/p/x command=test waitSeconds=60 -> waits
        person lock.lock filePath=/p/x waitSeconds=60 -> waits
        a lock.query -> ok locks.0.queue.0=$first locks.0.queue.1=$second ~null
        a lock.lock filePath=/p/y command=one -> ok
        a lock.lock filePath=/p/y command=two waitSeconds=60 -> waits
        a lock.lock filePath=/p/y -> ok
        a lock.query filePath=/p/y -> ok locks.0.queue=[\"a\"]
    ",
    );
}

#[test]
fn who_waits_for_a_folder_or_for_several_files_is_not_passed_by_others_in_line() {
    check(
        "
        a joins
        b joins
        c joins
        d joins
        b lock.lock filePath=/p/src/1 -> ok
        a lock.lock filePath=/p/src/ waitSeconds=60 -> waits
        c lock.lock filePath=/p/src/2 waitSeconds=60 -> waits
        c lock.lock filePath=/p/doc waitSeconds=60 -> ok
        d lock.lock filePath=/p/src/3 -> ok
        d lock.unlock filePath=/p/src/3 -> ok
        b lock.unlock filePath=/p/src/1 -> ok
        ! a -> token
        ! c -> ~token
        a lock.unlock filePath=/p/src/ -> ok
        ! c -> token
        c lock.unlock filePath=/p/src/2 -> ok
        b lock.lock filePath=/p/1 -> ok
        a lock.lock filePaths='[\"/p/1\",\"/p/2\"]' waitSeconds=60 -> waits
        c lock.lock filePath=/p/2 waitSeconds=5 -> waits
        d lock.lock filePath=/p/2 waitSeconds=60 -> waits
        +6s
        ! c -> held 'a is ahead of you in line' /p/1
        ! d -> ~token
        a leaves
        ! d -> token
    ",
    );
}

#[test]
fn nobody_waits_in_line_behind_a_request_that_waits_for_the_caller() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/1 -> ok token=1
        b lock.lock filePaths='[\"/p/1\",\"/p/2\"]' waitSeconds=60 -> waits
        a lock.lock filePath=/p/1 waitSeconds=60 -> ok token=1
        a lock.lock filePath=/p/2 waitSeconds=60 -> ok
        a lock.unlock filePath=/p/2 -> ok
        c lock.lock filePath=/p/3 -> ok
        c lock.lock filePath=/p/2 waitSeconds=60 -> waits
        a lock.lock filePath=/p/3 waitSeconds=60 -> waits
        ! c -> token
        c lock.unlock filePath=/p/3 -> ok
        ! a -> token
    ",
    );
}

#[test]
fn a_grant_that_closes_a_cycle_of_waits_ends_one_of_them() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/z -> ok
        c lock.lock filePath=/p/q -> ok
        b lock.lock filePath=/p/z waitSeconds=60 -> waits
        a lock.lock filePaths='[\"/p/q\",\"/p/x\"]' waitSeconds=60 -> waits
        b lock.lock filePath=/p/x -> ok
        ! b -> refused 'a is waiting for b'
        ! a -> ~refused
        b lock.unlock filePath=/p/x -> ok
        c lock.unlock filePath=/p/q -> ok
        ! a -> token
    ",
    );
}

#[test]
fn a_wait_that_would_never_end_is_refused_with_its_cycle() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/1 -> ok
        b lock.lock filePath=/p/2 -> ok
        c lock.lock filePath=/p/3 -> ok
        a lock.lock filePath=/p/2 waitSeconds=60 -> waits
        b lock.lock filePath=/p/3 waitSeconds=60 -> waits
        c lock.lock filePath=/p/1 waitSeconds=60 -> refused 'a is waiting for b and b is waiting for c'
        c lock.unlock filePath=/p/3 -> ok
        ! b -> token
    ",
    );
}

#[test]
fn commands_inside_commands_that_wait_for_each_other_are_refused() {
    check(
        "
        person connects
        person lock.lock filePath=/p/1 command=one -> ok
        person lock.lock filePath=/p/2 command=two -> ok
        person lock.lock filePath=/p/2 command=in-one outerCommands='[\"one\"]' waitSeconds=60 -> waits
        person lock.lock filePath=/p/1 command=in-two outerCommands='[\"two\"]' waitSeconds=60 -> refused 'commands of'
        person lock.unlock filePath=/p/2 command=two -> ok
        ! person -> token
    ",
    );
}

#[test]
fn a_command_that_waits_for_the_lock_around_it_is_refused() {
    check(
        "
        a joins
        b joins
        a lock.lock filePath=/p/1 command=one -> ok
        a lock.lock filePath=/p/1 command=inner outerCommands='[\"zero\",\"one\"]' waitSeconds=60 -> refused 'inside'
        b lock.lock filePath=/p/1 outerCommands='[\"one\"]' waitSeconds=60 -> refused 'inside a command'
        b lock.lock filePath=/p/1 outerCommands='[\"other\"]' waitSeconds=60 -> waits
    ",
    );
}

#[test]
fn a_command_inside_a_command_is_not_behind_a_request_for_the_lock_around_it() {
    check(
        "
        a joins
        b joins
        c joins
        a lock.lock filePath=/p/1 command=one -> ok
        c lock.lock filePath=/p/2 -> ok
        b lock.lock filePaths='[\"/p/1\",\"/p/2\"]' waitSeconds=60 -> waits
        a lock.lock filePath=/p/2 command=inner outerCommands='[\"one\"]' waitSeconds=60 -> waits
        c lock.unlock filePath=/p/2 -> ok
        ! a -> token
    ",
    );
}
