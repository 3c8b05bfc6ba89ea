//! Whether a delivery log can be written, found out without making or changing anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use sqlx::AnyConnection;
use sqlx::migrate::{AppliedMigration, Migrate as _, MigrateError, Migration};
use tokio::time::{sleep, timeout};

use super::schema::{self, MIGRATIONS};
use super::{LIMIT, StoreError, open, within};
use crate::config::Database;

const FOREIGN: &str = "its tables are those of another program or version; name a database of its own";

/// How long a worker that makes its tables is given: it takes some ten milliseconds.
const MEANWHILE: Duration = Duration::from_millis(500);

/// What a writer of a delivery log would find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its tables, as this version wants them.
    Tables,
    /// A database without them, or without some: the first worker makes them.
    NoTables,
    /// No file: the first worker makes it.
    NoFile,
}

/// Looks at the place of a delivery log as a worker of this user would find it.
///
/// # Errors
/// A worker could not write there, and why.
pub async fn check(database: &Database) -> Result<Found, StoreError> {
    if let Database::Sqlite(path) = database {
        is_writable(folder_of(path))?;
        match OpenOptions::new().write(true).open(path) {
            Ok(_) => schema::is_private(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::NoFile),
            Err(error) => return wrong(format!("the file cannot be opened to write: {error}; it must belong to the worker's user")),
        }
    }
    let mut connection = open(&schema::url_to_look(database)?, schema::set_up_to_look(database)).await?;
    may_write(database, &mut connection).await?;
    let found = look(database, &mut connection).await;
    if found.is_ok() {
        return found;
    }
    // A worker may have been making the tables between two questions.
    sleep(MEANWHILE).await;
    look(database, &mut connection).await
}

async fn look(database: &Database, connection: &mut AnyConnection) -> Result<Found, StoreError> {
    let present = present(database, connection).await?;
    let applied = applied(&present, connection).await?;
    judge(&present, &applied, &schema::migrations(database))
}

fn wrong<T>(what: String) -> Result<T, StoreError> {
    Err(StoreError::Database(what))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Whether a file could be made in a folder: one without a name, which nobody sees and which is gone when it is closed. Where the file system has
/// no such files, the folder is believed.
fn is_writable(folder: &Path) -> Result<(), StoreError> {
    let shown = folder.display();
    match folder.metadata() {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return wrong(format!("{shown} is no folder")),
        Err(error) => return wrong(format!("the folder {shown} is not there ({error}); make it, and give it to the worker's user")),
    }
    let nameless: io::Result<File> = OpenOptions::new().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder);
    match nameless {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {
            wrong(format!("nothing can be made in the folder {shown} ({error}); give it to the worker's user, or name another one"))
        }
        _ => Ok(()),
    }
}

/// Whether a server lets this user write. A file has shown it by being opened.
async fn may_write(database: &Database, connection: &mut AnyConnection) -> Result<(), StoreError> {
    if matches!(database, Database::Sqlite(_)) {
        return Ok(());
    }
    let asked = sqlx::query_scalar(
        "SELECT CASE WHEN current_setting('transaction_read_only') = 'on' THEN 'reads' \
         WHEN has_schema_privilege(current_schema(), 'CREATE') THEN 'writes' ELSE 'makes no tables' END",
    );
    let answer: String = within(asked.fetch_one(connection)).await?;
    match answer.as_str() {
        "writes" => Ok(()),
        "reads" => wrong("it can only be read; name the server that is written to".to_owned()),
        _ => wrong("its user may make no tables; make it the owner of the database, or GRANT CREATE on its schema".to_owned()),
    }
}

/// Those of the log's tables that are there, and the one that says of which version they are.
async fn present(database: &Database, connection: &mut AnyConnection) -> Result<Vec<&'static str>, StoreError> {
    let sql = match database {
        Database::Sqlite(_) => {
            "SELECT CASE WHEN EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = $1) THEN 'there' ELSE 'missing' END"
        }
        Database::Postgres(_) => {
            "SELECT CASE WHEN oid IS NULL THEN 'missing' WHEN has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT') \
             AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE') THEN 'there' ELSE 'denied' END \
             FROM (SELECT to_regclass($1)::oid AS oid) AS named"
        }
    };
    let mut present = Vec::new();
    for table in schema::tables().chain([MIGRATIONS]) {
        let answer: String = within(sqlx::query_scalar(sql).bind(table).fetch_one(&mut *connection)).await?;
        match answer.as_str() {
            "there" => present.push(table),
            "missing" => {}
            _ => return wrong(format!("its user may not read and write the table `{table}`; make it the owner of the tables")),
        }
    }
    Ok(present)
}

/// The steps that were made, as the database tells.
async fn applied(present: &[&str], connection: &mut AnyConnection) -> Result<Vec<AppliedMigration>, StoreError> {
    if !present.contains(&MIGRATIONS) {
        return Ok(Vec::new());
    }
    let asked = async {
        let halfway = connection.dirty_version(MIGRATIONS).await?;
        Ok::<_, MigrateError>((halfway, connection.list_applied_migrations(MIGRATIONS).await?))
    };
    let (halfway, applied) =
        timeout(LIMIT, asked).await.map_err(|_| StoreError::Timeout)?.map_err(|_| StoreError::Database(FOREIGN.into()))?;
    match halfway {
        Some(_) => wrong("the making of its tables has ended halfway; name an empty database".to_owned()),
        None => Ok(applied),
    }
}

/// What making the tables would come to.
fn judge(present: &[&str], applied: &[AppliedMigration], wanted: &[Migration]) -> Result<Found, StoreError> {
    let mut found = Found::Tables;
    for migration in wanted {
        let mut tables = schema::tables_of(migration.sql.as_str());
        match applied.iter().find(|applied| applied.version == migration.version) {
            Some(applied) if applied.checksum != migration.checksum => return wrong(FOREIGN.to_owned()),
            Some(_) => {
                if let Some(gone) = tables.find(|table| !present.contains(table)) {
                    return wrong(format!("its table `{gone}` has been removed; restore it, or name an empty database"));
                }
            }
            None => {
                if let Some(taken) = tables.find(|table| present.contains(table)) {
                    return wrong(format!("it has a table `{taken}` that is not the delivery log's; name a database of its own"));
                }
                found = Found::NoTables;
            }
        }
    }
    Ok(found)
}
