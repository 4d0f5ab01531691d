//! What stands nowhere in the tree?

use std::fs;
use std::path::{Path, PathBuf};

/// All files, but what is built, fetched or git's own.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_symlink() || ["target", "dist", ".git"].contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Envoy lets requests past a filter that failed where a configuration says so.
#[test]
fn no_configuration_lets_requests_past_a_guard_that_failed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    files(root, &mut all);
    assert!(all.contains(&root.join("envoy/http.yaml")));
    // In parts, so that this file does not hold them.
    let forbidden = [["FAIL", "OPEN"].join("_"), ["fail", "open: true"].join("_")];
    for path in all {
        let octets = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&octets);
        for words in &forbidden {
            assert!(!text.contains(words), "{}: {words}", path.display());
        }
    }
}
