//! Hubs on the local network, tested on one machine. `make test-machines` runs the tests that need several machines.

mod support;

use support::Place;

fn refused(place: &Place, args: &[&str]) -> (i32, String) {
    let out = place.run(args);
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn discovery_that_is_off_is_an_error_and_not_an_empty_list() {
    let place = Place::new();
    let (status, said) = refused(&place, &["hubs"]);
    assert!(status == 1 && said.contains("SLM_MESH_DISCOVERY is off"), "{said}");
    let place = Place::new().with("SLM_MESH_DISCOVERY", "false");
    let (status, said) = refused(&place, &["hubs"]);
    assert!(status == 2 && said.contains("one of on, off"), "{said}");
    assert!(!place.dir.exists(), "browsing starts no broker");
}

#[test]
fn wrong_arguments_are_refused() {
    let place = Place::new();
    for words in [&["hubs", "--wait", "0"][..], &["hubs", "--wait", "soon"], &["hubs", "--wait", "61"], &["hubs", "x"]]
    {
        assert_eq!(refused(&place, words).0, 2, "{words:?}");
    }
    for words in
        [&["announce"][..], &["announce", "desk", "0", "1", "1"], &["announce", "--", "-x", "1", "1", "1", "here"]]
    {
        assert_eq!(refused(&place, words).0, 2, "{words:?}");
    }
}

#[test]
fn help_does_not_list_the_announcing_command() {
    let place = Place::new();
    for topic in [&["help"][..], &["help", "man"], &["help", "completions", "bash"]] {
        assert!(!place.ok(topic).contains("announce "), "{topic:?}");
    }
}
