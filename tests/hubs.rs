//! Hubs on the local network, as far as it goes without one; `make test-machines` has the rest.

mod support;

use support::Place;

fn refused(place: &Place, args: &[&str]) -> (i32, String) {
    let out = place.run(args);
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn who_switched_discovery_off_is_not_answered_with_an_empty_list() {
    let place = Place::new();
    let (status, said) = refused(&place, &["hubs"]);
    assert!(status == 1 && said.contains("SLM_MESH_DISCOVERY is off"), "{said}");
    let place = Place::new().with("SLM_MESH_DISCOVERY", "false");
    let (status, said) = refused(&place, &["hubs"]);
    assert!(status == 2 && said.contains("one of on, off"), "{said}");
    assert!(!place.dir.exists(), "looking starts no broker");
}

#[test]
fn words_that_mean_nothing_are_refused() {
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
fn the_announcing_process_is_nobodys_verb() {
    let place = Place::new();
    for topic in [&["help"][..], &["help", "man"], &["help", "completions", "bash"]] {
        assert!(!place.ok(topic).contains("announce "), "{topic:?}");
    }
}
