//! Converts ids and sequence numbers to the values of SQL columns, and back.

use crate::base::id_types::{EventSeq, FencingToken, MeshUrl, MessageSeq, PeerId};
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

macro_rules! text_column {
    ($name:ident) => {
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.as_str().to_sql()
            }
        }
        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<$name> {
                String::column_result(value).map($name::from)
            }
        }
        impl From<&$name> for Value {
            fn from(id: &$name) -> Value {
                id.as_str().to_owned().into()
            }
        }
    };
}

text_column!(PeerId);
text_column!(MeshUrl);
