//! Statements with many rows each, through sqlx.

use std::sync::Arc;

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe};

use super::insert::Table;
use super::value::Value;
use super::{StoreError, within};

pub(super) type Statement<'q> = Query<'q, Any, AnyArguments>;

/// The statements that insert into one table: for 1, 2, 4 and so on rows, so that a connection has each ready after its first time.
pub(super) struct Statements(Vec<Arc<str>>);

impl Statements {
    /// With at most so many rows in one.
    pub(super) fn new(table: &Table, most: usize) -> Self {
        let sizes = std::iter::successors(Some(1), |rows| Some(rows * 2)).take_while(|rows| *rows <= most);
        Self(sizes.map(|rows| table.statement(rows).into()).collect())
    }

    /// Inserts a row for each item.
    ///
    /// # Errors
    /// [`StoreError`] of the first statement that did not succeed.
    pub(super) async fn insert<'i, T, V>(
        &self,
        connection: &mut AnyConnection,
        items: &'i [T],
        values: impl Fn(&'i T) -> V,
    ) -> Result<(), StoreError>
    where
        V: IntoIterator<Item = Value<'i>>,
    {
        for (items, statement) in self.chunks(items) {
            let bound = items.iter().flat_map(&values).fold(statement, |statement, value| value.bind_to(statement));
            within(bound.execute(&mut *connection)).await?;
        }
        Ok(())
    }

    /// Divides items among the fewest statements.
    fn chunks<'i, T>(&self, items: &'i [T]) -> impl Iterator<Item = (&'i [T], Statement<'i>)> {
        let mut left = items;
        std::iter::from_fn(move || {
            let size = left.len().min(1 << (self.0.len() - 1)).checked_ilog2()?;
            let (chunk, rest) = left.split_at(1 << size);
            left = rest;
            Some((chunk, sqlx::query(AssertSqlSafe(Arc::clone(self.0.get(size as usize)?)))))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    #[test]
    fn any_number_of_items_takes_few_statements_of_known_sizes() {
        const ROWS: usize = 256;
        let table = Table { into: Cow::Borrowed("t (a, b)"), columns: 2, conflict: Cow::Borrowed("ON CONFLICT DO NOTHING") };
        let statements = Statements::new(&table, ROWS);
        for count in [0, 1, 2, 3, 255, 256, 257, 1000] {
            let items = vec![(); count];
            let sizes: Vec<usize> = statements.chunks(&items).map(|(chunk, _)| chunk.len()).collect();
            assert_eq!(sizes.iter().sum::<usize>(), count);
            assert!(sizes.iter().all(|size| size.is_power_of_two() && *size <= ROWS) && sizes.len() <= count / ROWS + 8, "{sizes:?}");
        }
        assert_eq!(table.statement(2), "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING");
    }
}
