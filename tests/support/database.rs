//! A database for the delivery log of one test: a file, or a database of its own on the PostgreSQL that all tests share.

use std::path::PathBuf;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Row as _};

/// A database that no other test knows.
pub struct Database {
    kind: Kind,
}

enum Kind {
    Sqlite(tempfile::TempDir),
    Postgres { server: String, name: String },
}

impl Database {
    /// A file that is not there yet.
    pub fn sqlite() -> Self {
        Self { kind: Kind::Sqlite(tempfile::tempdir().expect("a folder for the database")) }
    }

    /// A database on the server at `CALLBACKD_TEST_POSTGRES` (such as `postgres://callbackd@127.0.0.1:5432`).
    ///
    /// # Panics
    /// When there is none: tests are run by `bash tests/run.sh`.
    pub async fn postgres() -> Self {
        let server = std::env::var("CALLBACKD_TEST_POSTGRES")
            .unwrap_or_else(|_| panic!("CALLBACKD_TEST_POSTGRES is not set: this test needs a PostgreSQL. Run `bash tests/run.sh`"));
        let name = format!("test_{}_{:08x}", std::process::id(), fastrand::u32(..));
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(&format!("{server}/postgres")).await.expect("the server");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.expect("a database");
        Self { kind: Kind::Postgres { server, name } }
    }

    /// As the configuration names it.
    pub fn url(&self) -> String {
        match &self.kind {
            Kind::Sqlite(folder) => format!("sqlite:{}", folder.path().join("log.db").display()),
            Kind::Postgres { server, name } => format!("{server}/{name}"),
        }
    }

    /// The same behind a proxy, of a server.
    ///
    /// # Panics
    /// For a file.
    pub fn url_at(&self, address: &str) -> String {
        let Kind::Postgres { name, .. } = &self.kind else { panic!("a file has no address") };
        format!("postgres://callbackd@{address}/{name}")
    }

    /// Host and port, of a server.
    ///
    /// # Panics
    /// For a file.
    pub fn address(&self) -> String {
        let Kind::Postgres { server, .. } = &self.kind else { panic!("a file has no address") };
        server.rsplit_once('@').expect("user@host").1.to_owned()
    }

    /// The file.
    ///
    /// # Panics
    /// For a server.
    pub fn file(&self) -> PathBuf {
        let Kind::Sqlite(folder) = &self.kind else { panic!("a server has no file") };
        folder.path().join("log.db")
    }

    /// A connection of the test's own.
    pub async fn connect(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.url()).await.expect("the database")
    }

    /// The first column of what a statement finds, as numbers.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        self.rows(sql).await.iter().map(|row| row.try_get(0).expect("a number")).collect()
    }

    /// What a statement finds.
    pub async fn rows(&self, sql: &str) -> Vec<AnyRow> {
        let mut connection = self.connect().await;
        sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Runs statements.
    pub async fn run(&self, sql: &str) {
        let mut connection = self.connect().await;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Whether it is a file.
    pub const fn is_file(&self) -> bool {
        matches!(self.kind, Kind::Sqlite(_))
    }
}

/// Makes two tests of each function that takes a [`Database`]: one with SQLite and one with PostgreSQL.
macro_rules! with_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::Database::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::Database::postgres().await).await;
            })*
        }
    };
}

pub(crate) use with_both;
