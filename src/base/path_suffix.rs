//! Appends text to a path, such as the `-wal` in the name of a write-ahead log.

use std::path::{Path, PathBuf};

/// The path with `suffix` appended to its last component. The bytes of the path stay the same. Text made by `display`
/// would lead to a different file if the path is not UTF-8.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
