//! Where the configuration file is.

use std::path::{Path, PathBuf};

use super::problems::Problems;

/// Where it is looked for when the command line does not say.
const PLACES: [&str; 2] = ["callbackd.toml", "/etc/callbackd/callbackd.toml"];

/// The configuration file: the one that is asked for, else the first that is there of `callbackd.toml` in the current
/// folder and `/etc/callbackd/callbackd.toml`.
///
/// # Errors
/// There is none.
pub fn locate(asked_for: Option<PathBuf>) -> Result<PathBuf, Problems> {
    let found = asked_for.or_else(|| first_of(&PLACES));
    found.ok_or_else(|| Problems::one(format!("there is no {}; name the file with --config", PLACES.join(" and no "))))
}

fn first_of(places: &[&str]) -> Option<PathBuf> {
    // A file that exists but cannot be read is the one that is meant, and then a problem of its own.
    places.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_asked_for_comes_first_and_the_first_that_exists_next() {
        assert_eq!(locate(Some("x/y.toml".into())), Ok(PathBuf::from("x/y.toml")));
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        let places = [first.to_str().unwrap(), second.to_str().unwrap()];
        assert_eq!(first_of(&places), None);
        std::fs::write(&second, "").unwrap();
        assert_eq!(first_of(&places).as_ref(), Some(&second));
        std::fs::write(&first, "").unwrap();
        assert_eq!(first_of(&places).as_ref(), Some(&first));
    }
}
