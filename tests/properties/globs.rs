//! Compares the overlap check for paths and globs with a simple but slow check.
//!
//! Two globs overlap if a path matches both. The result must not change if the globs are swapped, or are written in a
//! different form.

use crate::choices::Choices;
use slm_mesh::base::path_overlap::{is_pattern, normal, overlap};
use std::sync::OnceLock;

/// Cuts the bytes after the first byte into two halves, and checks the halves as two globs. If the first byte is even,
/// also maps the bytes of each half to a few characters, and checks the two short globs that result.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let how = choices.byte();
    let (a, b) = choices.0.split_at(choices.0.len() / 2);
    if how & 1 == 0 {
        let sign = |byte: &u8| char::from(b"ab*?//.a*/"[usize::from(*byte) % 10]);
        let small = |bytes: &[u8]| normal(&format!("/{}", bytes.iter().take(14).map(sign).collect::<String>()));
        check_small(&small(a), &small(b));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    check_any(&text(a), &text(b));
}

/// Checks what must hold for any two paths or globs.
fn check_any(a: &str, b: &str) {
    let (plain_a, plain_b) = (normal(a), normal(b));
    for (given, plain) in [(a, &plain_a), (b, &plain_b)] {
        assert_eq!(normal(plain), *plain, "normal once is normal for good: {given:?}");
        assert_eq!(plain.starts_with('/'), given.starts_with('/'), "{given:?}");
        assert!(!plain.contains("//") && plain.split('/').all(|part| part != "."), "{given:?}");
        assert!(!plain.starts_with('/') || plain.split('/').all(|part| part != ".."), "{given:?}");
        assert!(overlap(plain, plain), "{plain:?} does not meet itself");
        // A path that ends with a slash overlaps with each path below it.
        assert!(overlap(&format!("{}/", plain.trim_end_matches('/')), &format!("{plain}/x")), "{plain:?}");
    }
    assert_eq!(overlap(&plain_a, &plain_b), overlap(&plain_b, &plain_a), "{plain_a:?} {plain_b:?}");
    if !is_pattern(&plain_a) && !is_pattern(&plain_b) {
        assert_eq!(overlap(&plain_a, &plain_b), plain_a == plain_b || one_is_below(&plain_a, &plain_b));
    }
}

/// Whether one of the two paths is below the other path. No path is below a pattern.
fn one_is_below(a: &str, b: &str) -> bool {
    let is_below = |path: &str, folder: &str| {
        !is_pattern(folder) && path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    };
    is_below(a, b) || is_below(b, a)
}

/// Compares the overlap check for two short globs with a search through all short paths.
fn check_small(a: &str, b: &str) {
    let (parts_a, parts_b) = (parts(a), parts(b));
    let got = overlap(a, b);
    let witness = universe().iter().find(|path| fits_path(path, &parts_a) && fits_path(path, &parts_b));
    if let Some(path) = witness {
        assert!(got, "{a} and {b} both mean {path:?}");
    }
    assert_eq!(got, meet(&parts_a, &parts_b) || one_is_below(a, b), "{a} {b}");
}

fn parts(path: &str) -> Vec<&str> {
    let folder = path.ends_with('/').then_some("**");
    path.split('/').filter(|part| !part.is_empty()).chain(folder).collect()
}

/// All paths of at most three names. Each name is from a list of eight short names.
fn universe() -> &'static [Vec<&'static str>] {
    static ALL: OnceLock<Vec<Vec<&'static str>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let names = ["a", "b", "aa", "ab", "ba", "bb", ".a", "a.b"];
        let mut all = vec![Vec::new()];
        let mut from = 0;
        for _ in 0..3 {
            let to = all.len();
            for n in from..to {
                let longer: Vec<Vec<&str>> = names.iter().map(|name| [all[n].clone(), vec![*name]].concat()).collect();
                all.extend(longer);
            }
            from = to;
        }
        all
    })
}

fn fits_path(path: &[&str], pattern: &[&str]) -> bool {
    match (path, pattern) {
        (_, ["**", rest @ ..]) => (0..=path.len()).any(|n| fits_path(&path[n..], rest)),
        ([name, path @ ..], [first, rest @ ..]) => {
            fits_name(name.as_bytes(), first.as_bytes()) && fits_path(path, rest)
        }
        (path, pattern) => path.is_empty() && pattern.is_empty(),
    }
}

fn fits_name(name: &[u8], pattern: &[u8]) -> bool {
    match (name, pattern) {
        (_, [b'*', rest @ ..]) => (0..=name.len()).any(|n| fits_name(&name[n..], rest)),
        ([c, name @ ..], [p, rest @ ..]) => (*p == b'?' || c == p) && fits_name(name, rest),
        (name, pattern) => name.is_empty() && pattern.is_empty(),
    }
}

/// Whether any path matches both lists of patterns. Each pattern stands for one part of the path, and `**` for any
/// number of parts.
fn meet(a: &[&str], b: &[&str]) -> bool {
    match (a, b) {
        ([], []) => true,
        (["**", rest @ ..], _) if meet(rest, b) => true,
        (_, ["**", rest @ ..]) if meet(a, rest) => true,
        (["**", ..], ["**", ..]) => false,
        (["**", ..], [_, rest @ ..]) => meet(a, rest),
        ([_, rest @ ..], ["**", ..]) => meet(rest, b),
        ([x, a @ ..], [y, b @ ..]) => meet_names(x.as_bytes(), y.as_bytes()) && meet(a, b),
        _ => false,
    }
}

fn meet_names(a: &[u8], b: &[u8]) -> bool {
    match (a, b) {
        ([], []) => true,
        ([b'*', rest @ ..], _) if meet_names(rest, b) => true,
        (_, [b'*', rest @ ..]) if meet_names(a, rest) => true,
        ([b'*', ..], [b'*', ..]) => false,
        ([b'*', ..], [_, rest @ ..]) => meet_names(a, rest),
        ([_, rest @ ..], [b'*', ..]) => meet_names(rest, b),
        ([x, a @ ..], [y, b @ ..]) => (x == y || *x == b'?' || *y == b'?') && meet_names(a, b),
        _ => false,
    }
}
