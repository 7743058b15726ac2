//! Stores ascending numbers, such as sequence numbers, in SQL columns.

use crate::base::id_types::{EventSeq, FencingToken, MessageSeq};
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlResult, ToSqlOutput, Value, ValueRef};

macro_rules! integer_column {
    ($name:ident) => {
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }
        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<$name> {
                i64::column_result(value).map($name)
            }
        }
        impl From<$name> for Value {
            fn from(number: $name) -> Value {
                number.0.into()
            }
        }
    };
}

integer_column!(MessageSeq);
integer_column!(EventSeq);
integer_column!(FencingToken);
