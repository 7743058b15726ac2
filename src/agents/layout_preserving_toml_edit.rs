//! Edits a TOML file with `toml_edit` and keeps the file's line endings. New tables are added at the end of the file.
//!
//! **Invariant:** a file is changed only if `toml_edit` reproduces the original text exactly, except for line endings.

use toml_edit::{ArrayOfTables, Decor, DocumentMut, Item, Table};

/// A TOML file.
pub(super) struct TomlFile<'a> {
    text: &'a str,
    /// The content, with a line feed at the end of each line.
    pub document: DocumentMut,
}

impl<'a> TomlFile<'a> {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// If the text is not valid TOML, or if an edit would also change unrelated lines; the error says why.
    pub fn parse(text: &'a str) -> Result<TomlFile<'a>, String> {
        // `toml_edit` puts a line feed at the end of every line, even at the end of the last line.
        let mut plain = text.replace("\r\n", "\n");
        if !plain.is_empty() && !plain.ends_with('\n') {
            plain.push('\n');
        }
        let cause = |error: toml_edit::TomlError| error.message().trim().replace('\n', " ");
        let document: DocumentMut =
            plain.parse().map_err(|error| format!("it is not valid TOML ({})", cause(error)))?;
        if document.to_string() != plain {
            return Err("an edit would change other parts of it".into());
        }
        Ok(TomlFile { text, document })
    }

    /// The text with the changes. The lines before and after the changes keep their line endings.
    pub fn print(&self) -> String {
        let new = self.document.to_string();
        let (old, new): (Vec<&str>, Vec<&str>) =
            (self.text.split_inclusive('\n').collect(), new.split_inclusive('\n').collect());
        let is_same = |(old, new): &(&&str, &&str)| content(old) == content(new);
        let n_head = old.iter().zip(&new).take_while(is_same).count();
        let tails = old[n_head..].iter().rev().zip(new[n_head..].iter().rev());
        let n_tail = tails.take_while(is_same).count();
        let end = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let is_last = |n: usize| n + 1 == new.len();
        let line = |(n, new_line): (usize, &&str)| {
            let same = if n < n_head { old.get(n) } else { old.get((n + old.len()).wrapping_sub(new.len())) };
            match same.filter(|_| n < n_head || n >= new.len() - n_tail) {
                // The last line of a text may have no line ending.
                Some(same) if same.ends_with('\n') || is_last(n) => (*same).to_owned(),
                _ => format!("{}{end}", content(new_line)),
            }
        };
        new.iter().enumerate().map(line).collect()
    }

    /// Prepares the file for a new table at its end. Returns the position of the new table, and the text to put before
    /// it. This text contains a blank line, and the comments that were at the end of the file.
    pub fn make_room_at_end(&mut self) -> (isize, String) {
        let mut last = 0;
        each_table(self.document.as_table_mut(), &mut |table| last = last.max(table.position().unwrap_or(0)));
        let trailing = self.document.trailing().as_str().unwrap_or("").to_owned();
        let is_first = self.document.as_table().is_empty() && trailing.is_empty();
        self.document.set_trailing("");
        (last + 1, format!("{trailing}{}", if is_first { "" } else { "\n" }))
    }

    /// Sets the positions of a table and of the tables in it, so that they come last in the file. Call this before the
    /// table is inserted.
    pub fn move_to_end(&mut self, table: &mut Table) {
        let (mut position, prefix) = self.make_room_at_end();
        table.set_position(Some(position));
        table.decor_mut().set_prefix(prefix);
        each_table(table, &mut |inner| {
            position += 1;
            inner.set_position(Some(position));
        });
    }

    /// Moves the comments of a removed table to the next table, or to the end of the file.
    pub fn keep_comments_of(&mut self, removed: &Table) {
        let mut comments = prefix_of(removed.decor());
        // `setup` wrote the blank line directly before our table. This blank line is therefore removed too. If a
        // comment is directly before the table, a person has added the comment after set-up. In this case, all lines
        // are kept.
        if comments == "\n" || comments.ends_with("\n\n") {
            comments.pop();
        }
        if comments.is_empty() {
            return;
        }
        let is_behind = |table: &Table| table.position().is_some() && table.position() > removed.position();
        let mut next: Option<isize> = None;
        each_table(self.document.as_table_mut(), &mut |table| {
            if is_behind(table) && !table.is_implicit() && next.is_none_or(|next| table.position() < Some(next)) {
                next = table.position();
            }
        });
        if next.is_none() {
            let trailing = self.document.trailing().as_str().unwrap_or("").to_owned();
            self.document.set_trailing(format!("{comments}{trailing}"));
            return;
        }
        each_table(self.document.as_table_mut(), &mut |table| {
            if table.position() == next {
                let own = prefix_of(table.decor());
                table.decor_mut().set_prefix(format!("{comments}{own}"));
            }
        });
    }
}

/// A line without its line ending.
fn content(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

fn prefix_of(decor: &Decor) -> String {
    decor.prefix().and_then(|prefix| prefix.as_str()).unwrap_or("").to_owned()
}

fn each_table(table: &mut Table, act: &mut impl FnMut(&mut Table)) {
    for (_, item) in table.iter_mut() {
        let inner: Vec<&mut Table> = match item {
            Item::Table(inner) => vec![inner],
            Item::ArrayOfTables(list) => ArrayOfTables::iter_mut(list).collect(),
            _ => Vec::new(),
        };
        for inner in inner {
            act(inner);
            each_table(inner, act);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml_edit::value;

    #[test]
    fn each_line_keeps_its_own_end() {
        for text in ["a = 1\r\nb = 2\n", "a = 1\n\r\n[b]\r\nc = \"\"\"x\r\ny\n\"\"\"", "# c\r\n", "a = 1", "\r\n\n"] {
            let mut file = TomlFile::parse(text).unwrap();
            assert_eq!(file.print(), text);
            let (position, prefix) = file.make_room_at_end();
            let mut table = Table::new();
            table.set_position(Some(position));
            table.decor_mut().set_prefix(prefix);
            table.insert("d", value(1));
            file.document.insert("ours", Item::Table(table));
            let with = file.print();
            let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
            assert!(with.starts_with(text) && with.ends_with(&format!("[ours]{end}d = 1{end}")), "{with:?}");
            let mut file = TomlFile::parse(&with).unwrap();
            if let Some(Item::Table(table)) = file.document.remove("ours") {
                file.keep_comments_of(&table);
            }
            let end = if text.ends_with('\n') { "" } else { end };
            assert_eq!(file.print(), format!("{text}{end}"), "by way of {with:?}");
        }
    }
}
