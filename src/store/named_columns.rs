//! Reads and writes rows by the names of their columns. Callers need not know the positions of columns.

use rusqlite::Row;
use rusqlite::types::FromSql;

/// Reads the columns of a row by name. If columns are read in the order of the query, each column is found immediately.
/// [`Row::get`] searches from the first column each time. With `Row::get`, a third of the time for reading a message
/// went into this search.
pub(super) struct NamedColumns<'row, 'statement> {
    row: &'row Row<'statement>,
    /// The position of the column that is likely to be read next.
    next: usize,
    /// The order in which the columns of earlier rows were read, and the number of columns that were read from this
    /// row. `None` if the order is not stored.
    order: Option<(&'row mut ColumnOrder, usize)>,
}

/// The name and position of each column, in the order in which the columns are read. The same code reads all rows of a
/// query, so the addresses of two names can be compared instead of their texts.
#[derive(Debug, Default)]
pub(super) struct ColumnOrder(Vec<(&'static str, usize)>);

impl<'row, 'statement> NamedColumns<'row, 'statement> {
    pub(super) fn of(row: &'row Row<'statement>) -> Self {
        NamedColumns { row, next: 0, order: None }
    }

    /// Reads one row of a query that is run often, or that may return several rows. Pass the same `order` for all rows.
    pub(super) fn of_one(row: &'row Row<'statement>, order: &'row mut ColumnOrder) -> Self {
        NamedColumns { row, next: 0, order: Some((order, 0)) }
    }

    /// The value in the column with this name.
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

/// Expands to the SQL placeholder for a column that is not the first.
macro_rules! placeholder {
    ($column:literal) => {
        ",?"
    };
}

/// Runs `INSERT INTO table(columns) VALUES (values)`. Instead of `INSERT`, `$verb` may be `INSERT OR REPLACE`.
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

/// Adds a row, or updates the existing row with the same key. The first columns are the columns of the key. Unlike
/// `INSERT OR REPLACE`, an update writes only the indexes whose columns have changed.
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
            // The columns of the second row are read in a different order than the columns of the other rows.
            let first = if a == 2 { row.get::<i64>("c")? } else { row.get("b")? };
            Ok((a, first, row.get::<i64>("c")?))
        };
        let mut rows = db.prepare("SELECT 1 AS a, 10 AS b, 7 AS c UNION ALL VALUES (2, 20, 7), (3, 30, 7)").unwrap();
        let found: Vec<_> = rows.query_map([], read).unwrap().flatten().collect();
        assert_eq!(found, [(1, 10, 7), (2, 7, 7), (3, 30, 7)]);
    }
}
