//! Macros that write rows. Each value stands beside the name of its column, so that nobody has to count positions.

/// The placeholder for each column after the first.
macro_rules! placeholder {
    ($column:literal) => {
        ",?"
    };
}

/// Runs `INSERT INTO table(columns) VALUES (values)`. The verb is an argument and may also be `INSERT OR REPLACE`.
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

/// Runs `UPDATE table SET column = value, … WHERE key = value`.
macro_rules! update_row {
    ($store:ident.$write:ident, $table:literal, { $first:literal: $value:expr $(, $column:literal: $more:expr)* $(,)? }, $key:literal: $is:expr) => {
        $store.$write(
            concat!("UPDATE ", $table, " SET ", $first, "=?" $(, ",", $column, "=?")*, " WHERE ", $key, "=?"),
            rusqlite::params![$value $(, $more)*, $is],
        )
    };
}

pub(super) use {placeholder, update_row, write_row};
