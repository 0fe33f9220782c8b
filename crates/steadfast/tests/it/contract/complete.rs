//! Holds the list of validations against the framework's sources: a new one that is not wired fails here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a tool of the toolchain prints.
fn output_of(tool: &str, arguments: &[&str]) -> String {
    // Cargo names itself to the tests that it runs.
    let program = std::env::var_os(tool.to_uppercase()).unwrap_or_else(|| tool.into());
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("run {tool}: {error}"));
    assert!(
        output.status.success(),
        "{tool}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the toolchain prints UTF-8")
}

/// Where cargo keeps the sources of the `duroxide` that this binary is built with.
fn framework_sources() -> PathBuf {
    // Without a platform, cargo wants the packages of all platforms, which are not here and are not needed.
    let version = output_of("rustc", &["-vV"]);
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let metadata = output_of(
        "cargo",
        &[
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--filter-platform",
            host,
            "--manifest-path",
            manifest,
        ],
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo metadata prints JSON");
    let manifests: Vec<&str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter(|package| package["name"] == "duroxide")
        .filter_map(|package| package["manifest_path"].as_str())
        .collect();
    assert_eq!(manifests.len(), 1, "exactly one duroxide: {manifests:?}");
    Path::new(manifests[0])
        .parent()
        .expect("a manifest lies in a directory")
        .join("src")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The source without its line comments.
fn without_comments(source: &str) -> String {
    source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The public asynchronous functions of a source file.
fn functions(source: &str) -> impl Iterator<Item = String> {
    without_comments(source)
        .split("pub async fn ")
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .collect::<Vec<_>>()
        .into_iter()
}

/// `theme::name` of each function that `provider_validations.rs` exports, alone or with its whole module.
fn exported(sources: &Path) -> BTreeSet<String> {
    let text = without_comments(&read(&sources.join("provider_validations.rs")));
    let mut names = BTreeSet::new();
    for export in text.split("pub use crate::provider_validation::").skip(1) {
        let export = export.split(';').next().unwrap_or_default();
        match export.split_once("::") {
            Some((theme, list)) => {
                let list = list.trim().trim_start_matches('{').trim_end_matches('}');
                names.extend(
                    list.split(',')
                        .map(str::trim)
                        .filter(|name| !name.is_empty())
                        .map(|name| format!("{theme}::{name}")),
                );
            }
            None if export.starts_with(char::is_lowercase) => {
                let file = sources.join("provider_validation").join(format!("{export}.rs"));
                names.extend(functions(&read(&file)).map(|name| format!("{export}::{name}")));
            }
            // A type, such as the factory's trait.
            None => {}
        }
    }
    names
}

/// `theme::name` of each function that exists, exported or not.
fn existing(sources: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(sources.join("provider_validation")).expect("list the validations") {
        let path = entry.expect("a directory entry").path();
        let theme = path.file_stem().expect("a file name").to_string_lossy().into_owned();
        names.extend(functions(&read(&path)).map(|name| format!("{theme}::{name}")));
    }
    names
}

fn wired() -> BTreeSet<String> {
    super::WIRED.iter().map(ToString::to_string).collect()
}

#[test]
fn every_exported_validation_is_wired() {
    let exported = exported(&framework_sources());
    assert!(exported.len() >= 233, "the exports could not be parsed: {exported:#?}");
    let wired = wired();
    let missing: Vec<_> = exported.difference(&wired).collect();
    let gone: Vec<_> = wired.difference(&exported).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not wired: {missing:#?}\nwired, but not exported: {gone:#?}"
    );
}

#[test]
fn every_validation_is_exported() {
    let sources = framework_sources();
    let exported = exported(&sources);
    let hidden: Vec<_> = existing(&sources)
        .into_iter()
        .filter(|name| !exported.contains(name))
        .collect();
    assert!(
        hidden.is_empty(),
        "validations that cannot be called from outside: {hidden:#?}"
    );
}
