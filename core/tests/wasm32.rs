//! The tests of core run on wasm32 too. A test module that forgets to say so is passed over there
//! without a word; here it is found.
#![cfg(not(target_arch = "wasm32"))]

use std::fs;
use std::path::Path;

const SAYS_SO: &str =
    "#[cfg(target_arch = \"wasm32\")]\nuse wasm_bindgen_test::wasm_bindgen_test as test;\n";

/// The source without its property tests, which are native.
fn without_property_tests(source: &str) -> String {
    let mut kept = String::new();
    let mut ending: Option<String> = None;
    for line in source.lines() {
        match &ending {
            Some(end) if line == end => ending = None,
            Some(_) => {}
            None if line.trim_start() == "proptest! {" => {
                ending = Some(line.replace("proptest! {", "}"));
            }
            None => {
                kept.push_str(line.trim_start());
                kept.push('\n');
            }
        }
    }
    kept
}

fn forgets(source: &str) -> bool {
    let source = without_property_tests(source);
    source.contains("\n#[test]\n") && !source.contains(SAYS_SO)
}

fn look(folder: &Path, seen: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, seen);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && forgets(&fs::read_to_string(&path).unwrap())
        {
            seen.push(path.display().to_string());
        }
    }
}

#[test]
fn every_module_with_tests_runs_them_on_wasm32_too() {
    let mut seen = Vec::new();
    look(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut seen,
    );
    assert!(seen.is_empty(), "these say nothing of wasm32: {seen:#?}");
}

#[test]
fn a_module_that_forgets_is_found() {
    let test = "mod tests {\n    #[test]\n    fn a() {}\n}\n";
    assert!(forgets(test));
    assert!(!forgets(&format!("{SAYS_SO}{test}")));
    let native = "mod model {\n    proptest! {\n        #[test]\n        fn a() {}\n    }\n}\n";
    assert!(!forgets(native));
    assert!(forgets(&format!("{native}{test}")), "the rest counts");
}
