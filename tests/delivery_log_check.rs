//! What `callbackd check --online` says of the delivery log's database, and that it changes nothing there.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod scene;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use callbackd::config::{self, DeliveryLog};
use callbackd::store::{Found, Writer, check};
use callbackd::telemetry::Telemetry;
use scene::{Scene, endpoint, integrator};
use support::{Database, Receiver, eventually, with_both};

with_both!(
    a_log_that_is_not_there_yet_is_fine_and_is_not_made,
    the_tables_of_a_worker_are_found_while_it_runs_and_after_it,
    tables_of_an_older_version_are_for_a_worker_to_complete,
    a_table_of_somebody_else_is_no_delivery_log,
    a_table_that_was_removed_is_missed,
    steps_of_another_program_are_refused,
);

fn configured(database: &Database) -> config::Database {
    if database.is_file() { config::Database::Sqlite(database.file()) } else { config::Database::Postgres(database.url().into()) }
}

/// A worker's writer that has made its tables.
async fn writer(database: &Database) -> Writer {
    let log = DeliveryLog { database: Some(configured(database)), ..DeliveryLog::off() };
    let (_, writer) = Writer::start(&log, "worker".to_owned(), &Telemetry::default()).unwrap().unwrap();
    eventually("there are tables", Duration::from_secs(20), async || matches!(check(&configured(database)).await, Ok(Found::Tables))).await;
    writer
}

/// All that is in the place of a log: files with their bytes and times, or relations.
async fn place(database: &Database) -> Vec<String> {
    if database.is_file() {
        return files(database.file().parent().unwrap());
    }
    let relations = database.numbers("SELECT oid::bigint FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY oid").await;
    relations.iter().map(i64::to_string).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let changed = path.metadata().unwrap().modified().unwrap();
        format!("{} {changed:?} {:?}", path.display(), fs::read(&path).unwrap())
    });
    let mut all: Vec<String> = entries.collect();
    all.sort();
    all.push(format!("{:?}", folder.metadata().unwrap().modified().unwrap()));
    all
}

async fn closed(database: &Database) {
    let is_closed = async || !database.is_file() || !database.file().with_extension("db-wal").exists();
    eventually("the file is closed", Duration::from_secs(20), is_closed).await;
}

/// What is wrong with a log that nobody has open.
async fn fault(database: &Database) -> String {
    closed(database).await;
    let before = place(database).await;
    let fault = check(&configured(database)).await.unwrap_err().to_string();
    assert!(place(database).await == before, "something has changed");
    fault
}

async fn a_log_that_is_not_there_yet_is_fine_and_is_not_made(database: Database) {
    let before = place(&database).await;
    let missing = if database.is_file() { Found::NoFile } else { Found::NoTables };
    assert_eq!(check(&configured(&database)).await.unwrap(), missing);
    assert!(place(&database).await == before, "something was made");
}

async fn the_tables_of_a_worker_are_found_while_it_runs_and_after_it(database: Database) {
    let writer = writer(&database).await;
    assert_eq!(check(&configured(&database)).await.unwrap(), Found::Tables);
    writer.stop().await;
    closed(&database).await;
    let before = place(&database).await;
    assert_eq!(check(&configured(&database)).await.unwrap(), Found::Tables);
    assert!(place(&database).await == before, "something has changed");
}

async fn tables_of_an_older_version_are_for_a_worker_to_complete(database: Database) {
    writer(&database).await.stop().await;
    database.run("DROP TABLE hold; DELETE FROM _sqlx_migrations WHERE version = 4").await;
    assert_eq!(check(&configured(&database)).await.unwrap(), Found::NoTables);
    writer(&database).await.stop().await;
    // Of a newer one, which has made more, it is as good.
    database.run("CREATE TABLE more (a BIGINT)").await;
    database.run("INSERT INTO _sqlx_migrations SELECT 99, description, installed_on, success, checksum, 0 FROM _sqlx_migrations WHERE version = 4").await;
    assert_eq!(check(&configured(&database)).await.unwrap(), Found::Tables);
}

async fn a_table_of_somebody_else_is_no_delivery_log(database: Database) {
    if database.is_file() {
        fs::write(database.file(), "").unwrap();
        fs::set_permissions(database.file(), fs::Permissions::from_mode(0o600)).unwrap();
    }
    database.run("CREATE TABLE payload (a BIGINT)").await;
    let fault = fault(&database).await;
    assert!(fault.contains("a table `payload` that is not the delivery log's; name a database of its own"), "{fault}");
}

async fn a_table_that_was_removed_is_missed(database: Database) {
    writer(&database).await.stop().await;
    database.run("DROP TABLE job").await;
    let fault = fault(&database).await;
    assert!(fault.contains("its table `job` has been removed"), "{fault}");
}

