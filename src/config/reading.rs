//! One file being read: where its texts come from and what is wrong with it so far.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use toml::Table;

use super::environment::{Environment, Overrides};
use super::problems::{Found, Problems};
#[cfg(test)]
use super::schema::{Asked, Mark, Shape};
use super::secret::Places;

/// The state while a file becomes valid types. Sections borrow it and report to it.
#[derive(Debug)]
pub(super) struct Reading<'e> {
    file: PathBuf,
    environment: &'e Environment,
    overrides: Overrides,
    places: Places<'e>,
    problems: RefCell<Found>,
    /// Every key that was asked for: what the example files must show and the schemas describe.
    #[cfg(test)]
    asked: RefCell<Asked>,
}

impl<'e> Reading<'e> {
    /// Reads a file that no variable overrides.
    pub(super) fn of(file: &Path, environment: &'e Environment) -> Self {
        Self {
            file: file.to_owned(),
            environment,
            overrides: Overrides::default(),
            places: Places::Any,
            problems: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    /// Reads a file whose secrets come only from where `integrators.toml` may take them: see [`Places::Integrators`].
    pub(super) fn of_integrators(file: &Path, secrets_dir: Option<&'e Path>, environment: &'e Environment) -> Self {
        Self { places: Places::Integrators { folder: secrets_dir }, ..Self::of(file, environment) }
    }

    /// Reads a file whose table the environment overrides; changes the table.
    pub(super) fn overridden(file: &Path, table: &mut Table, environment: &'e Environment) -> Self {
        let (overrides, problems) = Overrides::apply(table, environment);
        let reading = Self { overrides, ..Self::of(file, environment) };
        for problem in problems {
            reading.problems.borrow_mut().note(|| problem);
        }
        reading
    }

    /// Where `{ env = "NAME" }` looks.
    pub(super) const fn environment(&self) -> &'e Environment {
        self.environment
    }

    /// Where the secrets of this file may come from.
    pub(super) const fn places(&self) -> Places<'e> {
        self.places
    }

    /// A path written in this file, as seen from the process.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }

    /// Whether a variable set this very value, which is then a text of whatever kind.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.overrides.is_set(path)
    }

    /// Notes what is wrong with a value.
    pub(super) fn problem(&self, path: &str, what: &str) {
        self.note(self.overrides.origin(path), path, what);
    }

    /// Notes that a key should not be there.
    pub(super) fn unknown(&self, path: &str, what: &str) {
        self.note(self.overrides.maker(path), path, what);
    }

    /// How many problems have been noted so far.
    pub(super) fn problem_count(&self) -> usize {
        self.problems.borrow().count()
    }

    /// The result, if nothing was wrong.
    ///
    /// # Errors
    /// Everything that was wrong.
    pub(super) fn finish<T>(self, result: Option<T>) -> Result<T, Problems> {
        match (result, self.problems.into_inner().finish(self.file.display())) {
            (Some(result), None) => Ok(result),
            // Cannot be: whatever is not read has a problem. Said nevertheless, because silence would be worse.
            (None, None) => Err(Problems::one(format!("{}: is incomplete", self.file.display()))),
            (_, Some(problems)) => Err(problems),
        }
    }

    fn note(&self, variable: Option<&str>, path: &str, what: &str) {
        self.problems.borrow_mut().note(|| {
            let from = variable.map_or_else(|| self.file.display().to_string(), str::to_owned);
            format!("{from}: {path}: {what}")
        });
    }

    #[cfg(test)]
    pub(super) fn ask(&self, path: &str, shape: Shape) {
        self.asked.borrow_mut().note(path, shape);
    }

    #[cfg(test)]
    pub(super) fn mark(&self, path: &str, mark: Mark) {
        self.asked.borrow_mut().mark(path, mark);
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> Asked {
        self.asked.borrow().clone()
    }
}
