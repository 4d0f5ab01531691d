//! The command line as an interface: help, documents, completions, wrong usage.

mod common;

use common::{Desk, unread};

#[test]
fn docs_commands_md_is_what_the_help_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
    let written = Desk::new().run(&["help-markdown"]).ended_with(0).out;
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == written,
        "docs/commands.md is stale; renew it with: cargo run -p medbind-cli -- help-markdown > docs/commands.md"
    );
}

#[test]
fn every_command_has_examples_in_its_help() {
    let desk = Desk::new();
    let document = desk.run(&["help-markdown"]).ended_with(0).out;
    for section in document.split("\n## ").skip(1) {
        let name = section.lines().next().unwrap();
        if ["medbind", "medbind ca", "medbind edge"].contains(&name) {
            continue;
        }
        assert!(section.contains("Examples:\n"), "{name}");
        assert!(section.contains(&format!("  {name}")), "{name}");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_help_with_0() {
    let desk = Desk::new();
    desk.run(&["--help"]).ended_with(0);
    desk.run(&["--version"]).ended_with(0);
    for args in [
        &[][..],
        &["nothing"],
        &["show"],
        &["show", "SN1"],
        &["claim", "--account", "a", "--code", "K7Q2"],
    ] {
        desk.run(args).ended_with(2);
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.run(&["completions", shell]).ended_with(0).out;
        assert!(
            script.contains("medbind") && script.contains("provision"),
            "{shell}"
        );
    }
}

#[test]
fn an_error_says_what_and_what_next_in_words_and_in_json() {
    let mut desk = Desk::new();
    let ran = desk.run(&["list"]).ended_with(2);
    assert!(
        ran.err.contains("error: no credentials") && ran.err.contains("next: "),
        "{}",
        ran.err
    );
    let ran = desk.run(&["list", "--json"]).ended_with(2);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert!(error["next"].as_str().unwrap().contains("--credentials"));
    // Nor is one of the command line itself an exception.
    for (args, what) in [
        (&["list", "--json", "--limit", "x"][..], "'x' for '--limit"),
        (&["--json", "nothing"], "'nothing'"),
        (&["--json"], "requires a subcommand"),
        (&["--json", "ca"], "no command"),
        (&["show", "--json"], "required arguments were not provided"),
    ] {
        let ran = desk.run(args).ended_with(2);
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        let said = error["error"].as_str().unwrap();
        assert!(said.contains(what), "{said}");
        assert!(!said.starts_with("error") && !said.contains('\n'), "{said}");
        assert!(!error["next"].as_str().unwrap().is_empty());
    }
    let help = desk.run(&["--help"]).ended_with(0).out;
    for name in error.as_object().unwrap().keys() {
        assert!(help.contains(&format!("\n  {name} ")), "{name} in {help}");
    }
    desk.set("MEDBIND_CREDENTIALS", "nowhere");
    assert!(
        desk.run(&["list"])
            .ended_with(2)
            .err
            .contains("nowhere/cert.pem")
    );
    for registry in [
        "http://registry",
        "registry:8443",
        "https://registry/v1",
        "https://",
    ] {
        let ran = desk.run(&["list", "--registry", registry]).ended_with(2);
        assert!(ran.err.contains("https://"), "{}", ran.err);
    }
}

#[test]
fn a_command_that_fails_keeps_its_status_where_nothing_can_be_said() {
    let desk = Desk::new();
    for args in [&["check", "nope"][..], &["list", "--json"]] {
        let full = std::fs::File::create("/dev/full").unwrap();
        for stderr in [unread(), full.into()] {
            let ended = desk.command(args).stderr(stderr).status().unwrap();
            assert_eq!(ended.code(), Some(2), "{args:?}");
        }
    }
}

/// The commands in a text of ours: what stands behind `medbind` in code, word by word.
fn commands_of(text: &str, whole_lines: bool) -> Vec<Vec<String>> {
    let mut code = Vec::new();
    let mut inside = false;
    for line in text.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            inside = !inside && whole_lines;
        } else if inside {
            code.extend(line.split([';', '|', '&', '$', '(']).map(str::to_owned));
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    let words = |code: &String| {
        let code = code.split("  # ").next().unwrap_or_default();
        let rest = code.trim().strip_prefix("medbind ")?;
        let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
        // A line of the module's log begins with `medbind deny:`; `help` is clap's own.
        let first = words.first()?;
        let is_command = first.bytes().all(|octet| octet.is_ascii_lowercase());
        (is_command && first != "help").then_some(words)
    };
    code.iter().filter_map(words).collect()
}

#[test]
fn what_documents_and_messages_tell_to_run_exists() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let help = Desk::new().run(&["help-markdown"]).ended_with(0).out;
    let sections: Vec<(&str, &str)> = help
        .split("\n## medbind ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap())
        .collect();
    let mut files = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for folder in ["docs", "cli/src", "registry/src", "envoy"] {
        let there = std::fs::read_dir(root.join(folder)).unwrap();
        files.extend(there.map(|entry| entry.unwrap().path()));
    }
    let mut found = 0;
    for file in files.iter().filter(|file| file.is_file()) {
        let text = std::fs::read_to_string(file).unwrap();
        let is_document = file.extension().is_some_and(|name| name == "md");
        for words in commands_of(&text, is_document) {
            let two = words.get(1).map(|second| format!("{} {second}", words[0]));
            let section = sections
                .iter()
                .find(|(name, _)| Some(*name) == two.as_deref())
                .or_else(|| sections.iter().find(|(name, _)| *name == words[0]));
            let (_, help) =
                section.unwrap_or_else(|| panic!("{}: no command {words:?}", file.display()));
            for word in words.iter().filter(|word| word.starts_with("--")) {
                let option = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
                let option = option.split('=').next().unwrap();
                assert!(
                    help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
                    "{}: no option {option} in {words:?}",
                    file.display()
                );
            }
            found += 1;
        }
    }
    assert!(found > 80, "{found} commands were found");
}