async fn steps_of_another_program_are_refused(database: Database) {
    writer(&database).await.stop().await;
    let other = "(SELECT checksum FROM _sqlx_migrations WHERE version = 1)";
    database.run(&format!("UPDATE _sqlx_migrations SET checksum = {other} WHERE version = 2")).await;
    let told = fault(&database).await;
    assert!(told.contains("another program or version"), "{told}");
    database.run("UPDATE _sqlx_migrations SET success = FALSE WHERE version = 2").await;
    let told = fault(&database).await;
    assert!(told.contains("ended halfway"), "{told}");
}

#[tokio::test]
async fn a_file_that_cannot_be_a_log_is_said_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("text"), "x".repeat(4096)).unwrap();
    fs::set_permissions(path("text"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path("open"), "").unwrap();
    fs::set_permissions(path("open"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(path("folder")).unwrap();
    let before = files(&path("folder"));
    for (name, words) in [
        ("missing/log.db", "missing is not there (No such file or directory (os error 2)); make it"),
        ("text/log.db", "text is no folder"),
        ("text", "is not a database"),
        ("open", "the file is open to others (mode 644); chmod 600 it"),
        ("folder", "the file cannot be opened to write"),
    ] {
        let fault = check(&config::Database::Sqlite(path(name))).await.unwrap_err().to_string();
        assert!(fault.contains(words), "{name}: {fault}");
    }
    assert!(files(&path("folder")) == before);
    assert!(!path("missing").exists());
}

/// A user of its own on the server of a database.
async fn user(database: &Database, rights: &str) -> (String, config::Database) {
    let name = format!("user_{}_{:08x}", std::process::id(), fastrand::u32(..));
    database.run(&format!("CREATE ROLE {name} LOGIN; {}", rights.replace("{user}", &name))).await;
    let url = database.url().replace("callbackd@", &format!("{name}:PASSWORD@"));
    (name, config::Database::Postgres(url.into()))
}

async fn without(database: &Database, user: &str) {
    database.run(&format!("DROP OWNED BY {user}; DROP ROLE {user}")).await;
}

#[tokio::test]
async fn a_user_of_a_server_needs_the_rights_of_a_worker() {
    let database = Database::postgres().await;
    writer(&database).await.stop().await;
    let all = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user};";
    let make = "GRANT CREATE ON SCHEMA public TO {user};";
    for (rights, words) in [
        ("REVOKE CREATE ON SCHEMA public FROM PUBLIC;".to_owned() + all, Some("GRANT CREATE on its schema")),
        (make.to_owned() + all + "REVOKE DELETE ON finder FROM {user}", Some("may not read and write the table `finder`")),
        (make.to_owned() + all + "ALTER ROLE {user} SET default_transaction_read_only = on", Some("it can only be read")),
        (make.to_owned() + all, None),
    ] {
        let (name, database_of_user) = user(&database, &rights).await;
        let came_to = check(&database_of_user).await.map_err(|error| error.to_string());
        without(&database, &name).await;
        match words {
            Some(words) => assert!(came_to.as_ref().is_err_and(|fault| fault.contains(words)), "{rights}: {came_to:?}"),
            None => assert_eq!(came_to, Ok(Found::Tables), "{rights}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_without_its_password() {
    let port = support::free_port();
    for url in [format!("postgres://ops:PASSWORD@127.0.0.1:{port}/log"), Database::postgres().await.url().replace("/test_", "/no_test_")] {
        let fault = check(&config::Database::Postgres(url.clone().into())).await.unwrap_err().to_string();
        assert!(!fault.is_empty() && !fault.contains("PASSWORD"), "{fault}");
    }
}

#[tokio::test]
async fn the_command_names_the_key_and_the_remedy() {
    let receiver = Receiver::start();
    let scene = Scene::start(&integrator("acme", &[endpoint("main", &receiver.url("/main"), "")])).await;
    let folder = tempfile::tempdir().unwrap();
    let asked = |variable: &str, value: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
        command.args(["check", "--online", "--config"]).arg(scene.worker.folder().join("callbackd.toml"));
        let output = command.env(variable, value).env_remove("RUST_LOG").output().expect("the program");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let database = "CALLBACKD__DELIVERY_LOG__DATABASE";
    let file = format!("sqlite:{}/log.db", folder.path().display());
    let (status, out, err) = asked(database, &file);
    assert!(out.contains(&format!("ok: delivery log {file}: it does not exist yet; the first worker makes it")), "{out}{err}");
    assert_eq!(status, Some(0), "{out}{err}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let (status, out, err) = asked(database, "postgres://ops:PASSWORD@127.0.0.1:1/log");
    assert_eq!(status, Some(1), "{out}{err}");
    assert!(err.contains("delivery_log.database: postgres://127.0.0.1:1/log: ") && err.contains("delivery_log.enabled = false"), "{err}");
    assert!(out.contains("acme/main") && !format!("{out}{err}").contains("PASSWORD"), "{out}{err}");
    let (_, out, _) = asked("CALLBACKD__DELIVERY_LOG__ENABLED", "false");
    assert!(out.contains("ok: no delivery log"), "{out}");
}
