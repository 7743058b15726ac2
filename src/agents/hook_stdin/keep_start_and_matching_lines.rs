//! Keeps the beginning of a long text. Of the rest, keeps only the needed lines. For example, only a few lines of a
//! large patch contain the names of files.

use super::extract_needed_json_fields::SHORT_MAX;

/// The beginning of a text, and those later lines that are needed.
pub(super) struct KeptText {
    kept: Vec<u8>,
    head_max: usize,
    /// The part of the current line that has been read so far. Used only when the beginning of the text has reached its
    /// maximum length.
    line: Vec<u8>,
    is_cut: bool,
    n_lines: usize,
    lines_max: usize,
}

impl KeptText {
    pub(super) fn new(head_max: usize, lines_max: usize) -> KeptText {
        KeptText { kept: Vec::new(), head_max, line: Vec::new(), is_cut: false, n_lines: 0, lines_max }
    }

    pub(super) fn push(&mut self, byte: u8, line_starts: &[&str]) {
        if !self.is_cut && self.kept.len() < self.head_max {
            return self.kept.push(byte);
        }
        if !self.is_cut {
            self.is_cut = true;
            // The limit may be in the middle of a needed line. So the whole line is collected again.
            let start = self.kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            self.line = self.kept[start..].to_vec();
        }
        if byte == b'\n' {
            self.end_line(line_starts);
        } else if self.line.len() <= SHORT_MAX {
            self.line.push(byte);
        }
    }

    pub(super) fn push_all(&mut self, bytes: &[u8], line_starts: &[&str]) {
        if !self.is_cut && self.kept.len() + bytes.len() <= self.head_max {
            return self.kept.extend_from_slice(bytes);
        }
        for byte in bytes {
            self.push(*byte, line_starts);
        }
    }

    fn end_line(&mut self, line_starts: &[&str]) {
        let line = self.line.trim_ascii_start();
        let is_needed = line_starts.iter().any(|start| line.starts_with(start.as_bytes()));
        if is_needed && self.line.len() <= SHORT_MAX && self.n_lines + self.line.len() < self.lines_max {
            self.n_lines += self.line.len() + 1;
            self.kept.push(b'\n');
            self.kept.append(&mut self.line);
        }
        self.line.clear();
    }

    /// Returns the kept text: the beginning of the text, followed by the needed lines from the rest. Also returns how
    /// many bytes these lines take up.
    pub(super) fn finish(mut self, line_starts: &[&str]) -> (Vec<u8>, usize) {
        if self.is_cut {
            self.end_line(line_starts);
        }
        (self.kept, self.n_lines)
    }
}
