//! The documentation of the settings, against the table that it is made from.

use std::path::Path;

use walden::config::options::TABLE;
use walden::config::reference;
use walden::config::row::Role;
use walden::config::sources::{Environment, Flags, load};

#[test]
fn the_documentation_of_settings_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let current = reference::markdown();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == current, "{} is out of date: run BLESS=1 cargo test --test config", path.display());
}

#[test]
fn the_example_of_a_configuration_file_can_be_used_with_every_line_uncommented() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("walden.toml");
    let lines = reference::example()
        .lines()
        .map(|line| {
            let is_setting = line.starts_with('#') && !line.starts_with("# ");
            format!("{}\n", if is_setting { &line[1..] } else { line })
        })
        .collect::<String>();
    std::fs::write(&path, lines).unwrap();
    let flags = Flags::from([("config", vec![path.to_str().unwrap().to_owned()])]);
    let settings = load(flags, &Environment::default()).unwrap();
    for row in TABLE.iter().filter(|row| row.role == Role::Setting) {
        assert_eq!(settings.text(row), row.default.or(row.example), "{}", row.name);
    }
}
