//! Whose are the files of a registry that runs as a user of its own, and what of root's does it meet?

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use common::{Desk, NOBODY, SERVE, Served, is_root, mode, ran};

/// A directory of nobody's, where a registry has been that nobody runs.
fn desk() -> Desk {
    let desk = Desk::with_ca(&[]);
    desk.give_to_nobody();
    Served::of(desk.as_nobody(&SERVE)).kill();
    desk
}

fn owner(path: &Path) -> (u32, u32) {
    let file = fs::metadata(path).unwrap();
    (file.uid(), file.gid())
}

fn give(path: &Path, user: u32, mode: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_root_replaces_is_read_by_whom_it_belongs_to() {
    if !is_root("what_root_replaces_is_read_by_whom_it_belongs_to") {
        return;
    }
    let desk = desk();
    // A CA that is as old as a new one would be is not renewed.
    std::thread::sleep(Duration::from_millis(1_100));
    let renew = [
        "ca",
        "issue",
        "data/server",
        "--ca",
        "data/infra-ca",
        "--renew",
    ];
    for args in [&["ca", "renew", "data/infra-ca"][..], &renew] {
        let ran = desk.run(args).ended_with(0);
        assert_eq!(ran.err, "");
    }
    for name in [
        "infra-ca/cert.pem",
        "server/cert.pem",
        "server/key.pem",
        "server/ca.pem",
    ] {
        let path = desk.path(&format!("data/{name}"));
        assert_eq!(owner(&path), (NOBODY, NOBODY), "{name}");
        assert_eq!(mode(&path), 0o600, "{name}");
    }
    let registry = Served::of(desk.as_nobody(&SERVE));
    desk.write("fleet.ndjson", "old");
    give(&desk.path("fleet.ndjson"), NOBODY, 0o644);
    let base = registry.base();
    let export = ["export", "--output", "fleet.ndjson", "--registry", &base];
    let credentials = ["--credentials", "data/operator"];
    desk.run(&[&export[..], &credentials].concat())
        .ended_with(0);
    assert_eq!(owner(&desk.path("fleet.ndjson")), (NOBODY, NOBODY));
    registry.kill();

    // Another than root cannot give files away, and says so.
    give(&desk.path("data/server/cert.pem"), 0, 0o644);
    let ran = ran(desk.as_nobody(&renew), "").ended_with(0);
    assert!(
        ran.err.contains("chown 0:0 data/server/cert.pem"),
        "{}",
        ran.err
    );
    assert!(!ran.err.contains("key.pem"), "{}", ran.err);
    assert_eq!(owner(&desk.path("data/server/cert.pem")), (NOBODY, NOBODY));
}

#[test]
fn a_database_that_may_not_be_written_ends_a_start_with_2() {
    if !is_root("a_database_that_may_not_be_written_ends_a_start_with_2") {
        return;
    }
    let desk = desk();
    let database = desk.path("data/registry.sqlite");
    let start = |desk: &Desk| ran(desk.as_nobody(&SERVE), "");
    for (user, mode) in [(0, 0o600), (0, 0o644), (NOBODY, 0o400)] {
        give(&database, user, mode);
        let ran = start(&desk).ended_with(2);
        assert!(ran.err.contains("chown"), "{}", ran.err);
        assert!(ran.err.contains("data/registry.sqlite"), "{}", ran.err);
    }
    // Its log cannot be made.
    give(&database, NOBODY, 0o600);
    for beside in ["-wal", "-shm"] {
        let _ = fs::remove_file(desk.path(&format!("data/registry.sqlite{beside}")));
    }
    give(&desk.path("data"), 0, 0o755);
    let ran = start(&desk).ended_with(2);
    assert!(ran.err.contains("chown"), "{}", ran.err);

    give(&desk.path("data"), NOBODY, 0o700);
    give(&database, NOBODY, 0o644);
    let registry = Served::of(desk.as_nobody(&SERVE));
    let warnings = registry.told["warnings"].to_string();
    assert!(
        warnings.contains("data/registry.sqlite can be read by others"),
        "{warnings}"
    );
}

#[test]
fn who_may_not_is_told_who_may() {
    if !is_root("who_may_not_is_told_who_may") {
        return;
    }
    let desk = desk();
    let registry = Served::start(&desk);
    fs::create_dir(desk.path("roots")).unwrap();
    give(&desk.path("roots"), 0, 0o755);
    give(&desk.path("data/registry.lock"), 0, 0o600);
    for (args, said, next) in [
        (
            &["stop", "--data-dir", "data"][..],
            "cannot look at the lock",
            "run it as the user that the registry runs as, or as root",
        ),
        (
            &["backup", "--data-dir", "data", "roots/copy"],
            "cannot write roots/copy: permission denied",
            "a directory that this user may write to",
        ),
        (
            &["backup", "--data-dir", "data", "nowhere/copy"],
            "cannot write nowhere/copy",
            "make the directory first",
        ),
    ] {
        let ran = ran(desk.as_nobody(args), "").ended_with(1);
        for told in [said, next] {
            assert!(ran.err.contains(told), "{told} in {}", ran.err);
        }
        assert!(!ran.err.contains("half-written"), "{}", ran.err);
    }
    registry.kill();
}

#[test]
fn what_root_makes_anew_in_anothers_directory_is_told_to_be_roots() {
    if !is_root("what_root_makes_anew_in_anothers_directory_is_told_to_be_roots") {
        return;
    }
    let desk = desk();
    let issue = ["ca", "issue", "data/other", "--ca", "data/infra-ca"];
    for (args, dir) in [
        (
            &[&issue[..], &["--operator", "ops"]].concat()[..],
            "data/other",
        ),
        (&["ca", "init", "data/ca", "--namespace", "acme"], "data/ca"),
    ] {
        let told = format!("chown -R {NOBODY}:{NOBODY} {dir}");
        let ran = desk.run(args).ended_with(0);
        assert!(ran.err.contains(&told), "{}", ran.err);
    }
    // Its own user's, and root's in root's.
    let issue = [
        "ca",
        "issue",
        "data/third",
        "--ca",
        "data/infra-ca",
        "--edge",
        "e",
    ];
    let own = ran(desk.as_nobody(&issue), "").ended_with(0);
    give(&desk.path(""), 0, 0o755);
    let roots = ["ca", "init", "roots", "--namespace", "acme"];
    for ran in [own, desk.run(&roots).ended_with(0)] {
        assert!(!ran.err.contains("chown"), "{}", ran.err);
    }
}
