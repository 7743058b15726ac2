//! Reads and writes rows. Each value stands beside the name of its column, so that no positions have to be counted.

use rusqlite::Row;
use rusqlite::types::FromSql;

/// Reads the columns of a row by name. A column that is read in the order of the query is found at once, while
/// [`Row::get`] compares the name with those of all columns that come before the right one. These comparisons made up a
/// third of the cost of reading a message.
pub(super) struct NamedColumns<'row, 'statement> {
    row: &'row Row<'statement>,
    /// The position of the column that is probably read next.
    next: usize,
    /// The order of the columns in the earlier rows, and how many columns of this row have been read; `None` if no
    /// order is kept between rows.
    order: Option<(&'row mut ColumnOrder, usize)>,
}

/// The columns of a query in the order in which the first row was read: the name and the position of each. The other
/// rows are read by the same code, so it is enough to compare the addresses of the names, not their texts.
#[derive(Debug, Default)]
pub(super) struct ColumnOrder(Vec<(&'static str, usize)>);

impl<'row, 'statement> NamedColumns<'row, 'statement> {
    pub(super) fn of(row: &'row Row<'statement>) -> Self {
        NamedColumns { row, next: 0, order: None }
    }

    /// The columns of one row of a query that may return several rows.
    pub(super) fn of_one(row: &'row Row<'statement>, order: &'row mut ColumnOrder) -> Self {
        NamedColumns { row, next: 0, order: Some((order, 0)) }
    }

    /// The value in the column of this name.
    pub(super) fn get<T: FromSql>(&mut self, name: &'static str) -> rusqlite::Result<T> {
        let Some((order, n_read)) = &mut self.order else {
            let at = self.find(name)?;
            return self.row.get(at);
        };
        let n = *n_read;
        *n_read += 1;
        if let Some((_, at)) = order.0.get(n).filter(|(known, _)| std::ptr::eq(*known, name)) {
            return self.row.get(*at);
        }
        let at = self.find(name)?;
        if let Some((order, _)) = &mut self.order {
            order.0.truncate(n);
            order.0.push((name, at));
        }
        self.row.get(at)
    }

    fn find(&mut self, name: &str) -> rusqlite::Result<usize> {
        let query = self.row.as_ref();
        let is_next = query.column_name(self.next).is_ok_and(|next| next == name);
        let at = if is_next { self.next } else { query.column_index(name)? };
        self.next = at + 1;
        Ok(at)
    }
}

/// The placeholder for each column after the first.
macro_rules! placeholder {
    ($column:literal) => {
        ",?"
    };
}

/// Runs `INSERT INTO table(columns) VALUES (values)`. An argument chooses between `INSERT` and `INSERT OR REPLACE`.
macro_rules! write_row {
    ($store:expr, $verb:literal, $table:literal, { $first:literal: $value:expr $(, $column:literal: $more:expr)* $(,)? }) => {
        $store.write(
            concat!(
                $verb, " INTO ", $table, "(", $first $(, ",", $column)*, ") VALUES (?" $(, placeholder!($column))*, ")"
            ),
            rusqlite::params![$value $(, $more)*],
        )
    };
}

/// Adds a row, or changes the row that has the same key. The columns of the key are given first. An existing row is
/// changed in place, which `INSERT OR REPLACE` does not do, so an index is written only if its columns have changed.
macro_rules! upsert_row {
    ($store:expr, $table:literal, { $key:literal: $is:expr $(, $part:literal: $part_is:expr)* $(,)? },
     { $first:literal: $value:expr $(, $column:literal: $more:expr)* $(,)? }) => {
        $store.write(
            concat!(
                "INSERT INTO ", $table, "(", $key $(, ",", $part)*, ",", $first $(, ",", $column)*, ") VALUES (?",
                $(placeholder!($part),)* ",?", $(placeholder!($column),)* ") ON CONFLICT(", $key $(, ",", $part)*,
                ") DO UPDATE SET ", $first, "=excluded.", $first $(, ",", $column, "=excluded.", $column)*
            ),
            rusqlite::params![$is $(, $part_is)*, $value $(, $more)*],
        )
    };
}

/// Runs `UPDATE table SET column = value, … WHERE key = value`.
macro_rules! update_row {
    ($store:ident.$write:ident, $table:literal, { $first:literal: $value:expr $(, $column:literal: $more:expr)* $(,)? }, $key:literal: $is:expr) => {
        $store.$write(
            concat!("UPDATE ", $table, " SET ", $first, "=?" $(, ",", $column, "=?")*, " WHERE ", $key, "=?"),
            rusqlite::params![$value $(, $more)*, $is],
        )
    };
}

pub(super) use {placeholder, update_row, upsert_row, write_row};

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn columns_are_found_by_name_in_whatever_order_they_are_read() {
        let db = Connection::open_in_memory().unwrap();
        let read = |row: &Row<'_>| {
            let mut row = NamedColumns::of(row);
            let in_order: [i64; 3] = [row.get("a")?, row.get("b")?, row.get("c")?];
            let again: [i64; 4] = [row.get("c")?, row.get("a")?, row.get("c")?, row.get("B")?];
            assert!(row.get::<i64>("d").is_err() && row.get::<String>("a").is_err());
            Ok((in_order, again))
        };
        let found = db.query_row("SELECT 1 AS a, 2 AS b, 3 AS c", [], read).unwrap();
        assert_eq!(found, ([1, 2, 3], [3, 1, 3, 2]));
        let mut order = ColumnOrder::default();
        let read = |row: &Row<'_>| {
            let mut row = NamedColumns::of_one(row, &mut order);
            let a: i64 = row.get("a")?;
            // The columns of the second row are read in a different order from those of the first and the third row.
            let first = if a == 2 { row.get::<i64>("c")? } else { row.get("b")? };
            Ok((a, first, row.get::<i64>("c")?))
        };
        let mut rows = db.prepare("SELECT 1 AS a, 10 AS b, 7 AS c UNION ALL VALUES (2, 20, 7), (3, 30, 7)").unwrap();
        let found: Vec<_> = rows.query_map([], read).unwrap().flatten().collect();
        assert_eq!(found, [(1, 10, 7), (2, 7, 7), (3, 30, 7)]);
    }
}
