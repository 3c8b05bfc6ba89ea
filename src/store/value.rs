//! A value on its way into a row, for either client library.

use std::borrow::Cow;

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::statements::Statement;

/// A value, which may be none, of a type that PostgreSQL wants to know also where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Int(Option<i64>),
    Text(Option<Cow<'a, str>>),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) const fn int(value: i64) -> Self {
        Self::Int(Some(value))
    }

    pub(super) const fn text(value: &'a str) -> Self {
        Self::Text(Some(Cow::Borrowed(value)))
    }

    pub(super) fn maybe(value: Option<&'a str>) -> Self {
        Self::Text(value.map(Cow::Borrowed))
    }

    /// In the next place of a statement of sqlx.
    pub(super) fn bind_to(self, statement: Statement<'a>) -> Statement<'a> {
        match self {
            Self::Int(value) => statement.bind(value),
            Self::Text(Some(Cow::Borrowed(value))) => statement.bind(value),
            Self::Text(value) => statement.bind(value.map(Cow::into_owned)),
            Self::Bytes(value) => statement.bind(value),
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Int(None) | Self::Text(None) => ValueRef::Null,
            Self::Int(Some(value)) => ValueRef::Integer(*value),
            Self::Text(Some(value)) => ValueRef::Text(value.as_bytes()),
            Self::Bytes(value) => ValueRef::Blob(value),
        }))
    }
}
