//! `make sim-breaks` puts deliberate bugs into the source. This test checks that each bug from breaks.json can still be
//! put into the source.

use serde_json::Value;
use std::path::Path;

#[test]
fn every_break_fits_the_source_in_one_place() {
    let entries: Value = serde_json::from_str(include_str!("breaks.json")).unwrap();
    let entries = entries.as_array().unwrap();
    assert_eq!(entries.len(), 13);
    for entry in entries {
        let [name, file, find, replace] = ["name", "file", "find", "replace"].map(|key| entry[key].as_str().unwrap());
        let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
        assert_eq!(
            source.matches(find).count(),
            1,
            "{name} in tests/simulate/breaks.json: {file} has this text so often: {find}"
        );
        assert_ne!(find, replace, "{name} changes nothing");
    }
}
